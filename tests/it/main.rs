//! The suite: real Postgres and RabbitMQ, the project's simulator as the only provider.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by panicking")]

mod api;
mod architecture;
mod audiences;
mod broker;
mod campaigns;
mod contracts;
mod dispatch;
mod duty;
mod events;
mod forecast;
#[cfg(target_os = "linux")]
mod frozen;
mod holds;
mod imports;
mod intake;
mod journey;
mod leases;
mod lists;
mod operators;
mod plans;
mod reader;
mod registry;
mod resolve;
mod served;
mod support;
mod suppressions;
mod uncertain;
mod upkeep;
mod windows;
