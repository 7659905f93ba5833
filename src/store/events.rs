//! What is told of messages and batches, read in the transaction that changes them and owed to the outbox by it.
//!
//! Two events about the same message, or the same batch, are written by transactions that lock its row one after the
//! other, so the later one has the higher place in the outbox and is not seen without the earlier one.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{
        event::{BatchTold, EventKind, MessageTold, Tallies},
        failure::FailureClass,
        ids::{BatchId, MessageKey},
        message::MessageState,
    },
    store::{Doing as _, StoreError, outbox::OutboxMessage},
};

/// An event about a message that is being changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfMessage {
    pub(super) key: MessageKey,
    pub(super) kind: EventKind,
    /// Code, class and reason of one that will not arrive.
    pub(super) failure: Option<(String, FailureClass, String)>,
}

fn event(kind: EventKind, about: String, tenant: &str, producer: &str, data: impl Serialize) -> OutboxMessage {
    let event = OutboxMessage::event(Uuid::now_v7(), kind, Some(tenant), Some(producer), data);
    OutboxMessage { about: Some(about), ..event }
}

/// The events about these messages, in order. To be called after the messages are written.
pub(super) async fn of_messages(tx: &mut PgConnection, told: &[OfMessage]) -> Result<Vec<OutboxMessage>, StoreError> {
    if told.is_empty() {
        return Ok(Vec::new());
    }
    let (batches, seqs): (Vec<Uuid>, Vec<i32>) = told.iter().map(|told| (told.key.batch_id.0, told.key.seq)).unzip();
    let rows = sqlx::query!(
        r#"
        SELECT u.place AS "place!", t.name AS tenant, b.producer, b.job_id, b.campaign, b.resend_of, m.ref, m.state::text AS "state!",
               m.attempt, m.accepted_at, m.sent_at, m.delivered_at, m.read_at, m.ended_at
        FROM unnest($1::uuid[], $2::int[]) WITH ORDINALITY AS u(batch_id, seq, place)
        JOIN message m ON m.batch_id = u.batch_id AND m.seq = u.seq
        JOIN batch b ON b.batch_id = u.batch_id
        JOIN tenant t ON t.id = b.tenant_id
        ORDER BY u.place
        "#,
        &batches,
        &seqs
    )
    .fetch_all(tx)
    .await
    .doing("read what is told of messages")?;
    let told = rows.into_iter().filter_map(|row| {
        let told = told.get(usize::try_from(row.place - 1).ok()?)?;
        let state = row.state.parse().unwrap_or(MessageState::Pending);
        let (code, class, reason) = told
            .failure
            .clone()
            .map_or((None, None, None), |(code, class, reason)| (Some(code), Some(class), Some(reason)));
        let data = MessageTold {
            id: told.key.to_string(),
            batch_id: told.key.batch_id,
            seq: told.key.seq,
            job_id: row.job_id,
            campaign: row.campaign,
            r#ref: row.r#ref,
            resend_of: row.resend_of.map(BatchId),
            state,
            attempt: row.attempt,
            code,
            class,
            reason,
            accepted_at: row.accepted_at,
            sent_at: row.sent_at,
            delivered_at: row.delivered_at,
            read_at: row.read_at,
            // One that was lifted keeps the time at which it had failed.
            ended_at: row.ended_at.filter(|_: &DateTime<Utc>| state.has_ended_in_vain()),
        };
        Some(event(told.kind, told.key.to_string(), &row.tenant, &row.producer, data))
    });
    Ok(told.collect())
}

/// Tells of these batches, whose tallies this transaction has locked, what has not been told of them yet: that nothing is
/// left to call, that nothing is pending or uncertain. Not before all messages of a batch are made.
pub(super) async fn of_batches(tx: &mut PgConnection, batches: &[Uuid]) -> Result<Vec<OutboxMessage>, StoreError> {
    let mut told = Vec::new();
    if batches.is_empty() {
        return Ok(told);
    }
    let query = sqlx::query!(
        r#"
        WITH ended AS MATERIALIZED (
            SELECT t.batch_id, t.dispatched_at IS NULL AS is_dispatched,
                   t.completed_at IS NULL AND t.uncertain = 0 AS is_completed
            FROM batch_tally t JOIN batch b ON b.batch_id = t.batch_id AND b.state = 'planned'
            WHERE t.batch_id = ANY ($1) AND t.pending = 0
              AND (t.dispatched_at IS NULL OR (t.completed_at IS NULL AND t.uncertain = 0))
        ), told AS (
            UPDATE batch_tally t
            SET dispatched_at = coalesce(t.dispatched_at, now()),
                completed_at = CASE WHEN e.is_completed THEN now() ELSE t.completed_at END
            FROM ended e WHERE t.batch_id = e.batch_id
        )
        SELECT e.batch_id, e.is_dispatched AS "is_dispatched!", e.is_completed AS "is_completed!", n.name AS tenant, b.producer,
               b.job_id, b.campaign, b.resend_of, b.recipients, b.rejected, t.pending, t.uncertain, t.accepted, t.sent,
               t.delivered, t.read, t.failed, t.expired, t.suppressed, t.cancelled
        FROM ended e
        JOIN batch_tally t ON t.batch_id = e.batch_id
        JOIN batch b ON b.batch_id = e.batch_id
        JOIN tenant n ON n.id = b.tenant_id
        ORDER BY e.batch_id
        "#,
        batches
    );
    let rows = query.fetch_all(tx).await.doing("tell that batches have ended")?;
    for row in rows {
        let data = BatchTold {
            batch_id: BatchId(row.batch_id),
            job_id: row.job_id,
            campaign: row.campaign,
            resend_of: row.resend_of.map(BatchId),
            recipients: row.recipients,
            rejected: row.rejected,
            tallies: Tallies {
                pending: row.pending,
                uncertain: row.uncertain,
                accepted: row.accepted,
                sent: row.sent,
                delivered: row.delivered,
                read: row.read,
                failed: row.failed,
                expired: row.expired,
                suppressed: row.suppressed,
                cancelled: row.cancelled,
            },
        };
        let kinds = [(row.is_dispatched, EventKind::BatchDispatched), (row.is_completed, EventKind::BatchCompleted)];
        for (_, kind) in kinds.into_iter().filter(|(is_told, _)| *is_told) {
            told.push(event(kind, row.batch_id.to_string(), &row.tenant, &row.producer, &data));
        }
    }
    Ok(told)
}
