//! Who sends and with what: tenants, producers, accounts, numbers and templates; and who may call the API.
//!
//! Callers: [`apply::apply`] makes a file's wishes so, [`shown`] tells what is there without secrets, [`tokens`] makes
//! and checks bearer tokens. Everything here is rare and people-paced: clear answers before speed.

pub mod apply;
pub mod credential;
pub mod file;
pub mod problem;
pub mod shown;
pub mod tokens;

pub use problem::Problem;
