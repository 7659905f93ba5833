#!/usr/bin/env python3
"""Publishes one job over RabbitMQ and prints the answer. Needs pika: pip install pika (Debian: python3-pika).

AMQP_URL=amqp://user:password@host:5672/%2f publish.py job.json

The same job_id may be published again until it is answered: it is sent once. Exit code 0 when it was accepted.
"""

import json
import os
import sys
import uuid

import pika

ANSWER_WITHIN_S = 30


def main() -> int:
    with open(sys.argv[1], "rb") as file:
        body = file.read()
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    channel.confirm_delivery()
    reply_to = channel.queue_declare(queue="", exclusive=True, auto_delete=True).method.queue
    asked = str(uuid.uuid4())
    # Authentication jobs go by the key jobs.urgent. A publish that no queue takes, or that the broker does not
    # confirm, raises.
    channel.basic_publish(
        exchange="dispatch",
        routing_key="jobs",
        body=body,
        properties=pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            message_id=asked,
            correlation_id=asked,
            reply_to=reply_to,
        ),
        mandatory=True,
    )
    for _, properties, answer in channel.consume(reply_to, auto_ack=True, inactivity_timeout=ANSWER_WITHIN_S):
        if answer is None:
            print("no answer yet: publish the same job again", file=sys.stderr)
            return 1
        if properties.correlation_id == asked:
            answer = json.loads(answer)
            print(json.dumps(answer, ensure_ascii=False, indent=2))
            return 0 if answer["status"] == "accepted" else 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
