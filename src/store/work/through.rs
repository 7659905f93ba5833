//! Claims under a hold that lets a few messages through: a probe of one, or the first of a batch. The row of the hold or
//! canary says so in the same statement, so that it holds for the whole fleet.

use std::time::Duration;

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{Claimed, Row, Want};
use crate::{
    domain::{
        hold::OpenHold,
        ids::{HoldId, NumberId},
        template::Params,
    },
    store::{Doing as _, StoreError},
};

/// How a claim is named and how long it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// To be read back by.
    pub id: Uuid,
    /// From now.
    pub deadline: Duration,
}

/// Claims one message under a hold whose time for a probe has come: one that is parked under it, else the first of
/// `wants`. Whoever moves the hold's row has the right; the next probe comes after `next`.
pub async fn probe(
    connection: &mut PgConnection,
    hold: &OpenHold,
    leases: &[(NumberId, Uuid)],
    wants: &[Want],
    claim: Claim,
    next: Duration,
) -> Result<Claimed, StoreError> {
    let (numbers, fences): (Vec<i32>, Vec<Uuid>) = leases.iter().map(|(number, lease)| (number.0, *lease)).unzip();
    let from: Vec<i32> = wants.iter().map(|w| w.number.0).collect();
    let lanes: Vec<String> = wants.iter().map(|w| w.lane.to_string()).collect();
    let groups: Vec<Uuid> = wants.iter().map(|w| w.group).collect();
    let row = sqlx::query_as!(
        Row,
        r#"
        WITH mine AS MATERIALIZED (
            SELECT l.number_id FROM unnest($2::int[], $3::uuid[]) AS u(number_id, lease_id)
            JOIN number_lease l ON l.number_id = u.number_id AND l.lease_id = u.lease_id
            JOIN worker o ON o.worker_id = l.worker_id AND NOT o.is_dead AND o.expires_at > now()
        ), parked AS MATERIALIZED (
            SELECT w.batch_id, w.seq FROM work w
            WHERE w.hold_id = $1 AND w.number_id IN (SELECT number_id FROM mine) LIMIT 1 FOR UPDATE SKIP LOCKED
        ), ready AS MATERIALIZED (
            SELECT k.batch_id, k.seq
            FROM unnest($4::int[], $5::text[]::lane[], $6::uuid[]) AS t(number_id, lane, turn_group)
            JOIN mine ON mine.number_id = t.number_id
            CROSS JOIN LATERAL (
                SELECT w.batch_id, w.seq FROM work w
                WHERE w.stage = 'ready' AND w.number_id = t.number_id AND w.lane = t.lane
                  AND w.turn_group = t.turn_group AND w.wake_at <= now() ORDER BY w.wake_at LIMIT 1 FOR UPDATE SKIP LOCKED
            ) k
            WHERE NOT EXISTS (SELECT FROM parked) AND NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = t.turn_group AND b.state = 'planning')
              AND NOT EXISTS (SELECT FROM canary c JOIN hold h ON h.id = c.hold_id AND h.closed_at IS NULL WHERE c.batch_id = t.turn_group)
            LIMIT 1
        ), one AS MATERIALIZED (SELECT * FROM parked UNION ALL SELECT * FROM ready), passed AS (
            UPDATE hold SET probes = probes + 1, probe_at = now() + make_interval(secs => $7)
            WHERE id = $1 AND closed_at IS NULL AND resume = 'probe' AND probe_at <= now() AND EXISTS (SELECT FROM one)
            RETURNING id
        ), claimed AS (
            UPDATE work w
            SET stage = 'calling', hold_id = NULL, attempt = w.attempt + 1, claim_id = $8, wake_at = now() + make_interval(secs => $9)
            FROM one, passed WHERE w.batch_id = one.batch_id AND w.seq = one.seq
            RETURNING w.batch_id, w.seq, w.attempt, w.charged, w.number_id, w.lane, w.turn_group, w.until
        )
        SELECT c.batch_id, c.seq, c.attempt, c.charged, c.number_id, c.lane::text AS "lane!", c.turn_group,
               m.recipient, m.params AS "params: Json<Params>", b.template_id, b.params AS "defaults: Json<Params>",
               work_late(c.until, b.expires_at) AS late, b.cancelled_at IS NOT NULL AS "cancelled!",
               CASE WHEN EXISTS (SELECT FROM suppression s WHERE s.lifted_at IS NULL AND s.scope <> 'marketing') OR (c.lane = 'marketing' AND EXISTS (SELECT FROM suppression s WHERE s.lifted_at IS NULL)) THEN
               (SELECT s.scope FROM suppression s WHERE s.recipient = m.recipient AND s.tenant_id = b.tenant_id AND s.lifted_at IS NULL AND (s.account_id IS NULL OR s.account_id = b.account_id) AND (s.scope <> 'marketing' OR c.lane = 'marketing') LIMIT 1) END AS suppressed
        FROM claimed c
        JOIN message m ON m.batch_id = c.batch_id AND m.seq = c.seq JOIN batch b ON b.batch_id = c.batch_id
        "#,
        hold.id.0,
        &numbers,
        &fences,
        &from,
        &lanes,
        &groups,
        next.as_secs_f64(),
        claim.id,
        claim.deadline.as_secs_f64(),
    )
    .fetch_optional(connection)
    .await
    .doing("let a message through a hold")?;
    Ok(row.into_iter().collect())
}

