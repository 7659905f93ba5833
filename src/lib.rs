//! Sends message campaigns for businesses, at exactly the pace each number allows.

pub mod broker;
pub mod callbacks;
pub mod checklist;
pub mod dispatch;
pub mod domain;
pub mod http;
pub mod providers;
pub mod registry;
pub mod settings;
pub mod simulator;
pub mod store;
pub mod upkeep;
