//! Repairs that are done once in a long while, by one process of all.

use std::time::Duration;

use sqlx::PgConnection;

use crate::store::{Doing as _, StoreError};

/// Takes the round of this name, if nobody began it within `every`.
pub async fn begin(connection: &mut PgConnection, name: &str, every: Duration) -> Result<bool, StoreError> {
    let taken = sqlx::query_scalar!(
        "INSERT INTO round (name, begun) VALUES ($1, now())
         ON CONFLICT (name) DO UPDATE SET begun = now() WHERE round.begun <= now() - make_interval(secs => $2)
         RETURNING true",
        name,
        every.as_secs_f64()
    )
    .fetch_optional(connection)
    .await
    .doing("begin a round")?;
    Ok(taken.is_some())
}
