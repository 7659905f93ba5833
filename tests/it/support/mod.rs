//! What tests share: a database each, a simulator, a registry, and one place that waits.

pub(crate) mod broker;
pub(crate) mod db;
pub(crate) mod eventually;
pub(crate) mod hours;
pub(crate) mod operator;
pub(crate) mod world;

use std::time::Duration;

/// Fails a test that waits for something that does not come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limited = tokio::time::timeout(Duration::from_secs(30), future).await;
    limited.expect(what)
}
