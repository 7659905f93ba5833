//! The sign of life: given when a process starts and every few seconds by upkeep.
//!
//! It tells of a database that went back in time (a failover that lost commits, a backup) or of an installation that was
//! silent for long. Then nothing is sent until a person has looked: what was called meanwhile is not in the rows.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    settings::Settings,
    store::{Session, Store, StoreError, alive, chain},
};

/// How often it is given.
const EVERY: Duration = Duration::from_secs(5);
/// After one that failed: the database may be another one when it is back.
const AGAIN: Duration = Duration::from_millis(250);

/// Gives signs of life.
#[derive(Debug)]
pub struct Heart {
    session: Session,
    gap: Duration,
}

impl Heart {
    /// One with a connection of its own.
    pub fn new(store: &Store, settings: &Settings) -> Self {
        Self { session: Session::new(store.clone(), "alive"), gap: Duration::from_secs(settings.upkeep.gap_s) }
    }

    /// One sign of life; says whether everything is held because of the last one. To be waited for before anything is
    /// sent.
    pub async fn beat(&mut self) -> Result<bool, StoreError> {
        let connection = self.session.connection().await?;
        let Some((alarm, last_alive)) = alive::beat(connection, self.gap).await? else {
            return Ok(false);
        };
        metrics::counter!("holds_opened_total").increment(1);
        tracing::error!(hold.scope = "everything", hold.cause = %alarm, %last_alive,
            "a hold was opened: the database may have gone back in time; `campaign-dispatch holds list` says what to do");
        Ok(true)
    }

    /// Goes on until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let pause = match self.beat().await {
                Ok(_) => EVERY,
                Err(error) => {
                    self.session.reset();
                    tracing::debug!(error = %chain(&error), "could not give a sign of life; trying again");
                    AGAIN
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
