//! A locked campaign's occurrences are decided, recorded, and their jobs owed. The caller commits.

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

use super::{
    document::CampaignDocument,
    read::{Definition, Flaw},
};
use crate::{
    broker::Topology,
    domain::{
        Category,
        campaign::{Decision, JOB_PREFIX, LATE_ALARM, OccurrenceState, SkipReason},
    },
    store::{
        Connection, StoreError,
        campaigns::{
            self, Campaign, Person,
            occurrences::{self, NewOccurrence, Waiting},
        },
        outbox::{self, Destination, OutboxMessage},
    },
};

/// Missed occurrences that are recorded in one transaction; the next look finds the rest.
const MISSED: usize = 500;

/// What was decided about a campaign.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Ticked {
    /// Jobs that are owed now.
    pub fired: usize,
    /// Occurrences recorded as skipped.
    pub skipped: usize,
    /// Occurrences that wait for an earlier one.
    pub waiting: usize,
}

impl std::ops::AddAssign for Ticked {
    fn add_assign(&mut self, other: Self) {
        self.fired += other.fired;
        self.skipped += other.skipped;
        self.waiting += other.waiting;
    }
}

/// A locked campaign with what its document means.
#[derive(Debug)]
pub(super) struct Firing<'a> {
    pub(super) campaign: &'a Campaign,
    pub(super) definition: Definition,
    /// The setting.
    pub(super) approval_over: i64,
}

/// An occurrence before anything is decided about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) fire_at: DateTime<Utc>,
    pub(super) run: &'a str,
    pub(super) job_id: &'a str,
    pub(super) by: &'a Person,
}

impl<'a> Firing<'a> {
    pub(super) fn of(campaign: &'a Campaign, approval_over: i64) -> Result<Self, Vec<Flaw>> {
        Ok(Self { campaign, definition: Definition::stored(campaign.document.clone())?, approval_over })
    }

    /// Everything that is due or waits.
    pub(super) async fn settle(&self, connection: &mut Connection) -> Result<Ticked, StoreError> {
        let mut ticked = self.settle_waiting(connection).await?;
        ticked += self.settle_due(connection).await?;
        Ok(ticked)
    }

    async fn settle_waiting(&self, connection: &mut Connection) -> Result<Ticked, StoreError> {
        let (campaign, mut ticked) = (self.campaign, Ticked::default());
        if campaign.state != crate::domain::campaign::CampaignState::Active {
            return Ok(ticked);
        }
        for waiting in occurrences::waiting(connection, campaign.id).await? {
            let is_running = occurrences::is_running(connection, campaign.id, waiting.fire_at, &waiting.run).await?;
            match self.definition.rules.begin(waiting.fire_at, campaign.now, is_running) {
                // Those behind it wait for this one.
                Decision::Wait => break,
                Decision::Skip(reason) => {
                    ticked.skipped += 1;
                    self.end_waiting(connection, &waiting, Some(reason), None, None).await?;
                }
                Decision::Fire { send_at, expires_at } => {
                    ticked.fired += 1;
                    self.end_waiting(connection, &waiting, None, send_at, Some(expires_at)).await?;
                    self.owe(connection, &waiting.job_id, send_at, expires_at).await?;
                }
            }
        }
        Ok(ticked)
    }

