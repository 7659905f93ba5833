#!/bin/sh
# Publishes one job over RabbitMQ with amqp-publish (Debian: amqp-tools) and prints the answer.
#
#   AMQP_URL=amqp://user:password@host:5672/%2f publish.sh job.json
#
# The same job_id may be published again until it is answered: it is sent once. Exit code 0 when it was accepted.
set -eu

job=$1
reply_to=answers.$(cat /proc/sys/kernel/random/uuid)

# amqp-tools cannot publish and listen on one connection, so the queue of answers is one by name; it ends with us.
amqp-declare-queue --url="$AMQP_URL" --queue="$reply_to" >/dev/null
trap 'amqp-delete-queue --url="$AMQP_URL" --queue="$reply_to" >/dev/null' EXIT

# Authentication jobs go by the key jobs.urgent.
amqp-publish --url="$AMQP_URL" --exchange=dispatch --routing-key=jobs --persistent \
  --content-type=application/json --reply-to="$reply_to" <"$job"

answer=$(timeout 30 amqp-consume --url="$AMQP_URL" --queue="$reply_to" --count=1 cat) || {
  echo 'no answer yet: publish the same job again' >&2
  exit 1
}
printf '%s\n' "$answer"
case $answer in
*'"status":"accepted"'*) ;;
*) exit 1 ;;
esac
