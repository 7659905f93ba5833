//! Who sends and with what: tenants, producers, accounts, numbers and templates.

pub mod credential;
pub mod file;
mod problems;
