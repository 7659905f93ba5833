//! What the tests share.

pub(crate) mod broker;
pub(crate) mod db;

use std::{future::Future, time::Duration};

/// Fails a test that waits for something that does not come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limited = tokio::time::timeout(Duration::from_secs(30), future).await;
    limited.expect(what)
}
