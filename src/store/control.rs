//! What a person stops by its name, a batch or one message: held, let go on, or given up.

use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};

use crate::{
    domain::{
        act::Act,
        hold::HoldScope,
        ids::{BatchId, MessageKey, TenantId},
        message::MessageEvent,
    },
    store::{
        Doing as _, StoreError,
        acts::{self, NewAct},
        campaigns::Person,
        holds_list::{self, PERSON},
        messages::{self, Change, Rules},
    },
};

/// What of a batch was still to do when it was stopped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Stopped {
    /// Messages that are not sent from now on.
    pub waiting: i64,
    /// Messages that were being called already: they may arrive.
    pub calling: i64,
    /// Messages that may have arrived before.
    pub uncertain: i64,
}

/// What goes on, and what does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Released {
    /// Whether it was paused.
    pub was_paused: bool,
    /// Holds on the batch that are open all the same: an approval, its campaign's pause.
    pub holds: Vec<i64>,
}

/// What became of a wish to give up one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is not sent.
    Now,
    /// It is being called this moment, or nobody knows whether it arrived.
    TooLate,
    /// Nothing is left to do for it.
    Ended,
    /// There is no such message of this tenant.
    Unknown,
}

/// Holds a batch in the name of `by`; `None` when the tenant has no such batch.
pub async fn pause(
    connection: &mut PgConnection,
    tenant: TenantId,
    batch: BatchId,
    by: &Person,
    reason: &str,
) -> Result<Option<Stopped>, StoreError> {
    let mut tx = connection.begin().await.doing("begin to pause a batch")?;
    if !holds_list::owns_batch(&mut tx, tenant, batch).await? {
        return Ok(None);
    }
    holds_list::open(&mut tx, Some(tenant), &HoldScope::Batch(batch), &by.name, reason).await?;
    let stopped = left(&mut tx, batch).await?;
    acts::record(&mut tx, &on_batch(tenant, by, Act::Pause, batch, reason, stopped.waiting)).await?;
    tx.commit().await.doing("pause a batch")?;
    Ok(Some(stopped))
}

/// Closes the hold of [`pause`]; `None` when the tenant has no such batch.
pub async fn resume(
    connection: &mut PgConnection,
    tenant: TenantId,
    batch: BatchId,
    by: &Person,
    reason: &str,
) -> Result<Option<Released>, StoreError> {
    let mut tx = connection.begin().await.doing("begin to resume a batch")?;
    if !holds_list::owns_batch(&mut tx, tenant, batch).await? {
        return Ok(None);
    }
    let released = sqlx::query!(
        r#"WITH closed AS (
               UPDATE hold SET closed_at = now(), closed_by = $3, reason = $4
               WHERE scope = $1 AND cause = $2 AND closed_at IS NULL RETURNING id
           )
           SELECT EXISTS (SELECT FROM closed) AS "was_paused!",
                  ARRAY(SELECT id FROM hold WHERE scope = $1 AND cause <> $2 AND closed_at IS NULL ORDER BY id) AS "holds!""#,
        HoldScope::Batch(batch).to_string(),
        PERSON,
        by.name,
        reason
    )
    .fetch_one(&mut *tx)
    .await
    .doing("resume a batch")?;
    let released_now = i64::from(released.was_paused);
    acts::record(&mut tx, &on_batch(tenant, by, Act::Resume, batch, reason, released_now)).await?;
    tx.commit().await.doing("commit the end of a pause")?;
    Ok(Some(Released { was_paused: released.was_paused, holds: released.holds }))
}

/// Gives up what a batch has not sent yet, for good; the sweep settles its messages. `None` when the tenant has no such
/// batch. One that is through stays as it is.
pub async fn cancel_batch(
    connection: &mut PgConnection,
    tenant: TenantId,
    batch: BatchId,
    by: &Person,
    reason: &str,
) -> Result<Option<Stopped>, StoreError> {
    let mut tx = connection.begin().await.doing("begin to cancel a batch")?;
    if !holds_list::owns_batch(&mut tx, tenant, batch).await? {
        return Ok(None);
    }
    let stopped = left(&mut tx, batch).await?;
    mark(&mut tx, &[batch]).await?;
    acts::record(&mut tx, &on_batch(tenant, by, Act::Cancel, batch, reason, stopped.waiting)).await?;
    tx.commit().await.doing("cancel a batch")?;
    Ok(Some(stopped))
}

