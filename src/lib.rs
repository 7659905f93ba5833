//! campaign-dispatch

pub mod domain;
pub mod providers;
