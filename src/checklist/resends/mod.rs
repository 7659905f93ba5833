//! Failed messages that a person sends again. The same that does it tells beforehand what it would do.

mod choose;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

pub(super) use choose::again;

use super::{
    ChecklistError,
    which::{WhichFailures, filter, refused},
};
use crate::{
    domain::{
        act::Act,
        canary::CanaryRule,
        forecast::{Load, SHARE, forecast},
        ids::{BatchId, MessageKey, NumberId, TenantId},
        lane::Lane,
        resend::Skip,
    },
    providers, settings,
    store::{
        Connection, Store, StoreError,
        acts::{self, NewAct},
        campaigns::Person,
        checklist::load,
        commit,
        jobs::{self, NewCanary},
        leases,
        registry::Snapshot,
        resends::{self, FailedRow, NewResend, Times},
    },
};
use choose::{Chosen, choose};

/// Messages that one request sends again, when it does not say.
const CAP: usize = 1000;
/// Messages that one request sends again at most: they are one transaction.
const CAP_MAX: usize = 20_000;
/// Batches that an answer lists.
const LISTED: usize = 100;
/// How far ahead something may be sent.
const AHEAD: TimeDelta = TimeDelta::days(180);

/// What a person wants sent again. At least one of `batch`, `number`, `code`, `campaign` and `messages` says which failures.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResendRequest {
    /// Those of this batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Uuid>,
    /// Those from this business number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// Those with this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Those of this campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// These: `<batch id>.<seq>`, at most 5 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<String>>,
    /// For whoever asks later; needed unless it is only counted.
    #[serde(default)]
    pub reason: String,
    /// At most so many, 1 000 unless told, 20 000 at most; the rest stays for another request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<usize>,
    /// Not before; absent is at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<DateTime<Utc>>,
    /// Not after; absent is as long after the start as the first one lived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Also what somebody has acknowledged.
    #[serde(default)]
    pub acknowledged: bool,
    /// Also what the codes say never to send again, or not yet.
    #[serde(default)]
    pub against_advice: bool,
    /// Only says what it would do.
    #[serde(default)]
    pub dry_run: bool,
}

impl ResendRequest {
    fn which(&self) -> WhichFailures {
        WhichFailures {
            batch: self.batch,
            number: self.number.clone(),
            code: self.code.clone(),
            campaign: self.campaign.clone(),
            messages: self.messages.clone(),
        }
    }
}

/// Messages that are not sent again, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Skipped {
    /// Why, for machines.
    pub why: Skip,
    /// How many.
    pub messages: usize,
    /// Why.
    pub explanation: String,
}

/// A batch that sends messages of another one again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResentBatch {
    /// The batch that they failed in.
    pub resend_of: Uuid,
    /// The new one; absent when it was only counted. A message has the same place in both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<Uuid>,
    /// How many.
    pub messages: usize,
}

/// When a number sends its part, beside what it has to send already and as if no hold were open.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResentFrom {
    /// The number.
    pub business_number: String,
    /// How many.
    pub messages: usize,
    /// When the first goes.
    pub start: DateTime<Utc>,
    /// When the last goes; absent when the number has no limit.
    pub finish: Option<DateTime<Utc>>,
}

/// What was sent again, or would be.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResendDone {
    /// Its row in the audit; absent when it was only counted, or nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Whether it was only counted.
    pub dry_run: bool,
    /// Failures that were meant.
    pub found: i64,
    /// Messages that are sent again.
    pub resent: usize,
    /// Messages that are not, by reason.
    pub skipped: Vec<Skipped>,
    /// Failures beyond the cap, not looked at: the same request goes on with them.
    pub left: i64,
    /// The batches, the first hundred.
    pub batches: Vec<ResentBatch>,
    /// When, by number.
    pub when: Vec<ResentFrom>,
    /// Numbers that have new work.
    #[serde(skip)]
    pub numbers: Vec<NumberId>,
}

