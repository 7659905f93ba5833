#!/usr/bin/env node
// Publishes one job over RabbitMQ and prints the answer. Needs amqplib: npm install amqplib
//
// AMQP_URL=amqp://user:password@host:5672/%2f node publish.mjs job.json
//
// The same job_id may be published again until it is answered: it is sent once. Exit code 0 when it was accepted.
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import amqp from 'amqplib';

const ANSWER_WITHIN_MS = 30_000;

const body = await readFile(process.argv[2]);
const connection = await amqp.connect(process.env.AMQP_URL);
const channel = await connection.createConfirmChannel();
const { queue: replyTo } = await channel.assertQueue('', { exclusive: true, autoDelete: true });
const asked = randomUUID();

const answered = new Promise((resolve, reject) => {
  const late = setTimeout(() => reject(new Error('no answer yet: publish the same job again')), ANSWER_WITHIN_MS);
  channel.on('return', () => reject(new Error('no queue takes it: is campaign-dispatch set up on this broker?')));
  channel.consume(replyTo, (message) => {
    if (message?.properties.correlationId !== asked) return;
    clearTimeout(late);
    resolve(JSON.parse(message.content.toString()));
  }, { noAck: true });
});

// Authentication jobs go by the key jobs.urgent.
channel.publish('dispatch', 'jobs', body, {
  contentType: 'application/json',
  persistent: true,
  mandatory: true,
  messageId: asked,
  correlationId: asked,
  replyTo,
});

try {
  await channel.waitForConfirms();
  const answer = await answered;
  console.log(JSON.stringify(answer, null, 2));
  process.exitCode = answer.status === 'accepted' ? 0 : 1;
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await connection.close();
}
process.exit();
