//! The monthly partitions of everything that is kept by batch.

use sqlx::PgConnection;

use crate::store::{Doing as _, StoreError};

/// Makes what is missing, from last month to the seven that `send_at` may reach; says how many were made.
pub async fn ensure(connection: &mut PgConnection) -> Result<i32, StoreError> {
    let made = sqlx::query_scalar!("SELECT ensure_partitions(now() - interval '1 month', 9)")
        .fetch_one(connection)
        .await
        .doing("make partitions")?;
    Ok(made.unwrap_or_default())
}