/// What re-sending needs beside the request.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// The database.
    pub store: &'a Store,
    /// What codes mean.
    pub providers: &'a providers::Registry,
    /// The registry.
    pub snapshot: &'a Snapshot,
    /// Up to this, batches take one turn together.
    pub small_batch: usize,
    /// Which marketing batches open with a few messages.
    pub canary: &'a settings::Canary,
}

/// Sends a tenant's failed messages again in the name of `by`, all in one transaction; or says what it would do.
pub async fn resend(
    means: Means<'_>,
    tenant: TenantId,
    by: &Person,
    request: &ResendRequest,
) -> Result<ResendDone, ChecklistError> {
    let cap = check(request)?;
    let slowed = leases::rates(means.store).await?;
    let mut tx = means.store.begin().await?;
    let which = request.which();
    let filter = filter(&mut tx, tenant, &which).await?;
    if !request.dry_run {
        resends::take_turn(&mut tx, tenant).await?;
        resends::lock_campaigns(&mut tx, tenant).await?;
    }
    let found = resends::count(&mut tx, &filter).await?;
    let mut chosen = choose(&mut tx, means.providers, &filter, request, cap).await?;
    if !request.dry_run {
        let keys: Vec<MessageKey> = chosen.rows.iter().map(FailedRow::key).collect();
        chosen.keep(&resends::lock(&mut tx, &keys).await?);
    }
    let when = when(&mut tx, means, &slowed, request.send_at, &chosen).await?;
    let (mut id, mut new) = (None, HashMap::new());
    if !request.dry_run && !chosen.rows.is_empty() {
        let act = NewAct {
            filter: json!(which),
            count: i64::try_from(chosen.rows.len()).unwrap_or(i64::MAX),
            ..NewAct::on(tenant, by, Act::Resend, "failures".to_owned(), request.reason.trim())
        };
        let act = acts::record(&mut tx, &act).await?;
        new = write(&mut tx, means, tenant, &chosen, request, act).await?;
        commit(tx, "commit a re-send").await?;
        id = Some(act);
    }
    Ok(told(id, request.dry_run, found, chosen, &new, when))
}

/// The answer.
fn told(
    id: Option<i64>,
    dry_run: bool,
    found: i64,
    chosen: Chosen,
    new: &HashMap<BatchId, BatchId>,
    when: Vec<ResentFrom>,
) -> ResendDone {
    let listed = chosen.by_batch().into_iter().take(LISTED);
    let batches = listed.map(|(of, rows)| ResentBatch {
        resend_of: of.0,
        batch_id: new.get(&of).map(|batch| batch.0),
        messages: rows.len(),
    });
    let batches = batches.collect();
    let numbers: BTreeSet<i32> = chosen.rows.iter().map(|row| row.number_id).collect();
    let numbers = numbers.into_iter().map(NumberId).collect();
    let (resent, left) = (chosen.rows.len(), found - i64::try_from(chosen.seen).unwrap_or(found));
    let skipped = chosen.skipped.into_iter();
    let skipped = skipped.map(|(why, messages)| Skipped { why, messages, explanation: why.explained().to_owned() });
    ResendDone { id, dry_run, found, resent, skipped: skipped.collect(), left: left.max(0), batches, when, numbers }
}

/// Refuses what cannot be meant; the cap otherwise.
fn check(request: &ResendRequest) -> Result<usize, ChecklistError> {
    if request.reason.trim().is_empty() && !request.dry_run {
        return Err(refused("/reason", "empty", "say why, for whoever asks later"));
    }
    check_times(request)?;
    let cap = request.cap.unwrap_or(CAP);
    if (1..=CAP_MAX).contains(&cap) { Ok(cap) } else { Err(refused("/cap", "out_of_range", "must be from 1 to 20000")) }
}