/// Claims some of the first messages of a batch, as many as its canary has places left.
pub async fn canary(
    connection: &mut PgConnection,
    hold: HoldId,
    want: &Want,
    claim: Claim,
) -> Result<Claimed, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        WITH open AS MATERIALIZED (
            -- Locked: two claimers never count the same places.
            SELECT c.hold_id, c.messages - c.let_through AS places
            FROM canary c JOIN hold h ON h.id = c.hold_id AND h.closed_at IS NULL AND h.resume = 'canary'
            WHERE c.hold_id = $1 AND EXISTS (
                SELECT FROM number_lease l
                JOIN worker o ON o.worker_id = l.worker_id AND NOT o.is_dead AND o.expires_at > now()
                WHERE l.number_id = $2 AND l.lease_id = $3)
              AND NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = $5 AND b.state = 'planning')
            FOR UPDATE OF c
        ), due AS MATERIALIZED (
            SELECT w.batch_id, w.seq FROM work w
            WHERE w.stage = 'ready' AND w.number_id = $2 AND w.lane = $4::text::lane AND w.turn_group = $5
              AND w.wake_at <= now()
            ORDER BY w.wake_at LIMIT least($6::int, (SELECT places FROM open)) FOR UPDATE SKIP LOCKED
        ), taken AS (
            UPDATE canary c
            SET let_through = c.let_through + (SELECT count(*) FROM due)::int, started_at = coalesce(c.started_at, now())
            FROM open WHERE c.hold_id = open.hold_id AND open.places > 0 RETURNING c.hold_id
        ), claimed AS (
            UPDATE work w
            SET stage = 'calling', attempt = w.attempt + 1, claim_id = $7, wake_at = now() + make_interval(secs => $8)
            FROM due, taken WHERE w.batch_id = due.batch_id AND w.seq = due.seq
            RETURNING w.batch_id, w.seq, w.attempt, w.charged, w.number_id, w.lane, w.turn_group, w.until
        )
        SELECT c.batch_id, c.seq, c.attempt, c.charged, c.number_id, c.lane::text AS "lane!", c.turn_group,
               m.recipient, m.params AS "params: Json<Params>", b.template_id, b.params AS "defaults: Json<Params>",
               work_late(c.until, b.expires_at) AS late, b.cancelled_at IS NOT NULL AS "cancelled!",
               CASE WHEN EXISTS (SELECT FROM suppression s WHERE s.lifted_at IS NULL AND s.scope <> 'marketing') OR (c.lane = 'marketing' AND EXISTS (SELECT FROM suppression s WHERE s.lifted_at IS NULL)) THEN
               (SELECT s.scope FROM suppression s WHERE s.recipient = m.recipient AND s.tenant_id = b.tenant_id AND s.lifted_at IS NULL AND (s.account_id IS NULL OR s.account_id = b.account_id) AND (s.scope <> 'marketing' OR c.lane = 'marketing') LIMIT 1) END AS suppressed
        FROM claimed c
        JOIN message m ON m.batch_id = c.batch_id AND m.seq = c.seq JOIN batch b ON b.batch_id = c.batch_id
        "#,
        hold.0,
        want.number.0,
        want.lease,
        want.lane.as_str(),
        want.group,
        i32::try_from(want.most).unwrap_or(i32::MAX),
        claim.id,
        claim.deadline.as_secs_f64(),
    )
    .fetch_all(connection)
    .await
    .doing("claim the first messages of a batch")?;
    Ok(rows.into_iter().collect())
}
