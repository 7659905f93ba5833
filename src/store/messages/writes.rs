//! The second half of [`super::apply`]: bulk writes on rows that are locked already.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Failure,
    rows::{AttemptWrite, FailedWrite, MessageWrite, Stamp, Tallies, WorkInsert, WorkWrite, columns, seconds},
};
use crate::{
    domain::{ids::MessageKey, message::MessageState},
    store::{Doing as _, StoreError},
};

/// Two arrays for one time column: whether it is set, and the provider's time if it is not now.
fn stamps<'a>(writes: impl Iterator<Item = &'a Option<Stamp>>) -> (Vec<bool>, Vec<Option<DateTime<Utc>>>) {
    writes.map(|stamp| (stamp.is_some(), stamp.flatten())).unzip()
}

pub(super) async fn write_messages(
    tx: &mut PgConnection,
    writes: &[(MessageKey, MessageWrite)],
) -> Result<(), StoreError> {
    let (accepted, writes): (Vec<_>, Vec<_>) = writes.iter().partition(|(_, write)| write.is_clean_acceptance());
    write_accepted(tx, &accepted).await?;
    if writes.is_empty() {
        return Ok(());
    }
    let (batches, seqs) = columns(writes.iter().map(|(key, _)| key));
    let all = || writes.iter().map(|(_, write)| write);
    let states: Vec<Option<&str>> = all().map(|w| w.state.map(MessageState::as_str)).collect();
    let attempts: Vec<i16> = all().map(|w| w.attempt).collect();
    let dropped: Vec<Option<i16>> = all().map(|w| w.dropped).collect();
    let ids: Vec<Option<&str>> = all().map(|w| w.provider_message_id.as_deref()).collect();
    let codes: Vec<Option<&str>> = all().map(|w| w.code.as_deref()).collect();
    let (accepted, accepted_at) = stamps(all().map(|w| &w.accepted));
    let (sent, sent_at) = stamps(all().map(|w| &w.sent));
    let (delivered, delivered_at) = stamps(all().map(|w| &w.delivered));
    let (read, read_at) = stamps(all().map(|w| &w.read));
    let (ended, ended_at) = stamps(all().map(|w| &w.ended));
    let joins: Vec<Option<i32>> = all().map(|w| w.joins.map(|number| number.0)).collect();
    sqlx::query_file!(
        "src/store/messages/write.sql",
        &batches,
        &seqs,
        &states as &[Option<&str>],
        &attempts,
        &ids as &[Option<&str>],
        &codes as &[Option<&str>],
        &accepted,
        &accepted_at as &[Option<DateTime<Utc>>],
        &sent,
        &sent_at as &[Option<DateTime<Utc>>],
        &delivered,
        &delivered_at as &[Option<DateTime<Utc>>],
        &read,
        &read_at as &[Option<DateTime<Utc>>],
        &ended,
        &ended_at as &[Option<DateTime<Utc>>],
        &dropped as &[Option<i16>],
        &joins as &[Option<i32>],
    )
    .execute(tx)
    .await
    .doing("write messages")?;
    Ok(())
}

/// What nearly every message of a drain is: accepted now, and nothing else. Four columns instead of sixteen. All that have
/// no earlier time of acceptance have the same.
async fn write_accepted(tx: &mut PgConnection, writes: &[&(MessageKey, MessageWrite)]) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let (batches, seqs) = columns(writes.iter().map(|(key, _)| key));
    let attempts: Vec<i16> = writes.iter().map(|(_, write)| write.attempt).collect();
    let ids: Vec<Option<&str>> = writes.iter().map(|(_, write)| write.provider_message_id.as_deref()).collect();
    let joins: Vec<Option<i32>> = writes.iter().map(|(_, write)| write.joins.map(|number| number.0)).collect();
    sqlx::query!(
        r#"
        WITH moved AS (
        UPDATE message m
        SET state = 'accepted', attempt = u.attempt, accepted_at = coalesce(m.accepted_at, now()),
            provider_message_id = coalesce(u.provider_message_id, m.provider_message_id)
        FROM unnest($1::uuid[], $2::int[], $3::smallint[], $4::text[], $5::int[])
            AS u(batch_id, seq, attempt, provider_message_id, number_id)
        WHERE m.batch_id = u.batch_id AND m.seq = u.seq
        RETURNING u.number_id, m.batch_id, m.seq
        )
        INSERT INTO sent_group (number_id, batch_id, first_at, last_at, seqs)
        SELECT number_id, batch_id, now(), now(), array_agg(seq) FROM moved WHERE number_id IS NOT NULL
        GROUP BY number_id, batch_id
        "#,
        &batches,
        &seqs,
        &attempts,
        &ids as &[Option<&str>],
        &joins as &[Option<i32>],
    )
    .execute(tx)
    .await
    .doing("write accepted messages")?;
    Ok(())
}

/// Failures as three columns: code, class, reason.
fn said<'a>(failures: impl Iterator<Item = &'a Failure>) -> (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>) {
    failures.map(|f| (f.code.as_str(), f.class.as_str(), f.reason.as_str())).collect()
}

