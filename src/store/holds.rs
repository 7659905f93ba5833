//! Holds: what is open, and what happens to work when one ends.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::{
    domain::{
        hold::OpenHold,
        ids::{BatchId, HoldId},
    },
    store::{Doing as _, StoreError},
};

/// What may have changed since the last look: open holds, batches cancelled of late, the registry's version.
#[derive(Debug, Default, Clone)]
pub struct Gates {
    /// Open holds by scope.
    pub holds: HashMap<String, OpenHold>,
    /// Batches cancelled within the last hour; a claim sees the older ones itself.
    pub cancelled: Vec<BatchId>,
    /// The registry's version.
    pub registry_version: i64,
}

/// Reads the gates: two small index scans and a row.
pub async fn gates(connection: &mut PgConnection) -> Result<Gates, StoreError> {
    let holds = sqlx::query!("SELECT id, scope, cause, until FROM hold WHERE closed_at IS NULL ORDER BY id DESC")
        .fetch_all(&mut *connection)
        .await
        .doing("read open holds")?;
    let cancelled = sqlx::query_scalar!("SELECT batch_id FROM batch WHERE cancelled_at > now() - interval '1 hour'")
        .fetch_all(&mut *connection)
        .await
        .doing("read cancelled batches")?;
    let registry_version = super::registry::version(connection).await?;
    let holds = holds.into_iter().map(|row| {
        let hold = OpenHold { id: HoldId(row.id), scope: row.scope.clone(), cause: row.cause, until: row.until };
        (row.scope, hold)
    });
    Ok(Gates { holds: holds.collect(), cancelled: cancelled.into_iter().map(BatchId).collect(), registry_version })
}

/// Closes the holds whose time has come.
pub async fn close_ended(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "UPDATE hold SET closed_at = now(), closed_by = 'time' WHERE closed_at IS NULL AND until <= now()"
    )
    .execute(connection)
    .await
    .doing("close holds that ended")?;
    Ok(done.rows_affected())
}

/// Closed holds whose work has not all been given back.
pub async fn to_release(connection: &mut PgConnection) -> Result<Vec<HoldId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM hold WHERE closed_at IS NOT NULL AND released_at IS NULL ORDER BY id LIMIT 20"
    )
    .fetch_all(connection)
    .await
    .doing("look for closed holds")?;
    Ok(ids.into_iter().map(HoldId).collect())
}

/// Notes that nothing is parked under a hold any more.
pub async fn released(connection: &mut PgConnection, hold: HoldId) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE hold SET released_at = now() WHERE id = $1 AND NOT EXISTS (SELECT FROM work WHERE hold_id = $1)",
        hold.0
    )
    .execute(connection)
    .await
    .doing("note that a hold is released")?;
    Ok(())
}
