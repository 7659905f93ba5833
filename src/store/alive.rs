//! The sign of life, and the hold that is opened when it tells of a database that went back in time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};

use crate::{
    domain::{
        alive::{Alarm, LastSeen, alarm},
        hold::{HoldScope, Resume},
    },
    store::{Doing as _, StoreError},
};

/// Gives a sign of life. When the last one alarms and there is work, a hold over everything is opened in the same
/// transaction; the answer is that alarm and the time of the last sign of life.
pub async fn beat(connection: &mut PgConnection, gap: Duration) -> Result<Option<(Alarm, DateTime<Utc>)>, StoreError> {
    let mut tx = connection.begin().await.doing("begin a sign of life")?;
    let last = sqlx::query!(
        r#"SELECT last_alive, extract(epoch FROM now() - last_alive)::float8 AS "ago!", timeline FROM alive FOR UPDATE"#
    )
    .fetch_optional(&mut *tx)
    .await
    .doing("read the last sign of life")?;
    let timeline = sqlx::query_scalar!(r#"SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) AS "timeline!""#)
        .fetch_one(&mut *tx)
        .await
        .doing("read the database's timeline")?;
    let seen = last.as_ref().map(|last| LastSeen {
        ago: Duration::try_from_secs_f64(last.ago).unwrap_or(Duration::ZERO),
        timeline: last.timeline.clone(),
    });
    let mut opened = None;
    if let (Some(alarm), Some(last)) = (alarm(seen.as_ref(), &timeline, gap), &last)
        && is_there_work(&mut tx).await?
    {
        open_hold(&mut tx, alarm, last.last_alive).await?;
        opened = Some((alarm, last.last_alive));
    }
    sqlx::query!(
        "INSERT INTO alive (last_alive, timeline) VALUES (now(), $1)
         ON CONFLICT (only_row) DO UPDATE SET last_alive = excluded.last_alive, timeline = excluded.timeline",
        timeline
    )
    .execute(&mut *tx)
    .await
    .doing("give a sign of life")?;
    tx.commit().await.doing("commit a sign of life")?;
    Ok(opened)
}

/// Without work nothing can be sent twice, and nobody is stopped.
async fn is_there_work(tx: &mut PgConnection) -> Result<bool, StoreError> {
    sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM work) AS "work!""#).fetch_one(tx).await.doing("look for work")
}

async fn open_hold(tx: &mut PgConnection, alarm: Alarm, last: DateTime<Utc>) -> Result<(), StoreError> {
    let last = last.format("%Y-%m-%dT%H:%M:%SZ");
    let happened = match alarm {
        Alarm::Timeline => {
            format!("Postgres goes on from another timeline: what was done near or after {last} may be lost")
        }
        Alarm::Gap => format!("no sign of life since {last}, or the database is an older copy"),
    };
    let detail = format!(
        "{happened}. Mark what may have been sent: campaign-dispatch recover --since {last}; then resolve it \
         (uncertain list, uncertain resolve) and close this hold"
    );
    sqlx::query!(
        "INSERT INTO hold (scope, cause, detail, resume) VALUES ($1, $2, $3, $4)
         ON CONFLICT (scope, cause) WHERE closed_at IS NULL DO NOTHING",
        HoldScope::Everything.to_string(),
        alarm.as_str(),
        detail,
        Resume::Person.as_str()
    )
    .execute(tx)
    .await
    .doing("hold everything")?;
    Ok(())
}
