//! How many messages of each number the provider took, for those who watch.
//!
//! Written beside everything else, on a connection of the pool: a row that somebody else has locked must not keep leases or
//! outcomes waiting.

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::{
    domain::ids::NumberId,
    store::{chain, traffic},
};

/// How often it is written.
const EVERY: Duration = Duration::from_secs(2);

/// What was counted since it was written last.
#[derive(Debug, Default)]
pub(super) struct Traffic(RefCell<traffic::Counts>);

impl Traffic {
    pub(super) fn accepted(&self, number: NumberId) {
        self.0.borrow_mut().add(number);
    }
}

/// Writes the counts until `stop`, and then once more.
pub(super) async fn keep_written(shared: Rc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        let counts = shared.traffic.0.take();
        if !counts.is_empty() {
            let written = async { traffic::accepted(&mut *shared.store.acquire().await?, &counts).await };
            if let Err(error) = written.await {
                tracing::debug!(error = %chain(&error), "could not write how much was sent; trying again");
                shared.traffic.0.borrow_mut().put_back(counts);
            }
        }
        if stop.is_cancelled() {
            return;
        }
    }
}
