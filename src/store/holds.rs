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
    pub holds: HashMap<String, Vec<OpenHold>>,
    /// Batches cancelled within the last hour; a claim sees the older ones itself.
    pub cancelled: Vec<BatchId>,
    /// The registry's version.
    pub registry_version: i64,
}

/// Reads the gates: two small index scans and a row.
pub async fn gates(connection: &mut PgConnection) -> Result<Gates, StoreError> {
    // What the first messages of a batch wait under is met by the look and the claim themselves.
    let rows = sqlx::query!(
        r#"SELECT id, scope, cause, until, resume = 'probe' AS "is_probed!",
                  resume = 'probe' AND probe_at <= now() AS "is_probe_due!", probes
           FROM hold WHERE closed_at IS NULL AND resume <> 'canary' ORDER BY id"#
    )
    .fetch_all(&mut *connection)
    .await
    .doing("read open holds")?;
    let cancelled = sqlx::query_scalar!("SELECT batch_id FROM batch WHERE cancelled_at > now() - interval '1 hour'")
        .fetch_all(&mut *connection)
        .await
        .doing("read cancelled batches")?;
    let registry_version = super::registry::version(connection).await?;
    let mut holds: HashMap<String, Vec<OpenHold>> = HashMap::new();
    for row in rows {
        holds.entry(row.scope.clone()).or_default().push(OpenHold {
            id: HoldId(row.id),
            scope: row.scope,
            cause: row.cause,
            until: row.until,
            is_probed: row.is_probed,
            is_probe_due: row.is_probe_due,
            probes: u32::try_from(row.probes).unwrap_or_default(),
        });
    }
    Ok(Gates { holds, cancelled: cancelled.into_iter().map(BatchId).collect(), registry_version })
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

/// Keeps batches for a person whose first messages did not all have an outcome in time.
pub async fn stay_undecided(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "UPDATE hold h
         SET resume = 'person', detail = format('%s of the first %s messages had an outcome in time', c.good + c.faulty, c.messages)
         FROM canary c
         WHERE h.id = c.hold_id AND h.closed_at IS NULL AND h.resume = 'canary'
           AND c.started_at < now() - make_interval(secs => c.wait_s)
           -- where recipients have hours, there may be nobody yet to go out to
           AND (c.let_through > c.good + c.faulty
                OR NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = c.batch_id AND b.windows IS NOT NULL))"
    )
    .execute(connection)
    .await
    .doing("keep undecided batches for a person")?;
    Ok(done.rows_affected())
}

/// Ends the canaries of batches that nothing more is sent of.
pub async fn close_pointless(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "UPDATE hold h SET closed_at = now(), closed_by = 'canary', reason = 'the batch has ended'
         FROM canary c JOIN batch b ON b.batch_id = c.batch_id
         WHERE h.id = c.hold_id AND h.closed_at IS NULL AND h.resume = 'canary'
           AND (b.cancelled_at IS NOT NULL OR b.expires_at <= now())"
    )
    .execute(connection)
    .await
    .doing("end canaries of ended batches")?;
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