fn on_batch<'a>(tenant: TenantId, by: &'a Person, act: Act, batch: BatchId, reason: &'a str, count: i64) -> NewAct<'a> {
    NewAct { count, ..NewAct::on(tenant, by, act, HoldScope::Batch(batch).to_string(), reason) }
}

/// Marks those batches as cancelled that are not through. The first time counts.
pub async fn mark(connection: &mut PgConnection, batches: &[BatchId]) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE batch b SET cancelled_at = now()
         WHERE b.batch_id = ANY($1) AND b.cancelled_at IS NULL
           AND (b.state = 'planning' OR EXISTS (SELECT FROM work w WHERE w.batch_id = b.batch_id AND w.stage <> 'unsure'))",
        &batches.iter().map(|batch| batch.0).collect::<Vec<_>>()
    )
    .execute(connection)
    .await
    .doing("cancel batches")?;
    Ok(())
}

/// What is left to do of a batch.
async fn left(connection: &mut PgConnection, batch: BatchId) -> Result<Stopped, StoreError> {
    sqlx::query_as!(
        Stopped,
        r#"SELECT count(*) FILTER (WHERE stage IN ('ready', 'parked')) + coalesce(max(unmade.rows), 0) AS "waiting!",
                  count(*) FILTER (WHERE stage = 'calling') AS "calling!", count(*) FILTER (WHERE stage = 'unsure') AS "uncertain!"
           FROM (SELECT (SELECT i.good - b.recipients FROM batch b JOIN import i ON i.id = b.import_id
                         WHERE b.batch_id = $1 AND b.state = 'planning') AS rows) unmade
           LEFT JOIN work w ON w.batch_id = $1"#,
        batch.0
    )
    .fetch_one(connection)
    .await
    .doing("count what is left of a batch")
}

/// Gives up one message that is not being called.
pub async fn cancel_message(
    connection: &mut PgConnection,
    tenant: TenantId,
    key: MessageKey,
    (by, reason): (&Person, &str),
    rules: Rules,
) -> Result<Cancelled, StoreError> {
    let mut tx = connection.begin().await.doing("begin to cancel a message")?;
    let Some(found) = work_of(&mut tx, tenant, key).await? else {
        return Ok(Cancelled::Unknown);
    };
    let attempt = match found {
        Left::Nothing => return Ok(Cancelled::Ended),
        Left::UnderWay => return Ok(Cancelled::TooLate),
        Left::Waiting(attempt) => attempt,
    };
    // Whoever claims it meanwhile raises the attempt, and this change is then about another one.
    messages::apply(&mut tx, &[Change::new(key, attempt, MessageEvent::Cancelled)], rules).await?;
    if !matches!(work_of(&mut tx, tenant, key).await?, Some(Left::Nothing)) {
        return Ok(Cancelled::TooLate);
    }
    acts::record(&mut tx, &NewAct::on(tenant, by, Act::Cancel, format!("message:{key}"), reason)).await?;
    tx.commit().await.doing("cancel a message")?;
    Ok(Cancelled::Now)
}

enum Left {
    Nothing,
    UnderWay,
    Waiting(i16),
}

async fn work_of(connection: &mut PgConnection, tenant: TenantId, key: MessageKey) -> Result<Option<Left>, StoreError> {
    let found = sqlx::query!(
        r#"SELECT w.attempt AS "attempt?", w.stage IN ('ready', 'parked') AS "is_waiting?"
           FROM batch b JOIN message m ON m.batch_id = b.batch_id
           LEFT JOIN work w ON w.batch_id = m.batch_id AND w.seq = m.seq
           WHERE b.batch_id = $1 AND b.tenant_id = $3 AND m.seq = $2"#,
        key.batch_id.0,
        key.seq,
        tenant.0
    )
    .fetch_optional(connection)
    .await
    .doing("find the work of a message")?;
    Ok(found.map(|row| match (row.attempt, row.is_waiting) {
        (Some(attempt), Some(true)) => Left::Waiting(attempt),
        (Some(_), _) => Left::UnderWay,
        (None, _) => Left::Nothing,
    }))
}
