//! Batches of imports: their messages are made chunk by chunk.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{
        hold::OpenHold,
        ids::{BatchId, NumberId, TemplateId},
        lane::Lane,
    },
    store::{Doing as _, StoreError, events, outbox},
};

/// A batch whose messages are still to be made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The batch.
    pub batch: BatchId,
    /// From this import.
    pub import: Uuid,
    /// From this number.
    pub number: NumberId,
    /// With this template.
    pub template: TemplateId,
    /// In this lane.
    pub lane: Lane,
    /// Rows up to this one are made.
    pub planned_row: i64,
    /// Messages that are made.
    pub made: i32,
    /// Whether each recipient has its own hours.
    pub has_hours: bool,
    /// Not before.
    pub send_at: DateTime<Utc>,
    /// Not after.
    pub expires_at: DateTime<Utc>,
    /// Whether that has come.
    pub is_due: bool,
    /// Whether somebody cancelled it meanwhile.
    pub is_cancelled: bool,
}

/// The first batch to plan that no other process is planning, locked until the transaction ends.
pub async fn take_plan(connection: &mut PgConnection) -> Result<Option<Plan>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT batch_id, import_id AS "import_id!", number_id, template_id, lane::text AS "lane!", planned_row,
                  recipients, windows IS NOT NULL AS "has_hours!", send_at, expires_at, send_at <= now() AS "is_due!",
                  cancelled_at IS NOT NULL AS "is_cancelled!"
           FROM batch WHERE state = 'planning' AND import_id IS NOT NULL
           ORDER BY batch_id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"#
    )
    .fetch_optional(connection)
    .await
    .doing("find a batch to plan")?;
    Ok(row.map(|row| Plan {
        batch: BatchId(row.batch_id),
        import: row.import_id,
        number: NumberId(row.number_id),
        template: TemplateId(row.template_id),
        lane: row.lane.parse().unwrap_or(Lane::Marketing),
        planned_row: row.planned_row,
        made: row.recipients,
        has_hours: row.has_hours,
        send_at: row.send_at,
        expires_at: row.expires_at,
        is_due: row.is_due,
        is_cancelled: row.is_cancelled,
    }))
}

/// Makes the messages of the next `chunk` rows, with their work and tally. Returns how many there were.
pub async fn plan_chunk(
    connection: &mut PgConnection,
    plan: &Plan,
    hold: Option<&OpenHold>,
    chunk: i64,
) -> Result<i64, StoreError> {
    let made = sqlx::query!(
        r#"WITH base AS (
               SELECT coalesce(max(seq), 0) AS seq FROM message WHERE batch_id = $1
           ), next AS MATERIALIZED (
               SELECT row, (base.seq + row_number() OVER (ORDER BY row))::integer AS seq, recipient, ref, time_zone, params
               FROM base, (SELECT * FROM import_row WHERE import_id = $2 AND row > $3 ORDER BY row LIMIT $4) r
           ), worked AS (
               INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at, hold_id)
               SELECT $1, seq, $5, $6::text::lane, (CASE WHEN $7::bigint IS NULL THEN 'ready' ELSE 'parked' END)::work_stage,
                      $1, CASE WHEN $7 IS NULL THEN $9 ELSE least($8::timestamptz, $10) END, $7
               FROM next
           ), written AS (
               INSERT INTO message (batch_id, seq, recipient, ref, time_zone, params)
               SELECT $1, seq, recipient, ref, time_zone, nullif(params, '{}'::jsonb) FROM next
           )
           SELECT count(*) AS "count!", max(row) AS last FROM next"#,
        plan.batch.0,
        plan.import,
        plan.planned_row,
        chunk,
        plan.number.0,
        plan.lane.as_str(),
        hold.map(|hold| hold.id.0),
        hold.and_then(|hold| hold.until),
        plan.send_at,
        plan.expires_at
    )
    .fetch_one(&mut *connection)
    .await
    .doing("make the messages of a batch")?;
    let count = i32::try_from(made.count).unwrap_or(i32::MAX);
    sqlx::query!("UPDATE batch_tally SET pending = pending + $2 WHERE batch_id = $1", plan.batch.0, count)
        .execute(&mut *connection)
        .await
        .doing("count the messages of a batch")?;
    sqlx::query!(
        "UPDATE batch SET recipients = recipients + $2, planned_row = coalesce($3, planned_row) WHERE batch_id = $1",
        plan.batch.0,
        count,
        made.last
    )
    .execute(connection)
    .await
    .doing("record how far a batch is planned")?;
    Ok(made.count)
}

/// Says that all messages of a batch are made: from now on they are sent. One of which nothing is left has ended by this.
pub async fn finish_plan(connection: &mut PgConnection, batch: BatchId) -> Result<(), StoreError> {
    sqlx::query!("UPDATE batch SET state = 'planned' WHERE batch_id = $1", batch.0)
        .execute(&mut *connection)
        .await
        .doing("end the planning of a batch")?;
    // Whoever ends its last message meanwhile sees a batch that is not planned yet, and leaves it to this.
    sqlx::query_scalar!("SELECT batch_id FROM batch_tally WHERE batch_id = $1 FOR NO KEY UPDATE", batch.0)
        .fetch_optional(&mut *connection)
        .await
        .doing("lock the tally of a batch")?;
    let told = events::of_batches(connection, &[batch.0]).await?;
    outbox::insert(connection, &told).await
}
