//! Looks for what is due. Any number of processes may: each campaign is taken by one at a time.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::fire::Firing;
pub use super::fire::Ticked;
use crate::{
    fault::{self, Point},
    settings,
    store::{
        Session, Store, StoreError, campaigns, chain,
        session::{commit, forget},
    },
};

/// Fires campaigns by the clock.
#[derive(Debug)]
pub struct Ticker {
    session: Session,
    settings: settings::Campaigns,
    outbox: Arc<Notify>,
}

impl Ticker {
    /// One with a connection of its own; `outbox` is told when jobs are owed.
    pub fn new(store: &Store, settings: settings::Campaigns, outbox: Arc<Notify>) -> Self {
        Self { session: Session::new(store.clone(), "campaigns"), settings, outbox }
    }

    /// Ticks until the process stops.
    pub async fn run(mut self, stop: CancellationToken) {
        let every = Duration::from_millis(self.settings.tick_ms);
        while !stop.is_cancelled() {
            if let Err(error) = self.step().await {
                self.session.reset();
                tracing::warn!(error = %chain(&error), "could not look for campaigns that are due; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    /// Decides everything that is due or waits, a transaction for each campaign.
    pub async fn step(&mut self) -> Result<Ticked, StoreError> {
        let (mut all, mut tried) = (Ticked::default(), Vec::new());
        while let Some((campaign, ticked)) = self.one(&tried).await? {
            tried.push(campaign);
            if ticked.fired > 0 {
                self.outbox.notify_one();
            }
            all += ticked;
        }
        Ok(all)
    }

    async fn one(&mut self, tried: &[i32]) -> Result<Option<(i32, Ticked)>, StoreError> {
        let mut work = self.session.begin().await?;
        let Some(campaign) = campaigns::take_due(&mut work, tried).await? else {
            forget(work).await?;
            return Ok(None);
        };
        let ticked = match Firing::of(&campaign, self.settings.approval_over) {
            Ok(firing) => firing.settle(&mut work).await?,
            // Written by a newer version: one that knows it fires it.
            Err(flaws) => {
                tracing::error!(campaign.key = campaign.key, ?flaws, "a campaign that is due cannot be read");
                Ticked::default()
            }
        };
        if ticked != Ticked::default() {
            fault::pass(Point::FireBefore)?;
        }
        commit(work, "commit the occurrences of a campaign").await?;
        if ticked != Ticked::default() {
            fault::pass(Point::FireAfter)?;
        }
        Ok(Some((campaign.id, ticked)))
    }
}
