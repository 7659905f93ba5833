//! The product over real services.

mod api;
mod contracts;
mod registry;
mod served;
