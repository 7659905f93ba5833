//! Exactly the pace: at 80 and 1 000 a second with one worker, and with four of which one is killed and one frozen.

use std::{sync::Arc, time::Duration};

use super::{calls, close, ended, jobs, publish, used, world};
use crate::{Arguments, load::Job, rare::Counters, world::World};

/// A number whose holder is gone has another by then.
const TAKEN_WITHIN_S: f64 = 12.0;
/// The jobs are taken by then.
const TAKEN_IN: Duration = Duration::from_secs(15);

/// Seconds of work for each number. One stall of the judge leaves a second unjudged, and at most 1 % may be: a story at
/// 80/s outlasts one. At 1 000/s there are as many jobs as are taken in time.
fn seconds(limit: u32) -> u32 {
    if limit < 1000 { 120 } else { 40 }
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let mut ok = true;
    for limit in [80, 1000] {
        ok &= alone(arguments, limit).await?;
        ok &= four(arguments, limit).await?;
    }
    Ok(ok)
}

/// One worker and one number.
async fn alone(arguments: &Arguments, limit: u32) -> anyhow::Result<bool> {
    let world = world(arguments, 1, vec![(limit, 0)]).await?;
    let publishing = publish(&world, due_together(jobs(0..1, limit * seconds(limit))));
    report(world, publishing, limit, 1).await
}

/// Four workers and two numbers: the holder of one is killed, later the holder of another is frozen beyond its lease.
async fn four(arguments: &Arguments, limit: u32) -> anyhow::Result<bool> {
    let world = world(arguments, 4, vec![(limit, 0); 2]).await?;
    let publishing = publish(&world, due_together(jobs(0..2, limit * seconds(limit))));
    calls(&world, u64::from(limit) * 2 * 6).await?;
    let killed = holder(&world, None).await?;
    world.say(&format!("kill -9 serve-{killed}"));
    world.serves[killed].process.kill().await?;
    tokio::time::sleep(Duration::from_secs(14)).await;
    let frozen = holder(&world, Some(killed)).await?;
    world.say(&format!("freeze serve-{frozen} for 15 s"));
    world.serves[frozen].process.freeze().await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    world.serves[frozen].process.thaw().await?;
    report(world, publishing, limit, 4).await
}

/// All become due in one moment, when they are taken: the pace is judged while there is work, and nothing else to do.
fn due_together(jobs: Vec<Job>) -> Vec<Job> {
    let due = (chrono::Utc::now() + TAKEN_IN).to_rfc3339();
    jobs.into_iter().map(|job| job.due(&due)).collect()
}

/// A worker that holds a number.
async fn holder(world: &World, but: Option<usize>) -> anyhow::Result<usize> {
    for _ in 0..100 {
        for (index, serve) in world.serves.iter().enumerate() {
            if but != Some(index) && Counters::now(serve, "dispatch_leases").await.unwrap_or_default() > 0.0 {
                return Ok(index);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("no worker holds a number")
}

async fn report(
    world: Arc<World>,
    publishing: tokio::task::JoinHandle<crate::load::Published>,
    limit: u32,
    workers: usize,
) -> anyhow::Result<bool> {
    let published = publishing.await?;
    let verdict = ended(&world, &published, Duration::from_mins(4)).await?;
    let ledger = world.simulator.ledger().await?;
    let (mut worst, mut mean, mut gap) = (0, f64::MAX, 0.0_f64);
    for number in &world.numbers {
        let used = used(&world.simulator, &number.provider_id(), 0.0, f64::MAX).await?;
        let report = ledger.numbers.get(&number.provider_id());
        worst = worst.max(report.map_or(0, |number| number.worst_second));
        (mean, gap) = (mean.min(used.mean), gap.max(used.gap));
    }
    let judged = verdict.unjudged_share <= 0.01;
    let limit_ = f64::from(limit);
    let ok = verdict.is_clean() && judged && mean >= limit_ * 0.95 && gap <= TAKEN_WITHIN_S;
    println!(
        "pacing: limit={limit}/s workers={workers} worst_second={worst} mean={mean:.1}/s ({:.1} %) longest_pause={gap:.1}s \
         lost={} doubled={} unjudged={:.2}% {}",
        mean / limit_ * 100.0,
        verdict.lost,
        verdict.doubled,
        verdict.unjudged_share * 100.0,
        if ok { "ok" } else { "FAILED" }
    );
    close(world, ok).await;
    Ok(ok)
}
