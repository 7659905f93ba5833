//! Sends message campaigns for businesses, at exactly the pace each number allows.

pub mod app;
pub mod broker;
pub mod checklist;
pub mod cli;
pub mod contracts;
pub mod domain;
pub mod http;
pub mod intake;
pub mod providers;
pub mod registry;
pub mod settings;
pub mod simulator;
pub mod store;
pub mod upkeep;
