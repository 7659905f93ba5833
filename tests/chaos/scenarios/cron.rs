//! Campaigns that fire every minute, while the processes that fire them are killed one after the other.

use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use super::{close, ended, world};
use crate::{Arguments, load::Published, world::World};

const CAMPAIGNS: usize = 5;
const RECIPIENTS: usize = 10;

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let world = world(arguments, arguments.workers.max(3), vec![(80, 0)]).await?;
    for campaign in 0..CAMPAIGNS {
        apply(&world, campaign).await?;
    }
    let kills = kill(&world, arguments.minutes, arguments.seed).await?;
    for campaign in 0..CAMPAIGNS {
        world.cli(&["campaigns", "archive", &format!("minutely-{campaign}")]).await?;
    }
    let (published, told, is_exact) = occurrences(&world).await?;
    let verdict = ended(&world, &published, Duration::from_mins(5)).await?;
    let ok = verdict.is_clean() && is_exact;
    println!(
        "cron: campaigns={CAMPAIGNS} kills={kills} {told} messages={} lost={} doubled={} {}",
        verdict.messages,
        verdict.lost,
        verdict.doubled,
        if ok { "ok" } else { "FAILED" }
    );
    close(world, ok).await;
    Ok(ok)
}

async fn apply(world: &World, campaign: usize) -> anyhow::Result<()> {
    let recipient = |i: usize| json!({"to": format!("+8190{:08}", 10_000_000 + campaign * 1000 + i)});
    let document = json!({
        "schema": "campaign/v1", "key": format!("minutely-{campaign}"), "business_number": world.numbers[0].business(),
        "template": {"name": "order", "language": "ja"}, "params": {"name": "佐藤"},
        "audience": {"recipients": (0..RECIPIENTS).map(recipient).collect::<Vec<_>>()},
        // What is under way when a process dies may be uncertain for longer than a minute.
        "schedule": {"cron": "* * * * *"}, "time_zone": "Asia/Tokyo", "overlap": "allow",
    });
    let file = world.folder.join(format!("campaign-{campaign}.json"));
    std::fs::write(&file, document.to_string())?;
    world.cli(&["campaigns", "apply", &file.display().to_string()]).await?;
    Ok(())
}

/// Kills whichever comes up, at any second, and starts it again soon; ends in the middle of a minute.
async fn kill(world: &World, minutes: u64, seed: u64) -> anyhow::Result<usize> {
    let (mut rng, began, mut kills) = (StdRng::seed_from_u64(seed), Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(minutes * 60) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(2_000..9_000))).await;
        let serve = &world.serves[rng.random_range(0..world.serves.len())];
        world.say(&format!("kill -9 {}", serve.process.name));
        serve.process.kill().await?;
        kills += 1;
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..5_000))).await;
        serve.process.start().await?;
    }
    for serve in &world.serves {
        world.ready(serve).await?;
    }
    let second = chrono::Utc::now().timestamp().rem_euclid(60);
    tokio::time::sleep(Duration::from_secs(u64::try_from((90 - second) % 60)?)).await;
    Ok(kills)
}

/// What was fired, as if it had been published and answered; and whether each minute has exactly one occurrence of each
/// campaign, which sent.
async fn occurrences(world: &World) -> anyhow::Result<(Published, String, bool)> {
    let mut connection = world.connect().await?;
    let (minutes, rows, times, fired, batches): (i64, i64, i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT sum(floor(extract(epoch FROM changed_at) / 60) - floor(extract(epoch FROM applied_at) / 60))::bigint FROM campaign),
                count(*), count(DISTINCT (campaign_id, fire_at)), count(*) FILTER (WHERE state = 'fired'), count(DISTINCT batch_id)
         FROM occurrence",
    )
    .fetch_one(&mut connection)
    .await?;
    let answers: Vec<(String, uuid::Uuid, i32)> =
        sqlx::query_as("SELECT b.job_id, b.batch_id, b.recipients FROM occurrence o JOIN batch b USING (batch_id)")
            .fetch_all(&mut connection)
            .await?;
    let answers = answers.into_iter().map(|(job, batch, recipients)| (job, (batch, i64::from(recipients)))).collect();
    let told = format!("minutes={minutes} occurrences={rows} fired={fired} skipped={} batches={batches}", rows - fired);
    let is_exact = minutes > 0 && [rows, times, fired, batches].iter().all(|count| *count == minutes);
    Ok((Published { answers, ..Published::default() }, told, is_exact))
}
