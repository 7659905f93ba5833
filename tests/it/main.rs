//! Behaviour against a real Postgres and a real `RabbitMQ`: `DATABASE_URL` and `AMQP_URL` say where they are.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod broker;
mod intake;
mod support;
