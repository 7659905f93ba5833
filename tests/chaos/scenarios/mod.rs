//! Stories with an end of their own, each run alone: what the issues ask to be shown, and no random faults.

mod batches;
mod cron;
mod events;
mod imports;
mod pacing;
mod servers;
mod takeover;
mod token;

use std::{sync::Arc, time::Duration};

use crate::{
    Arguments, judge,
    judge::Verdict,
    load::{self, Job, Published},
    person, rest,
    simulator::Simulator,
    world::{Plan, World},
};

/// Runs one by its name. Returns whether it ended as it must.
pub(crate) async fn run(name: &str, arguments: &Arguments) -> anyhow::Result<bool> {
    match name {
        "takeover" => takeover::run(arguments).await,
        "outage" => servers::outage(arguments).await,
        "drain" => servers::drain(arguments).await,
        "token" => token::run(arguments).await,
        "pacing" => pacing::run(arguments).await,
        "cron" => cron::run(arguments).await,
        "cancel" => batches::cancel(arguments).await,
        "shares" => batches::shares(arguments).await,
        "imports" => imports::run(arguments).await,
        "events" => events::run(arguments).await,
        other => anyhow::bail!("there is no scenario `{other}`: see deploy/chaos.sh"),
    }
}

/// A world without relays, so that nothing stands between the sender and its judge.
async fn world(arguments: &Arguments, workers: usize, limits: Vec<(u32, usize)>) -> anyhow::Result<Arc<World>> {
    let is_cluster = arguments.cluster;
    let plan = Plan { workers, limits, seed: arguments.seed, is_cluster, relayed: false, settings: Vec::new() };
    Ok(Arc::new(World::start(&plan).await?))
}

/// `messages` for each of the chosen numbers, in jobs of a thousand.
fn jobs(numbers: impl Iterator<Item = usize>, messages: u32) -> Vec<Job> {
    let (mut jobs, mut first) = (Vec::new(), 0);
    let numbers: Vec<usize> = numbers.collect();
    for thousand in 0..messages.div_ceil(1000) {
        let recipients = (messages - thousand * 1000).min(1000);
        for &number in &numbers {
            jobs.push(load::bulk(&format!("bulk-{number}-{thousand}"), "order", number, recipients, first));
            first += recipients;
        }
    }
    jobs
}

/// Publishes at once, beside what comes next.
fn publish(world: &Arc<World>, jobs: Vec<Job>) -> tokio::task::JoinHandle<Published> {
    let world = Arc::clone(world);
    tokio::spawn(async move { load::publish(&world, jobs, Duration::ZERO).await })
}

/// Waits for the end, acts as the person, judges.
async fn ended(world: &World, published: &Published, patience: Duration) -> anyhow::Result<Verdict> {
    rest::come(world, patience).await?;
    let resolved = person::resolves(world).await?;
    if resolved.unwrap_or_default() > 0 {
        rest::come(world, patience).await?;
    }
    let mut verdict = judge::judge(world, published).await?;
    verdict.nobody_resolves = resolved.is_none();
    for note in &verdict.notes {
        println!("  {note}");
    }
    Ok(verdict)
}

async fn close(world: Arc<World>, ok: bool) {
    if let Some(world) = Arc::into_inner(world)
        && let Err(error) = world.finish(!ok).await
    {
        println!("could not clean up: {error:#}");
    }
}

/// How a number was used.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    /// Calls a second, the times without a live holder left out.
    mean: f64,
    /// The longest time without a call, in seconds.
    gap: f64,
}

/// A pause longer than this is one of a holder that died or froze; a shorter one counts against the mean.
const HOLDER_GONE_MS: f64 = 2000.0;

/// Pauses worth a line.
const SLOW_MS: f64 = 200.0;

/// Reads a number's use from its arrivals in `[from, to]` milliseconds.
async fn used(simulator: &Simulator, number: &str, from: f64, to: f64) -> anyhow::Result<Use> {
    let times = simulator.arrivals(number).await?;
    let times: Vec<f64> = times.into_iter().filter(|at| (from..=to).contains(at)).collect();
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return Ok(Use::default()) };
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let slow = times.windows(2).filter(|pair| pair[1] - pair[0] > SLOW_MS);
    let slow: Vec<_> =
        slow.map(|pair| format!("{:.0} ms at {:.1} s", pair[1] - pair[0], (pair[0] - first) / 1000.0)).collect();
    if !slow.is_empty() {
        println!("  {number}: pauses of {}", slow.join(", "));
    }
    let gone: f64 = gaps.clone().filter(|gap| *gap > HOLDER_GONE_MS).sum();
    let gap = gaps.fold(0.0, f64::max) / 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "counts of calls")]
    let mean = (times.len() - 1) as f64 / ((last - first - gone) / 1000.0).max(0.001);
    Ok(Use { mean, gap })
}

/// Waits until the simulator has had so many calls.
async fn calls(world: &World, at_least: u64) -> anyhow::Result<()> {
    for _ in 0..6000 {
        if world.simulator.ledger().await?.totals.calls >= at_least {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the provider did not get {at_least} calls in ten minutes")
}
