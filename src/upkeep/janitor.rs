//! What takes long and is done beside the sweep: tallies are compared with a recount, and what is old is dropped.
//!
//! A tally that differs is told and never mended: it is the sign of a fault that a silent repair would hide.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Nudge;
use crate::{
    domain::ids::BatchId,
    settings::Settings,
    store::{
        Session, Store, StoreError, alarms,
        audit::{self, COMPARED, Difference},
        campaigns::occurrences,
        chain, frozen, retention, rounds,
        work::open,
    },
};

/// How often it looks whether something is due.
const EVERY: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_hours(24);
/// Batches that are looked for in one statement.
const BATCHES: i32 = 500;
/// Messages that are recounted in one statement, unless one batch has more.
const MESSAGES: i64 = 100_000;
/// How often it is tried to drop a month that is in use.
const DROP_TRIES: u32 = 12;
/// Frozen audience groups that are deleted in one statement, with all their refused members.
const COPIES: i64 = 10;
/// Blocks of each partition of the job ids that one statement goes through.
const BLOCKS: i64 = 256;

/// Audits and tidies. Any number may run: each round is taken by one of them.
#[derive(Debug)]
pub struct Janitor {
    session: Session,
    settings: Arc<Settings>,
    nudge: Arc<Nudge>,
    stop: CancellationToken,
}

impl Janitor {
    /// One with a connection of its own; `nudge` makes it do everything at once.
    pub fn new(store: &Store, settings: Arc<Settings>, nudge: Arc<Nudge>, stop: CancellationToken) -> Self {
        Self { session: Session::new(store.clone(), "janitor"), settings, nudge, stop }
    }

    /// Goes on until the process stops.
    pub async fn run(mut self) {
        let mut is_nudged = false;
        while !self.stop.is_cancelled() {
            if let Err(error) = self.step(is_nudged).await {
                self.session.reset();
                tracing::warn!(error = %chain(&error), "could not audit or tidy; trying again");
            }
            is_nudged = tokio::select! {
                () = self.nudge.for_rounds() => true,
                () = self.pause(EVERY) => false,
            };
        }
    }

    /// Does what is due; with `all`, everything is.
    pub async fn step(&mut self, all: bool) -> Result<(), StoreError> {
        let within = |every: Duration| if all { Duration::ZERO } else { every };
        self.audit_completed().await?;
        let every = within(Duration::from_secs(self.settings.upkeep.audit_s));
        if rounds::begin(self.session.connection().await?, "audit", every).await? {
            self.audit_open(false).await?;
            self.audit_again().await?;
        }
        if rounds::begin(self.session.connection().await?, "audit_large", within(DAY)).await? {
            self.audit_open(true).await?;
        }
        if rounds::begin(self.session.connection().await?, "retention", within(DAY)).await? {
            self.tidy().await?;
        }
        Ok(())
    }

    /// Audits the batches that were completed; says which tallies differ.
    pub async fn audit_completed(&mut self) -> Result<Vec<Difference>, StoreError> {
        let mut differences = Vec::new();
        loop {
            let connection = self.session.connection().await?;
            let completed = audit::completed(connection, i64::from(BATCHES)).await?;
            if completed.is_empty() || self.stop.is_cancelled() {
                return Ok(differences);
            }
            for group in groups(&completed, |c| c.recipients) {
                let batches: Vec<BatchId> = group.iter().map(|c| c.batch).collect();
                differences.extend(self.recount(&batches).await?);
                audit::audited(self.session.connection().await?, group).await?;
            }
        }
    }

    /// Audits every open batch of up to a million recipients (a setting), or every `large` one; says which tallies
    /// differ.
    pub async fn audit_open(&mut self, large: bool) -> Result<Vec<Difference>, StoreError> {
        let limit = self.settings.upkeep.audit_large;
        let (mut differences, mut after) = (Vec::new(), BatchId(Uuid::nil()));
        loop {
            let batches = open::batches(self.session.connection().await?, after, false, BATCHES).await?;
            let Some(last) = batches.last().filter(|_| !self.stop.is_cancelled()) else {
                return Ok(differences);
            };
            after = last.batch;
            let wanted: Vec<_> =
                batches.into_iter().filter(|b| b.is_counted && (b.recipients > limit) == large).collect();
            for group in groups(&wanted, |b| b.recipients) {
                let batches: Vec<BatchId> = group.iter().map(|b| b.batch).collect();
                differences.extend(self.recount(&batches).await?);
            }
        }
    }

    /// Audits what differed before: it may be right again, and its batch completed.
    pub async fn audit_again(&mut self) -> Result<Vec<Difference>, StoreError> {
        let mut differences = Vec::new();
        for batch in audit::remembered(self.session.connection().await?).await? {
            differences.extend(self.recount(&[batch]).await?);
        }
        Ok(differences)
    }

