//! Waiting for a run to come to rest.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use crate::world::World;

/// Work that is still to be called, work that is uncertain, and callbacks that wait for their message.
async fn open(connection: &mut PgConnection) -> Result<(i64, i64, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT count(*) FILTER (WHERE stage <> 'unsure'), count(*) FILTER (WHERE stage = 'unsure'),
                (SELECT count(*) FROM callback_waiting) FROM work",
    )
    .fetch_one(connection)
    .await
}

/// Waits until nothing is to be called, no callback is owed or waits, and nothing has changed for a while. Returns how
/// many messages are uncertain, or what is open when the time is over.
pub(crate) async fn come(world: &World, within: Duration) -> anyhow::Result<i64> {
    let mut connection = world.connect().await?;
    let (began, mut calm_since, mut last) = (Instant::now(), Instant::now(), (0, 0, 0));
    let mut told = Instant::now();
    loop {
        let now = open(&mut connection).await?;
        let owed = world.simulator.callbacks().await?.owed;
        if now != last || now.0 > 0 || now.2 > 0 || owed > 0 {
            (calm_since, last) = (Instant::now(), now);
        }
        // What the simulator was acknowledged for may still be in the broker.
        if calm_since.elapsed() > Duration::from_secs(4) {
            return Ok(now.1);
        }
        let state = format!("{} to be called, {} uncertain, {} callbacks wait, {owed} are owed", now.0, now.1, now.2);
        if began.elapsed() > within {
            world.say(&format!("not at rest after {within:?}: {state}"));
            return Ok(now.1);
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            world.say(&state);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