fn check_times(request: &ResendRequest) -> Result<(), ChecklistError> {
    let now = Utc::now();
    let starts = request.send_at.map_or(now, |at| at.max(now));
    if starts > now + AHEAD {
        return Err(refused("/send_at", "too_far", "must be within 180 days"));
    }
    if request.expires_at.is_some_and(|ends| ends <= starts) {
        return Err(refused("/expires_at", "too_early", "must be after the start"));
    }
    Ok(())
}

/// Writes the new batches; returns them by those they send again.
async fn write(
    connection: &mut Connection,
    means: Means<'_>,
    tenant: TenantId,
    chosen: &Chosen,
    request: &ResendRequest,
    act: i64,
) -> Result<HashMap<BatchId, BatchId>, StoreError> {
    let now = Utc::now();
    let due = request.send_at.map_or(now, |at| at.max(now));
    let (mut batches, mut canaries) = (Vec::new(), Vec::new());
    for (of, rows) in chosen.by_batch() {
        let batch = BatchId::due_at(due);
        let rule = watched(means.canary, &rows);
        let number = rows.first().map_or(0, |row| row.number_id);
        canaries.extend(rule.map(|rule| NewCanary { tenant, batch, number: NumberId(number), rule }));
        // What shares its turn with others cannot be held by it.
        let has_turn = rule.is_some() || rows.len() > means.small_batch;
        let turn_group = if has_turn { batch.0 } else { Uuid::nil() };
        let messages = i32::try_from(rows.len()).unwrap_or(i32::MAX);
        batches.push(NewResend { of, batch, messages, turn_group });
    }
    let keys: Vec<MessageKey> = chosen.rows.iter().map(FailedRow::key).collect();
    let times = Times { send_at: request.send_at.filter(|at| *at > now), expires_at: request.expires_at };
    resends::insert(connection, &batches, &keys, times, act).await?;
    jobs::open_canaries(connection, &canaries).await?;
    Ok(batches.into_iter().map(|batch| (batch.of, batch.batch)).collect())
}

/// How the first messages of a batch are watched, as those of any other.
fn watched(canary: &settings::Canary, rows: &[&FailedRow]) -> Option<CanaryRule> {
    let is_marketing = rows.first().is_some_and(|row| row.lane == Lane::Marketing.as_str());
    (is_marketing && rows.len() > canary.over).then_some(canary.rule())
}

/// When each number sends its part.
async fn when(
    connection: &mut Connection,
    means: Means<'_>,
    slowed: &BTreeMap<NumberId, u32>,
    send_at: Option<DateTime<Utc>>,
    chosen: &Chosen,
) -> Result<Vec<ResentFrom>, StoreError> {
    let mut parts: BTreeMap<i32, (usize, Lane)> = BTreeMap::new();
    for row in &chosen.rows {
        let lane = row.lane.parse().unwrap_or(Lane::Marketing);
        parts.entry(row.number_id).or_insert((0, lane)).0 += 1;
    }
    let now = Utc::now();
    let due_in = send_at.and_then(|at| (at - now).to_std().ok()).unwrap_or_default();
    let mut when = Vec::new();
    for (id, (messages, lane)) in parts {
        let id = NumberId(id);
        let Some(number) = means.snapshot.numbers.get(&id) else { continue };
        let rate = number.limit_per_s.map(|limit| f64::from(slowed.get(&id).copied().unwrap_or(limit)) * SHARE);
        let others = load::of_number(connection, id).await?;
        let mine = Load { lane, messages: u32::try_from(messages).unwrap_or(u32::MAX), due_in };
        let times = rate.map(|rate| forecast(rate, &others, mine));
        let at = |wait| TimeDelta::from_std(wait).map_or(DateTime::<Utc>::MAX_UTC, |wait| now + wait);
        when.push(ResentFrom {
            business_number: number.business_number.clone(),
            messages,
            start: at(times.map_or(due_in, |times| times.start)),
            finish: times.map(|times| at(times.finish)),
        });
    }
    Ok(when)
}
