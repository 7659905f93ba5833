//! A run: load, faults, rest, a person, the judgement.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{
    Arguments,
    faults::{self, Fault, Group},
    judge, load, person,
    rare::{self, Counters},
    rest,
    world::{Plan, World},
};
use serde_json::json;

/// Shares of the whole pace, and so of the messages: from numbers with a reserve for passwords to slow ones.
const SHARES: [u32; 8] = [30, 25, 15, 10, 8, 6, 4, 2];

/// Limits that make `messages` last for `seconds`.
fn limits(messages: u32, seconds: u64) -> Vec<(u32, usize)> {
    let pace = u64::from(messages) / seconds.max(1) + 1;
    let limit = |share: u32| u32::try_from(pace * u64::from(share) / 100).unwrap_or(u32::MAX).max(2);
    SHARES.iter().enumerate().map(|(index, &share)| (limit(share), usize::from(index % 3 == 2))).collect()
}

/// Runs it and prints the last line. Returns whether every promise was kept.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let seconds = if arguments.short { 40 } else { arguments.minutes * 60 };
    let messages = arguments.messages.unwrap_or(if arguments.short { 3000 } else { 100_000 });
    let plan = Plan {
        workers: arguments.workers,
        limits: limits(messages, seconds * 6 / 10),
        seed: arguments.seed,
        is_cluster: arguments.cluster,
        relayed: true,
        settings: Vec::new(),
    };
    let limits: Vec<u32> = plan.limits.iter().map(|(limit, _)| *limit).collect();
    println!("seed {}, {} workers, {messages} messages, limits {limits:?}", plan.seed, plan.workers);
    let world = Arc::new(World::start(&plan).await?);
    let watching = watch(&world);
    let jobs = load::plan(&world.numbers, messages, plan.seed);
    world.say(&format!("{} jobs", jobs.len()));
    let publishing = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { load::publish(&world, jobs, Duration::from_secs(seconds / 2)).await })
    };
    let faults = if arguments.short { script(&world).await } else { at_random(&world, arguments.seed, seconds).await };
    faults?;
    faults::calm(&world).await?;
    let published = publishing.await?;
    world.say(&format!("{} jobs are answered, {} events came twice", published.answers.len(), published.events_twice));

    let patience = Duration::from_secs(if arguments.short { 180 } else { 1800 });
    let uncertain = rest::come(&world, patience).await?;
    let mut seen = rare::seen(&world, &mut world.connect().await?).await?;
    seen.push(("outbox published twice", published.events_twice));
    if uncertain > 0 && !arguments.short {
        world.say(&format!("{uncertain} messages are uncertain; the grace passes"));
        tokio::time::sleep(Duration::from_secs(52)).await;
    }
    let resolved = person::resolves(&world).await?;
    if resolved.unwrap_or_default() > 0 {
        rest::come(&world, patience).await?;
    }
    let mut verdict = judge::judge(&world, &published).await?;
    verdict.nobody_resolves = resolved.is_none();
    watching.abort();
    let missed = rare::tell(&seen);
    Ok(end(world, arguments, &verdict, &missed).await)
}

/// Beside everything: counters are read, holds are closed.
fn watch(world: &Arc<World>) -> tokio::task::JoinHandle<()> {
    let world = Arc::clone(world);
    tokio::spawn(async move {
        tokio::join!(Counters::watch(&world), person::closes_holds(&world));
    })
}

async fn at_random(world: &Arc<World>, seed: u64, seconds: u64) -> anyhow::Result<()> {
    let mut groups = tokio::task::JoinSet::new();
    for group in Group::ALL {
        groups.spawn(faults::go_on(Arc::clone(world), group, seed));
    }
    let failed = tokio::time::timeout(Duration::from_secs(seconds), groups.join_next()).await;
    groups.shutdown().await;
    match failed {
        Ok(Some(ended)) => ended?,
        Ok(None) | Err(_) => Ok(()),
    }
}

/// The short form: the same faults every time, at the same seconds.
async fn script(world: &Arc<World>) -> anyhow::Result<()> {
    let provider = |share: f64, action: &str, ms| Fault::Provider {
        fault: json!({"match": {"probability": share}, "do": action}),
        ms,
    };
    let mut list = vec![
        (0, provider(0.05, "drop_after_accept", 30_000)),
        (0, provider(0.03, "async=131000", 30_000)),
        (0, provider(0.3, "duplicate_callbacks", 38_000)),
        (0, provider(0.3, "reorder_callbacks", 38_000)),
        (1, provider(0.2, "bad_signature", 20_000)),
        (2, Fault::LoseAnswers { serve: 2, ms: 2000 }),
        (5, Fault::Kill { serve: 0, down_s: 3 }),
        (8, Fault::Freeze { serve: 1, frozen_s: 13 }),
        (18, Fault::Provider { fault: json!({"match": {"count": 1}, "do": "token_expired"}), ms: 1000 }),
        (24, Fault::Withhold { ms: 3000 }),
        (31, Fault::PostgresTerminate { share: 1.0 }),
        (34, Fault::Drain { serve: 2 }),
    ];
    if world.services.owns_postgres {
        list.push((12, Fault::PostgresRestart));
    }
    if world.services.owns_rabbitmq {
        list.push((20, Fault::RabbitmqRestart { kill: true, node: 1 }));
    }
    list.extend((0..world.relays().len()).map(|relay| (28, Fault::Cut { relay, share: 1.0 })));
    let mut running = tokio::task::JoinSet::new();
    for (second, fault) in list {
        let world = Arc::clone(world);
        running.spawn(async move {
            tokio::time::sleep(Duration::from_secs(second)).await;
            faults::run(&world, fault).await
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

async fn end(world: Arc<World>, arguments: &Arguments, verdict: &judge::Verdict, missed: &[&str]) -> bool {
    for note in &verdict.notes {
        println!("  {note}");
    }
    // A busy machine makes the short form judge less of the pace; it is not what that is for.
    let judged = arguments.short || verdict.unjudged_share <= 0.01;
    let must_reach = !arguments.short && arguments.minutes >= 15;
    let ok = verdict.is_clean() && judged && (!must_reach || missed.is_empty());
    let rounds = world.rounds.load(Ordering::Relaxed);
    if let Some(world) = Arc::into_inner(world)
        && let Err(error) = world.finish(!ok).await
    {
        println!("could not clean up: {error:#}");
    }
    println!(
        "chaos: rounds={rounds} messages={} lost={} doubled={} over_limit={} uncertain_open={} policy_resends={}",
        verdict.messages,
        verdict.lost,
        verdict.doubled,
        verdict.over_limit,
        verdict.uncertain_open,
        verdict.policy_resends
    );
    ok
}