pub(super) async fn write_attempts(tx: &mut PgConnection, writes: &[AttemptWrite]) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let (batches, seqs) = columns(writes.iter().map(|w| &w.key));
    let attempts: Vec<i16> = writes.iter().map(|w| w.attempt).collect();
    let outcomes: Vec<&str> = writes.iter().map(|w| w.outcome.as_str()).collect();
    let (codes, classes, reasons) = said(writes.iter().map(|w| &w.failure));
    let at: Vec<Stamp> = writes.iter().map(|w| w.at).collect();
    sqlx::query!(
        "INSERT INTO attempt (batch_id, seq, attempt, outcome, code, class, reason, at)
         SELECT u.batch_id, u.seq, u.attempt, u.outcome, u.code, u.class, u.reason, coalesce(u.at, now())
         FROM unnest($1::uuid[], $2::int[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[])
             AS u(batch_id, seq, attempt, outcome, code, class, reason, at)
         ON CONFLICT DO NOTHING",
        &batches,
        &seqs,
        &attempts,
        &outcomes as &[&str],
        &codes as &[&str],
        &classes as &[&str],
        &reasons as &[&str],
        &at as &[Stamp],
    )
    .execute(tx)
    .await
    .doing("write attempts")?;
    Ok(())
}

pub(super) async fn write_failures(
    tx: &mut PgConnection,
    failed: &[FailedWrite],
    lifted: &[MessageKey],
) -> Result<(), StoreError> {
    if !lifted.is_empty() {
        let (batches, seqs) = columns(lifted.iter());
        sqlx::query!(
            "DELETE FROM failed_message f USING unnest($1::uuid[], $2::int[]) AS u(batch_id, seq)
             WHERE f.batch_id = u.batch_id AND f.seq = u.seq",
            &batches,
            &seqs
        )
        .execute(&mut *tx)
        .await
        .doing("lift failures")?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    let (batches, seqs) = columns(failed.iter().map(|w| &w.key));
    let numbers: Vec<i32> = failed.iter().map(|w| w.number.0).collect();
    let templates: Vec<i32> = failed.iter().map(|w| w.template.0).collect();
    let attempts: Vec<i16> = failed.iter().map(|w| w.attempt).collect();
    let (codes, classes, reasons) = said(failed.iter().map(|w| &w.failure));
    let at: Vec<Stamp> = failed.iter().map(|w| w.at).collect();
    sqlx::query!(
        "INSERT INTO failed_message (batch_id, seq, number_id, template_id, attempt, code, class, reason, failed_at)
         SELECT u.batch_id, u.seq, u.number_id, u.template_id, u.attempt, u.code, u.class, u.reason, coalesce(u.at, now())
         FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::smallint[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
             AS u(batch_id, seq, number_id, template_id, attempt, code, class, reason, at)
         ON CONFLICT (batch_id, seq) DO NOTHING",
        &batches,
        &seqs,
        &numbers,
        &templates,
        &attempts,
        &codes as &[&str],
        &classes as &[&str],
        &reasons as &[&str],
        &at as &[Stamp],
    )
    .execute(tx)
    .await
    .doing("write failures")?;
    Ok(())
}

pub(super) async fn delete_work(tx: &mut PgConnection, done: &[MessageKey]) -> Result<(), StoreError> {
    if done.is_empty() {
        return Ok(());
    }
    let (batches, seqs) = columns(done.iter());
    sqlx::query!(
        "DELETE FROM work w USING unnest($1::uuid[], $2::int[]) AS u(batch_id, seq)
         WHERE w.batch_id = u.batch_id AND w.seq = u.seq",
        &batches,
        &seqs
    )
    .execute(tx)
    .await
    .doing("delete work")?;
    Ok(())
}

struct WorkColumns {
    batches: Vec<Uuid>,
    seqs: Vec<i32>,
    stages: Vec<&'static str>,
    waits: Vec<f64>,
    charged: Vec<i16>,
    holds: Vec<Option<i64>>,
    skips: Vec<i16>,
}

fn work_columns<'a>(writes: impl Iterator<Item = &'a WorkWrite> + Clone) -> WorkColumns {
    let (batches, seqs) = columns(writes.clone().map(|w| &w.key));
    WorkColumns {
        batches,
        seqs,
        stages: writes.clone().map(|w| w.stage).collect(),
        waits: writes.clone().map(|w| seconds(w.wait)).collect(),
        charged: writes.clone().map(|w| w.charged).collect(),
        holds: writes.clone().map(|w| w.hold.map(|h| h.0)).collect(),
        skips: writes.map(|w| w.skip).collect(),
    }
}

/// Parked work wakes at the end of the hold or of the message, whichever is first.
pub(super) async fn update_work(tx: &mut PgConnection, writes: &[WorkWrite]) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let c = work_columns(writes.iter());
    sqlx::query!(
        "UPDATE work w
         SET stage = u.stage, charged = u.charged, hold_id = u.hold_id, claim_id = NULL,
             attempt = least(w.attempt + u.skip::int, 32767)::smallint,
             wake_at = CASE WHEN u.stage = 'parked' THEN least(b.expires_at, h.until, now() + make_interval(secs => u.wait))
                            ELSE now() + make_interval(secs => u.wait) END
         FROM unnest($1::uuid[], $2::int[], $3::text[]::work_stage[], $4::float8[], $5::smallint[], $6::bigint[],
                     $7::smallint[])
             AS u(batch_id, seq, stage, wait, charged, hold_id, skip)
         LEFT JOIN batch b ON u.stage = 'parked' AND b.batch_id = u.batch_id
         LEFT JOIN hold h ON h.id = u.hold_id
         WHERE w.batch_id = u.batch_id AND w.seq = u.seq",
        &c.batches,
        &c.seqs,
        &c.stages as &[&str],
        &c.waits,
        &c.charged,
        &c.holds as &[Option<i64>],
        &c.skips,
    )
    .execute(tx)
    .await
    .doing("give work back")?;
    Ok(())
}

