//! The first half of [`super::apply`]: work, messages and holds are locked, each kind by key.

use std::{collections::HashMap, time::Duration};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    NewHold,
    rows::{BatchRow, Holds, MessageRow, Stage, WorkRow, columns, seconds},
};
use crate::{
    domain::{
        event::Asks,
        hold::{Resume, Route},
        ids::{AccountId, BatchId, HoldId, MessageKey, NumberId, TemplateId, TenantId},
        lane::Lane,
        message::MessageState,
    },
    store::{Doing as _, StoreError},
};

/// Locks the work rows of these messages, by key.
pub(super) async fn lock_work(
    tx: &mut PgConnection,
    keys: &[MessageKey],
) -> Result<HashMap<MessageKey, WorkRow>, StoreError> {
    let (batches, seqs) = columns(keys.iter());
    let rows = sqlx::query!(
        r#"
        SELECT w.batch_id, w.seq, w.stage::text AS "stage!", w.attempt, w.charged, w.number_id,
               extract(epoch FROM w.until - now())::float8 AS left
        FROM unnest($1::uuid[], $2::int[]) AS u(batch_id, seq)
        JOIN work w ON w.batch_id = u.batch_id AND w.seq = u.seq
        ORDER BY w.batch_id, w.seq FOR UPDATE OF w
        "#,
        &batches,
        &seqs
    )
    .fetch_all(tx)
    .await
    .doing("lock work")?;
    let rows = rows.into_iter().map(|row| {
        let stage = match row.stage.as_str() {
            "ready" => Stage::Ready,
            "calling" => Stage::Calling,
            "parked" => Stage::Parked,
            _ => Stage::Unsure,
        };
        let key = MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq };
        let left = row.left.map(|left| Duration::try_from_secs_f64(left).unwrap_or(Duration::ZERO));
        let number = NumberId(row.number_id);
        (key, WorkRow { stage, attempt: row.attempt, charged: row.charged, number, left })
    });
    Ok(rows.collect())
}

/// Locks these messages, by key.
pub(super) async fn lock_messages(
    tx: &mut PgConnection,
    keys: &[MessageKey],
) -> Result<HashMap<MessageKey, MessageRow>, StoreError> {
    let (batches, seqs) = columns(keys.iter());
    let rows = sqlx::query!(
        r#"
        SELECT m.batch_id, m.seq, m.state::text AS "state!", m.attempt, m.dropped_attempt, b.number_id,
               'delivered' = ANY (b.notify) AS "asks_delivered!", 'read' = ANY (b.notify) AS "asks_read!",
               m.accepted_at IS NOT NULL AS "is_grouped!"
        FROM unnest($1::uuid[], $2::int[]) AS u(batch_id, seq)
        JOIN message m ON m.batch_id = u.batch_id AND m.seq = u.seq
        JOIN batch b ON b.batch_id = u.batch_id
        ORDER BY m.batch_id, m.seq FOR NO KEY UPDATE OF m
        "#,
        &batches,
        &seqs
    )
    .fetch_all(tx)
    .await
    .doing("lock messages")?;
    let rows = rows.into_iter().map(|row| {
        let key = MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq };
        let state = row.state.parse().unwrap_or(MessageState::Pending);
        let asks = Asks { delivered: row.asks_delivered, read: row.asks_read };
        let number = NumberId(row.number_id);
        let (attempt, dropped, is_grouped) = (row.attempt, row.dropped_attempt, row.is_grouped);
        (key, MessageRow { state, attempt, dropped, number, asks, is_grouped })
    });
    Ok(rows.collect())
}

/// What bad news needs of the batches of these messages.
pub(super) async fn read_batches(
    tx: &mut PgConnection,
    keys: &[MessageKey],
) -> Result<HashMap<BatchId, BatchRow>, StoreError> {
    let mut ids: Vec<Uuid> = keys.iter().map(|key| key.batch_id.0).collect();
    ids.dedup();
    let rows = sqlx::query!(
        r#"
        SELECT b.batch_id, b.tenant_id, b.account_id, b.number_id, b.template_id, b.lane::text AS "lane!",
               b.import_id IS NOT NULL OR (t.batch_id IS NOT NULL AND b.recipients > 1) AS "own_turn!", a.provider, a.portfolio,
               extract(epoch FROM b.expires_at - now())::float8 AS "left!", b.windows IS NOT NULL AS "has_hours!"
        FROM unnest($1::uuid[]) AS u(batch_id)
        JOIN batch b ON b.batch_id = u.batch_id
        JOIN account a ON a.id = b.account_id
        LEFT JOIN batch_tally t ON t.batch_id = b.batch_id
        "#,
        &ids
    )
    .fetch_all(tx)
    .await
    .doing("read batches")?;
    let rows = rows.into_iter().map(|row| {
        let route = Route {
            provider: row.provider,
            portfolio: row.portfolio.map(|portfolio| format!("{}/{portfolio}", row.tenant_id)),
            account: AccountId(row.account_id),
            number: NumberId(row.number_id),
            template: TemplateId(row.template_id),
            lane: row.lane.parse().unwrap_or(Lane::Marketing),
        };
        let batch = BatchRow {
            tenant: TenantId(row.tenant_id),
            route,
            left: Duration::try_from_secs_f64(row.left).unwrap_or(Duration::ZERO),
            group: if row.own_turn { row.batch_id } else { Uuid::nil() },
            has_hours: row.has_hours,
        };
        (BatchId(row.batch_id), batch)
    });
    Ok(rows.collect())
}

/// Opens the holds that are not open yet, and locks those that were seen open; says which are new.
pub(super) async fn open_holds(
    tx: &mut PgConnection,
    wanted: Vec<&NewHold>,
    seen: &[i64],
) -> Result<(Holds, Vec<NewHold>), StoreError> {
    let (mut holds, mut opened) = (Holds::default(), Vec::new());
    if !seen.is_empty() {
        let open = sqlx::query_scalar!(
            "SELECT id FROM hold WHERE id = ANY ($1) AND closed_at IS NULL ORDER BY id FOR SHARE",
            seen
        )
        .fetch_all(&mut *tx)
        .await
        .doing("lock holds")?;
        holds.open = open.into_iter().map(HoldId).collect();
    }
    for hold in wanted {
        let row = sqlx::query!(
            r#"
            INSERT INTO hold (tenant_id, scope, cause, detail, resume, until, probe_at)
            VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), now() + make_interval(secs => $7))
            ON CONFLICT (scope, cause) WHERE closed_at IS NULL DO UPDATE SET scope = excluded.scope
            RETURNING id, (xmax = 0) AS "new!"
            "#,
            hold.tenant.map(|t| t.0),
            hold.scope.to_string(),
            hold.cause,
            hold.detail,
            hold.resume.as_str(),
            hold.lasts.filter(|_| hold.resume != Resume::Probe).map(seconds),
            hold.lasts.filter(|_| hold.resume == Resume::Probe).map(seconds),
        )
        .fetch_one(&mut *tx)
        .await
        .doing("open a hold")?;
        holds.asked.insert((hold.scope.clone(), hold.cause.clone()), HoldId(row.id));
        if row.new {
            opened.push(hold.clone());
        }
    }
    Ok((holds, opened))
}