    async fn end_waiting(
        &self,
        connection: &mut Connection,
        waiting: &Waiting,
        reason: Option<SkipReason>,
        send_at: Option<DateTime<Utc>>,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<(), StoreError> {
        self.count(reason);
        occurrences::settle_waiting(connection, self.campaign.id, waiting, reason, send_at, expires_at).await?;
        Ok(())
    }

    async fn settle_due(&self, connection: &mut Connection) -> Result<Ticked, StoreError> {
        let (campaign, rules, mut ticked) = (self.campaign, &self.definition.rules, Ticked::default());
        let now = campaign.now;
        let Some(first) = campaign.next_fire_at.filter(|at| *at <= now) else {
            return Ok(ticked);
        };
        let due = rules.due(first, now, MISSED);
        let is_last = |place: usize| place + 1 == due.fire_at.len() && due.next.is_none_or(|next| next > now);
        for (place, fire_at) in due.fire_at.iter().copied().enumerate() {
            let is_latest = is_last(place);
            let is_running = is_latest && occurrences::is_running(connection, campaign.id, fire_at, "").await?;
            let job_id = job_id(&campaign.key, fire_at);
            let wanted = Wanted { fire_at, run: "", job_id: &job_id, by: &campaign.applied_by };
            let decision = rules.decide(campaign.state, fire_at, now, is_latest, is_running);
            self.alarm(fire_at, decision);
            ticked += self.record(connection, wanted, decision).await?;
        }
        campaigns::set_next(connection, campaign.id, due.next).await?;
        Ok(ticked)
    }

    /// Records an occurrence as decided and owes its job; one that stands already stays as it is.
    pub(super) async fn record(
        &self,
        connection: &mut Connection,
        wanted: Wanted<'_>,
        decision: Decision,
    ) -> Result<Ticked, StoreError> {
        let mut ticked = Ticked::default();
        let Wanted { fire_at, run, job_id, by } = wanted;
        let approval_over = self.approval_over();
        let new = NewOccurrence {
            fire_at,
            run,
            job_id,
            state: OccurrenceState::Skipped,
            reason: None,
            by,
            send_at: None,
            expires_at: None,
            approval_over,
        };
        let new = match decision {
            Decision::Skip(reason) => {
                ticked.skipped = 1;
                NewOccurrence { reason: Some(reason), ..new }
            }
            Decision::Wait => {
                ticked.waiting = 1;
                let end = fire_at + self.definition.rules.expires_after;
                NewOccurrence { state: OccurrenceState::Waiting, expires_at: Some(end), ..new }
            }
            Decision::Fire { send_at, expires_at } => {
                ticked.fired = 1;
                NewOccurrence { state: OccurrenceState::Fired, send_at, expires_at: Some(expires_at), ..new }
            }
        };
        if !occurrences::insert(connection, self.campaign, &new).await? {
            return Ok(Ticked::default());
        }
        if new.state != OccurrenceState::Waiting {
            self.count(new.reason);
        }
        if let Decision::Fire { send_at, expires_at } = decision {
            self.owe(connection, job_id, send_at, expires_at).await?;
        }
        Ok(ticked)
    }

    /// The job goes where every job goes: a one-time password not behind the others.
    async fn owe(
        &self,
        connection: &mut Connection,
        job_id: &str,
        send_at: Option<DateTime<Utc>>,
        expires_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let CampaignDocument { business_number, template, .. } = &self.definition.document;
        let named = (business_number.as_str(), template.name.as_str(), template.language.as_str());
        let is_urgent = campaigns::is_of(connection, self.campaign.tenant, named, Category::Authentication).await?;
        let message = OutboxMessage {
            to: Destination::Entry,
            key: if is_urgent { Topology::URGENT_KEY } else { Topology::JOBS_KEY }.to_owned(),
            id: Uuid::new_v4().to_string(),
            correlation_id: None,
            about: None,
            body: self.definition.document.job(&self.campaign.producer, job_id, send_at, expires_at),
        };
        outbox::insert(connection, &[message]).await
    }

    /// The stricter of the document and the setting; 0 of the setting is none.
    fn approval_over(&self) -> Option<i64> {
        let set = Some(self.approval_over).filter(|over| *over > 0);
        set.into_iter().chain(self.definition.document.approval_over).min()
    }

    fn alarm(&self, fire_at: DateTime<Utc>, decision: Decision) {
        let late = self.campaign.now - fire_at;
        let concerns =
            matches!(decision, Decision::Fire { .. } | Decision::Skip(SkipReason::Late | SkipReason::Missed));
        if concerns && late > LATE_ALARM {
            metrics::counter!("campaign_occurrences_late_total").increment(1);
            tracing::error!(campaign.key = self.campaign.key, %fire_at, late_s = late.num_seconds(),
                "a campaign fires late: was no process with the role campaigns running?");
        }
    }

    fn count(&self, reason: Option<SkipReason>) {
        let outcome = reason.map_or("fired", SkipReason::as_str);
        metrics::counter!("campaign_occurrences_total", "outcome" => outcome).increment(1);
        tracing::info!(campaign.key = self.campaign.key, outcome, "an occurrence was decided");
    }
}

/// The job of a scheduled firing: the same whoever finds it due.
fn job_id(key: &str, fire_at: DateTime<Utc>) -> String {
    format!("{JOB_PREFIX}{key}:{}", fire_at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}
