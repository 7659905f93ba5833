//! The servers go away, and a worker is told to go.

use std::time::{Duration, Instant};

use super::{calls, close, ended, jobs, publish, world};
use crate::{Arguments, world::World};

/// RabbitMQ is away for 20 s and Postgres restarts meanwhile.
pub(super) async fn outage(arguments: &Arguments) -> anyhow::Result<bool> {
    let messages = arguments.messages.unwrap_or(20_000);
    let world = world(arguments, arguments.workers, vec![(80, 0); 8]).await?;
    anyhow::ensure!(world.services.owns_postgres && world.services.owns_rabbitmq, "the servers are not ours to stop");
    let publishing = publish(&world, jobs(0..8, messages / 8));
    calls(&world, u64::from(messages) / 5).await?;
    world.say("RabbitMQ stops for 20 s; Postgres restarts in the middle");
    let postgres = async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        world.services.restart_postgres().await
    };
    let (broker, database) = tokio::join!(world.services.restart_rabbitmq(false, Duration::from_secs(20)), postgres);
    broker.and(database)?;
    world.say("both are back");
    let published = publishing.await?;
    let verdict = ended(&world, &published, Duration::from_mins(4)).await?;
    let ok = verdict.is_clean();
    println!(
        "outage: messages={} lost={} doubled={} over_limit={} uncertain_open={} {}",
        verdict.messages,
        verdict.lost,
        verdict.doubled,
        verdict.over_limit,
        verdict.uncertain_open,
        word(ok)
    );
    close(world, ok).await;
    Ok(ok)
}

/// SIGTERM while calls are under way: everything is settled and returned before the process ends.
pub(super) async fn drain(arguments: &Arguments) -> anyhow::Result<bool> {
    let messages = arguments.messages.unwrap_or(4000);
    let world = world(arguments, 1, vec![(80, 0); 4]).await?;
    let slow = serde_json::json!({"match": {"probability": 0.5}, "do": "slow_ms=3000"});
    world.simulator.add_fault(&slow).await?;
    let publishing = publish(&world, jobs(0..4, messages / 4));
    let published = publishing.await?;
    calls(&world, u64::from(messages) / 4).await?;
    let began = Instant::now();
    world.say("SIGTERM serve-0");
    let status = world.serves[0].process.terminate(Duration::from_secs(30)).await?;
    let took = began.elapsed();
    let calling = calling(&world).await?;
    world.say(&format!("ended with {status} after {:.1} s, {calling} messages in stage calling", took.as_secs_f64()));
    world.serves[0].process.start().await?;
    let verdict = ended(&world, &published, Duration::from_mins(3)).await?;
    let ok = status.success() && took < Duration::from_secs(21) && calling == 0 && verdict.is_clean();
    println!(
        "drain: took={:.1}s calling={calling} lost={} doubled={} uncertain_open={} {}",
        took.as_secs_f64(),
        verdict.lost,
        verdict.doubled,
        verdict.uncertain_open,
        word(ok)
    );
    close(world, ok).await;
    Ok(ok)
}

async fn calling(world: &World) -> anyhow::Result<i64> {
    let mut connection = world.connect().await?;
    Ok(sqlx::query_scalar("SELECT count(*) FROM work WHERE stage = 'calling'").fetch_one(&mut connection).await?)
}

fn word(ok: bool) -> &'static str {
    if ok { "ok" } else { "FAILED" }
}
