//! campaign-dispatch

pub mod domain;
pub mod providers;
pub mod registry;
pub mod simulator;
