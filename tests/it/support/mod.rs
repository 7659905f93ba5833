//! What tests share: a database each, a simulator, a registry, and one place that waits.

pub(crate) mod db;
pub(crate) mod eventually;
pub(crate) mod world;
