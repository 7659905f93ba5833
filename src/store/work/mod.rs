//! Work: finding what is due, and claiming it under a lease. [`sweep`] repairs it and gives it back, [`unsure`] is about
//! calls in doubt, [`open`] about batches that have work left, [`recover`] about work of a lost timeline, [`windows`] about
//! hours of the recipients.

pub mod open;
pub mod recover;
pub mod sweep;
pub mod through;
pub mod unsure;
pub mod windows;

use std::{collections::HashMap, time::Duration};

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::{
    domain::{
        address::Address,
        ids::{BatchId, HoldId, MessageKey, NumberId, TemplateId},
        lane::Lane,
        message::Late,
        suppression::SuppressionScope,
        template::Params,
    },
    store::{Doing as _, StoreError},
};

/// A turn's share of one claim step.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// The number to send from.
    pub number: NumberId,
    /// The lease under which it is claimed; a claim under a lost lease takes nothing.
    pub lease: Uuid,
    /// The lane.
    pub lane: Lane,
    /// Whose turn it is: a batch, or nil for all small ones.
    pub group: Uuid,
    /// At most so many messages.
    pub most: usize,
}

/// A message that this process, and nobody else, may call the provider for. Only [`claim`] and [`through`] make one.
#[derive(Debug)]
#[must_use = "a claimed message must be settled or returned"]
pub struct ClaimedMessage {
    key: MessageKey,
    attempt: i16,
    charged: i16,
    number: NumberId,
    lane: Lane,
    group: Uuid,
    recipient: Address,
    params: Params,
    late: Option<Late>,
    suppressed: Option<SuppressionScope>,
}

impl ClaimedMessage {
    /// Which message.
    pub const fn key(&self) -> MessageKey {
        self.key
    }

    /// The name of the call it is claimed for.
    pub const fn attempt(&self) -> i16 {
        self.attempt
    }

    /// Tries that counted so far.
    pub const fn charged(&self) -> i16 {
        self.charged
    }

    /// The number to send from.
    pub const fn number(&self) -> NumberId {
        self.number
    }

    /// Its lane.
    pub const fn lane(&self) -> Lane {
        self.lane
    }

    /// Whose turn it was.
    pub const fn group(&self) -> Uuid {
        self.group
    }

    /// Who it is for.
    pub const fn recipient(&self) -> &Address {
        &self.recipient
    }

    /// Its own slot values.
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// Why it is too late to be called, if it is.
    pub const fn late(&self) -> Option<Late> {
        self.late
    }

    /// The recipient's recorded wish not to be called, if there is one.
    pub const fn suppressed(&self) -> Option<SuppressionScope> {
        self.suppressed
    }
}

/// What a claim took.
#[derive(Debug, Default)]
#[must_use = "claimed messages must be settled or returned"]
pub struct Claimed {
    /// The messages.
    pub messages: Vec<ClaimedMessage>,
    /// What sending needs of their batches.
    pub batches: HashMap<BatchId, BatchFacts>,
}

/// A claimed row as the statements give it.
struct Row {
    batch_id: Uuid,
    seq: i32,
    attempt: i16,
    charged: i16,
    number_id: i32,
    lane: String,
    turn_group: Uuid,
    recipient: String,
    params: Option<Json<Params>>,
    template_id: i32,
    /// With one row of each batch at least.
    defaults: Option<Json<Params>>,
    late: Option<String>,
    cancelled: bool,
    suppressed: Option<String>,
}

impl FromIterator<Row> for Claimed {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        let mut claimed = Self::default();
        for mut row in rows {
            if let Some(defaults) = row.defaults.take() {
                let facts = BatchFacts {
                    template: TemplateId(row.template_id),
                    defaults: defaults.0,
                    cancelled: row.cancelled,
                };
                claimed.batches.insert(BatchId(row.batch_id), facts);
            }
            claimed.messages.push(row.into());
        }
        claimed
    }
}

impl From<Row> for ClaimedMessage {
    fn from(row: Row) -> Self {
        Self {
            key: MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq },
            attempt: row.attempt,
            charged: row.charged,
            number: NumberId(row.number_id),
            lane: row.lane.parse().unwrap_or(Lane::Marketing),
            group: row.turn_group,
            recipient: Address::from_store(row.recipient),
            params: row.params.map(|params| params.0).unwrap_or_default(),
            late: row.late.and_then(|late| late.parse().ok()),
            suppressed: row.suppressed.and_then(|scope| scope.parse().ok()),
        }
    }
}

/// What sending needs of a batch.
#[derive(Debug)]
pub struct BatchFacts {
    /// The text.
    pub template: TemplateId,
    /// Slot values for all recipients.
    pub defaults: Params,
    /// Somebody cancelled it.
    pub cancelled: bool,
}

