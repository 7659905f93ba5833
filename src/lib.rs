//! Sends message campaigns for businesses, at exactly the pace each number allows.

pub mod broker;
pub mod domain;
pub mod intake;
pub mod providers;
pub mod settings;
pub mod store;
pub mod upkeep;
