//! The one place that waits.

use std::time::Duration;

use tokio::time::Instant;

/// Asks again until the answer is there; a test that waits longer than `within` has failed.
pub(crate) async fn eventually<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