/// A group of a number's lane that has ready work.
#[derive(Debug, Clone, Copy)]
pub struct ReadyGroup {
    /// The number.
    pub number: NumberId,
    /// The lane.
    pub lane: Lane,
    /// The group.
    pub group: Uuid,
    /// How long until its first message is due; zero when one is.
    pub due_in: Duration,
    /// When only the first messages of the batch may go out: under which hold, and the places left.
    pub canary: Option<(HoldId, usize)>,
}

/// The groups with ready work of these numbers. Costs an index probe for each group, whatever stands behind it.
pub async fn look(
    connection: &mut PgConnection,
    numbers: &[NumberId],
    most: i64,
) -> Result<Vec<ReadyGroup>, StoreError> {
    let numbers: Vec<i32> = numbers.iter().map(|n| n.0).collect();
    let rows = sqlx::query!(
        r#"
        WITH RECURSIVE found AS (
            SELECT first.*
            FROM unnest($1::int[]) AS n(number_id)
            CROSS JOIN LATERAL (
                SELECT w.number_id, w.lane, w.turn_group, w.wake_at FROM work w
                WHERE w.stage = 'ready' AND w.number_id = n.number_id
                ORDER BY w.lane, w.turn_group, w.wake_at LIMIT 1
            ) first
            UNION ALL
            SELECT next.*
            FROM found
            CROSS JOIN LATERAL (
                SELECT w.number_id, w.lane, w.turn_group, w.wake_at FROM work w
                WHERE w.stage = 'ready' AND w.number_id = found.number_id
                  AND (w.lane, w.turn_group) > (found.lane, found.turn_group)
                ORDER BY w.lane, w.turn_group, w.wake_at LIMIT 1
            ) next
        )
        SELECT f.number_id AS "number_id!", f.lane::text AS "lane!", f.turn_group AS "turn_group!",
               greatest(0, extract(epoch FROM f.wake_at - now()))::float8 AS "due_in!",
               canary.hold_id AS "canary?", canary.places AS "places?"
        FROM found f
        LEFT JOIN LATERAL (
            SELECT c.hold_id, c.messages - c.let_through AS places
            FROM canary c JOIN hold h ON h.id = c.hold_id
            WHERE c.batch_id = f.turn_group AND h.closed_at IS NULL AND h.resume = 'canary'
        ) canary ON true
        WHERE NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = f.turn_group AND b.state = 'planning')
        LIMIT $2
        "#,
        &numbers,
        most,
    )
    .fetch_all(connection)
    .await
    .doing("look for due work")?;
    let groups = rows.into_iter().filter_map(|row| {
        Some(ReadyGroup {
            number: NumberId(row.number_id),
            lane: row.lane.parse().ok()?,
            group: row.turn_group,
            due_in: Duration::from_secs_f64(row.due_in.min(86_400.0)),
            canary: row
                .canary
                .map(|hold| (HoldId(hold), row.places.and_then(|n| usize::try_from(n).ok()).unwrap_or(0))),
        })
    });
    Ok(groups.collect())
}

/// The numbers that have ready work, due or not. Costs an index probe for each of them and nothing for the others.
pub async fn numbers_with_work(connection: &mut PgConnection) -> Result<Vec<NumberId>, StoreError> {
    let rows = sqlx::query_scalar!(
        r#"
        WITH RECURSIVE found AS (
            -- A parameter, because a statement without any keeps the plan it got when the table was empty.
            SELECT $1::int AS number_id
            UNION ALL
            SELECT next.number_id FROM found
            CROSS JOIN LATERAL (
                SELECT w.number_id FROM work w WHERE w.stage = 'ready' AND w.number_id > found.number_id
                ORDER BY w.number_id, w.lane, w.turn_group, w.wake_at LIMIT 1
            ) next
        )
        SELECT number_id AS "number_id!" FROM found WHERE number_id > $1
        "#,
        0
    )
    .fetch_all(connection)
    .await
    .doing("look for numbers with work")?;
    Ok(rows.into_iter().map(NumberId).collect())
}