pub(super) async fn insert_work(tx: &mut PgConnection, inserts: &[WorkInsert]) -> Result<(), StoreError> {
    if inserts.is_empty() {
        return Ok(());
    }
    let c = work_columns(inserts.iter().map(|i| &i.write));
    let numbers: Vec<i32> = inserts.iter().map(|i| i.number.0).collect();
    let attempts: Vec<i16> = inserts.iter().map(|i| i.attempt).collect();
    let lanes: Vec<&str> = inserts.iter().map(|i| i.lane.as_str()).collect();
    let groups: Vec<Uuid> = inserts.iter().map(|i| i.group).collect();
    sqlx::query!(
        "INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at, attempt, charged, hold_id)
         SELECT u.batch_id, u.seq, u.number_id, u.lane, u.stage, u.turn_group, now() + make_interval(secs => u.wait), u.attempt,
                u.charged, u.hold_id
         FROM unnest($1::uuid[], $2::int[], $3::int[], $4::text[]::lane[], $5::text[]::work_stage[], $6::uuid[], $7::float8[],
                     $8::smallint[], $9::smallint[], $10::bigint[])
             AS u(batch_id, seq, number_id, lane, stage, turn_group, wait, attempt, charged, hold_id)
         ON CONFLICT (batch_id, seq) DO NOTHING",
        &c.batches,
        &c.seqs,
        &numbers,
        &lanes as &[&str],
        &c.stages as &[&str],
        &groups,
        &c.waits,
        &attempts,
        &c.charged,
        &c.holds as &[Option<i64>],
    )
    .execute(tx)
    .await
    .doing("bring work back")?;
    Ok(())
}

/// Locks the tallies by key, then adds what moved, and notes the batches that are completed by it. Returns those of which
/// nothing is left to call, or nothing is pending or uncertain, since then. Batches of one have no row.
pub(super) async fn add_tallies(tx: &mut PgConnection, tallies: &Tallies) -> Result<Vec<Uuid>, StoreError> {
    if tallies.is_empty() {
        return Ok(Vec::new());
    }
    let batches: Vec<Uuid> = tallies.keys().map(|b| b.0).collect();
    let column = |state: MessageState| -> Vec<i32> { tallies.values().map(|deltas| deltas[state as usize]).collect() };
    sqlx::query_scalar!(
        "WITH locked AS MATERIALIZED (
             SELECT t.batch_id FROM batch_tally t WHERE t.batch_id = ANY ($1::uuid[]) ORDER BY t.batch_id FOR NO KEY UPDATE
         ), moved AS (
         UPDATE batch_tally t
         SET pending = t.pending + u.pending, uncertain = t.uncertain + u.uncertain, accepted = t.accepted + u.accepted,
             sent = t.sent + u.sent, delivered = t.delivered + u.delivered, read = t.read + u.read, failed = t.failed + u.failed,
             expired = t.expired + u.expired, suppressed = t.suppressed + u.suppressed, cancelled = t.cancelled + u.cancelled
         FROM locked
         JOIN unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[], $10::int[], $11::int[])
             AS u(batch_id, pending, uncertain, accepted, sent, delivered, read, failed, expired, suppressed, cancelled)
             ON u.batch_id = locked.batch_id
         WHERE t.batch_id = locked.batch_id
         RETURNING t.batch_id, t.pending = 0 AND u.pending < 0 AS dispatched,
                   t.pending + t.uncertain = 0 AND u.pending + u.uncertain < 0 AS completed
         ), audited AS (
         INSERT INTO batch_to_audit (batch_id) SELECT batch_id FROM moved WHERE completed ORDER BY batch_id
         ON CONFLICT (batch_id) DO UPDATE SET since = excluded.since
         )
         SELECT batch_id FROM moved WHERE dispatched OR completed",
        &batches,
        &column(MessageState::Pending),
        &column(MessageState::Uncertain),
        &column(MessageState::Accepted),
        &column(MessageState::Sent),
        &column(MessageState::Delivered),
        &column(MessageState::Read),
        &column(MessageState::Failed),
        &column(MessageState::Expired),
        &column(MessageState::Suppressed),
        &column(MessageState::Cancelled),
    )
    .fetch_all(tx)
    .await
    .doing("move tallies")
}