    /// Recounts, tells what differs, and rests for three times as long as it took: a quarter of a core at most.
    async fn recount(&mut self, batches: &[BatchId]) -> Result<Vec<Difference>, StoreError> {
        let begun = tokio::time::Instant::now();
        let connection = self.session.connection().await?;
        let differences = audit::recount(connection, batches).await?;
        let words: Vec<(BatchId, String)> = differences.iter().map(|d| (d.batch, told(d))).collect();
        audit::remember(connection, batches, &words).await?;
        for difference in &differences {
            metrics::counter!("tally_differences_total").increment(1);
            tracing::error!(batch.id = %difference.batch, differs = told(difference),
                "a tally is not what a recount finds: this is a fault of the program, and nothing was changed");
        }
        self.pause(begun.elapsed() * 3).await;
        Ok(differences)
    }

    /// Drops what is older than the retention.
    pub async fn tidy(&mut self) -> Result<(), StoreError> {
        let connection = self.session.connection().await?;
        let kept_from = retention::kept_from(connection, self.settings.retention.months).await?;
        for month in retention::old_months(connection, kept_from).await? {
            self.drop_month(month).await?;
        }
        let most = self.settings.upkeep.sweep_max;
        while retention::delete_tallies(self.session.connection().await?, kept_from, most).await? > 0 {
            self.breathe().await;
        }
        while retention::delete_rejected(self.session.connection().await?, kept_from, most).await? > 0 {
            self.breathe().await;
        }
        while retention::delete_callbacks(self.session.connection().await?, kept_from, most).await? > 0 {
            self.breathe().await;
        }
        while retention::delete_received(self.session.connection().await?, kept_from, most).await? > 0 {
            self.breathe().await;
        }
        while alarms::delete_old(self.session.connection().await?, kept_from, most).await? > 0 {
            self.breathe().await;
        }
        while occurrences::delete_old(self.session.connection().await?, kept_from, most).await? > 0 {
            self.breathe().await;
        }
        // What was copied has become messages; personal data is not kept twice.
        while frozen::delete_planned(self.session.connection().await?, most).await? > 0 {
            self.breathe().await;
        }
        while frozen::delete_old(self.session.connection().await?, kept_from, COPIES).await? > 0 {
            self.breathe().await;
        }
        self.tidy_jobs(kept_from).await
    }

    /// Tries for a while: on busy tables the moment without a reader has to be met.
    async fn drop_month(&mut self, month: DateTime<Utc>) -> Result<(), StoreError> {
        for _ in 0..DROP_TRIES {
            match retention::drop_month(self.session.connection().await?, month).await {
                Ok(true) => {
                    tracing::info!(%month, "a month of messages was dropped: it is older than retention.months");
                    return Ok(());
                }
                Ok(false) => {
                    tracing::warn!(%month, "an old month is kept: it still has work");
                    return Ok(());
                }
                Err(error) if error.is_lock_timeout() => self.pause(EVERY).await,
                Err(error) => return Err(error),
            }
        }
        tracing::info!(%month, "an old month is in use all the time; it is dropped another day");
        Ok(())
    }

    async fn tidy_jobs(&mut self, kept_from: DateTime<Utc>) -> Result<(), StoreError> {
        let blocks = retention::job_blocks(self.session.connection().await?).await?;
        let mut from = 0;
        while from < blocks && !self.stop.is_cancelled() {
            retention::delete_jobs(self.session.connection().await?, kept_from, from, from + BLOCKS).await?;
            from += BLOCKS;
            self.breathe().await;
        }
        Ok(())
    }

    /// Between two chunks everybody else comes first.
    async fn breathe(&self) {
        self.pause(Duration::from_millis(20)).await;
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Cuts a list so that the messages of each part can be counted at once.
fn groups<T>(list: &[T], recipients: impl Fn(&T) -> i32) -> Vec<&[T]> {
    let (mut groups, mut rest) = (Vec::new(), list);
    while !rest.is_empty() {
        let mut messages = 0;
        let fits = rest.iter().take_while(|item| {
            messages += i64::from(recipients(item));
            messages <= MESSAGES
        });
        let (group, more) = rest.split_at(fits.count().max(1));
        groups.push(group);
        rest = more;
    }
    groups
}

/// The differences in words: `failed 3 (found 2)`.
fn told(difference: &Difference) -> String {
    let both = COMPARED.iter().zip(difference.told.iter().zip(&difference.found));
    let words = both.filter(|(_, (told, found))| told != found);
    words.map(|(name, (told, found))| format!("{name} {told} (found {found})")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_as_large_as_can_be_counted_at_once() {
        let sizes = [60_000, 40_000, 1, 3_000_000, 5, 5];
        let groups: Vec<Vec<i32>> = groups(&sizes, |size| *size).into_iter().map(<[i32]>::to_vec).collect();
        assert_eq!(groups, [vec![60_000, 40_000], vec![1], vec![3_000_000], vec![5, 5]]);
    }

    #[test]
    fn only_what_differs_is_told() {
        let mut difference =
            Difference { batch: BatchId(Uuid::nil()), told: vec![0; COMPARED.len()], found: vec![0; COMPARED.len()] };
        (difference.told[6], difference.found[6], difference.found[11]) = (3, 2, 1);
        assert_eq!(told(&difference), "failed 3 (found 2), work rows 0 (found 1)");
    }
}