/// Claims due messages: stage *calling*, attempt + 1, until `deadline` from now. One statement for all numbers.
///
/// Rows that another transaction holds are left for the next step. After a lost answer, [`claimed_by`] tells what
/// this `claim_id` took. Whether anybody at all is suppressed whom the lane concerns is looked at once for all, and only
/// then each recipient is asked for. At most `limit` messages are claimed, for the first wants first.
pub async fn claim(
    connection: &mut PgConnection,
    wants: &[Want],
    limit: usize,
    claim_id: Uuid,
    deadline: Duration,
) -> Result<Claimed, StoreError> {
    let numbers: Vec<i32> = wants.iter().map(|w| w.number.0).collect();
    let leases: Vec<Uuid> = wants.iter().map(|w| w.lease).collect();
    let lanes: Vec<String> = wants.iter().map(|w| w.lane.to_string()).collect();
    let groups: Vec<Uuid> = wants.iter().map(|w| w.group).collect();
    let most: Vec<i32> = wants.iter().map(|w| i32::try_from(w.most).unwrap_or(i32::MAX)).collect();
    sqlx::query_as!(
        Row,
        r#"
        WITH want AS MATERIALIZED (
            SELECT w.* FROM unnest($1::int[], $2::uuid[], $3::text[]::lane[], $4::uuid[], $5::int[])
                WITH ORDINALITY AS w(number_id, lease_id, lane, turn_group, most, place)
            -- The lease is the right to claim: whoever lost it takes nothing.
            JOIN number_lease l ON l.number_id = w.number_id AND l.lease_id = w.lease_id
            JOIN worker o ON o.worker_id = l.worker_id AND NOT o.is_dead AND o.expires_at > now()
            WHERE NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = w.turn_group AND b.state = 'planning')
              -- Of a batch that opens with a canary nothing goes out this way.
              AND NOT EXISTS (SELECT FROM canary c JOIN hold h ON h.id = c.hold_id AND h.closed_at IS NULL WHERE c.batch_id = w.turn_group) ORDER BY w.place
        ), due AS MATERIALIZED (
            SELECT k.batch_id, k.seq
            FROM want
            CROSS JOIN LATERAL (
                -- The constant is for the planner: of a limit it does not know it expects a tenth of the table, and
                -- reads the whole of it to update a few. No row is locked that is not taken.
                SELECT few.batch_id, few.seq FROM (
                    SELECT w.batch_id, w.seq FROM work w
                    WHERE w.stage = 'ready' AND w.number_id = want.number_id AND w.lane = want.lane
                      AND w.turn_group = want.turn_group AND w.wake_at <= now()
                    ORDER BY w.wake_at LIMIT 1000 FOR UPDATE SKIP LOCKED
                ) few LIMIT want.most
            ) k LIMIT $8
        ), claimed AS (
            UPDATE work w
            SET stage = 'calling', attempt = w.attempt + 1, claim_id = $6, wake_at = now() + make_interval(secs => $7)
            FROM due WHERE w.batch_id = due.batch_id AND w.seq = due.seq
            RETURNING w.batch_id, w.seq, w.attempt, w.charged, w.number_id, w.lane, w.turn_group, w.until
        )
        SELECT c.batch_id, c.seq, c.attempt, c.charged, c.number_id, c.lane::text AS "lane!", c.turn_group,
               m.recipient, m.params AS "params: Json<Params>", b.template_id,
               CASE WHEN row_number() OVER (PARTITION BY c.batch_id) = 1 THEN b.params END AS "defaults: Json<Params>",
               work_late(c.until, b.expires_at) AS late, b.cancelled_at IS NOT NULL AS "cancelled!",
               CASE WHEN EXISTS (SELECT FROM suppression s WHERE s.lifted_at IS NULL AND s.scope <> 'marketing') OR (c.lane = 'marketing' AND EXISTS (SELECT FROM suppression s WHERE s.lifted_at IS NULL)) THEN
               (SELECT s.scope FROM suppression s WHERE s.recipient = m.recipient AND s.tenant_id = b.tenant_id AND s.lifted_at IS NULL AND (s.account_id IS NULL OR s.account_id = b.account_id) AND (s.scope <> 'marketing' OR c.lane = 'marketing') LIMIT 1) END AS suppressed
        FROM claimed c
        JOIN message m ON m.batch_id = c.batch_id AND m.seq = c.seq JOIN batch b ON b.batch_id = c.batch_id
        "#,
        &numbers,
        &leases,
        &lanes,
        &groups,
        &most,
        claim_id,
        deadline.as_secs_f64(),
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(connection)
    .await
    .doing("claim due messages")
    .map(|rows| rows.into_iter().collect())
}

/// What a claim took whose answer was lost: to be returned, since nothing of it was called.
pub async fn claimed_by(connection: &mut PgConnection, claim_id: Uuid) -> Result<Vec<(MessageKey, i16)>, StoreError> {
    let rows = sqlx::query!(
        "SELECT batch_id, seq, attempt FROM work WHERE stage <> 'ready' AND stage = 'calling' AND claim_id = $1",
        claim_id
    )
    .fetch_all(connection)
    .await
    .doing("read a claim back")?;
    Ok(rows
        .into_iter()
        .map(|row| (MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq }, row.attempt))
        .collect())
}
