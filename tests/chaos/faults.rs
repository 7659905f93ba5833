//! What is done to the processes, the servers, the network and the provider. Each is printed when it happens.

use std::{sync::Arc, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};

use crate::{
    registry::WABAS,
    relays::{Delays, Mode, Relay},
    world::{Serve, World},
};

/// A fault with everything that was drawn for it.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// kill -9 of a `serve`, and its start after so many seconds.
    Kill { serve: usize, down_s: u64 },
    /// SIGSTOP of a `serve` while its calls are under way, for longer than its lease, and SIGCONT.
    Freeze { serve: usize, frozen_s: u64 },
    /// SIGTERM of a `serve` and its start: numbers are handed over, and back.
    Drain { serve: usize },
    /// Postgres stops without a checkpoint and starts again.
    PostgresRestart,
    /// About this share of the connections to the database is ended by the server.
    PostgresTerminate { share: f64 },
    /// RabbitMQ, or a node of its cluster, is stopped or killed, and started again.
    RabbitmqRestart { kill: bool, node: usize },
    /// Connections of a path are cut.
    Cut { relay: usize, share: f64 },
    /// Connections of a path are half-open for a while, then cut.
    HalfOpen { relay: usize, share: f64, mode: Mode, ms: u64 },
    /// Nobody can connect over a path for a while.
    Refuse { relay: usize, ms: u64 },
    /// Answers of Postgres come late, so that statements are under way at any instant; then they stop coming.
    LoseAnswers { serve: usize, ms: u64 },
    /// A `serve` cannot reach Postgres for longer than its lease, its calls under way.
    Sever { serve: usize },
    /// New connections of a path are slow for a while; the old ones are cut.
    Slow { relay: usize, ms: u64 },
    /// The provider misbehaves for a while.
    Provider { fault: Value, ms: u64 },
    /// The provider withholds all callbacks for a while.
    Withhold { ms: u64 },
}

/// Which faults take turns: each group goes on beside the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Processes,
    Servers,
    Network,
    Provider,
}

impl Group {
    pub(crate) const ALL: [Self; 4] = [Self::Processes, Self::Servers, Self::Network, Self::Provider];

    /// Seconds between two faults of the group.
    fn pause(self) -> std::ops::Range<f64> {
        match self {
            Self::Processes => 2.0..8.0,
            Self::Servers => 15.0..40.0,
            Self::Network => 1.0..6.0,
            Self::Provider => 1.0..5.0,
        }
    }
}

fn provider(probability: f64, action: &str, ms: u64) -> Fault {
    Fault::Provider { fault: json!({"match": {"probability": probability}, "do": action}), ms }
}

/// What an account's fault does to its calls: one is enough to open a hold.
fn once(waba: usize, action: &str) -> Fault {
    Fault::Provider { fault: json!({"match": {"waba": WABAS[waba], "count": 1}, "do": action}), ms: 4000 }
}

/// One of each kind of a group, with what is drawn.
fn kinds(world: &World, group: Group, rng: &mut StdRng) -> Vec<Fault> {
    let (serves, relays) = (world.serves.len(), world.relays().len());
    let share = [0.3, 1.0][rng.random_range(0..2)];
    let relay = rng.random_range(0..relays);
    let serve = rng.random_range(0..serves);
    match group {
        Group::Processes => vec![
            Fault::Kill { serve: rng.random_range(0..serves), down_s: rng.random_range(0..15) },
            Fault::Freeze { serve: rng.random_range(0..serves), frozen_s: rng.random_range(13..=20) },
            Fault::Drain { serve: rng.random_range(0..serves) },
        ],
        Group::Servers => {
            let (owns_postgres, owns_rabbitmq) = (world.services.owns_postgres, world.services.owns_rabbitmq);
            let mut all = vec![Fault::PostgresTerminate { share }];
            all.extend(owns_postgres.then_some(Fault::PostgresRestart));
            let (kill, node) = (rng.random_bool(0.5), rng.random_range(1..=3));
            all.extend(owns_rabbitmq.then_some(Fault::RabbitmqRestart { kill, node }));
            all.extend(owns_rabbitmq.then_some(Fault::RabbitmqRestart { kill: !kill, node }));
            all
        }
        Group::Network => vec![
            Fault::Cut { relay, share },
            Fault::Refuse { relay, ms: rng.random_range(500..5000) },
            Fault::Slow { relay, ms: rng.random_range(5000..15_000) },
            Fault::HalfOpen { relay, share, mode: Mode::Deaf, ms: rng.random_range(500..12_000) },
            Fault::HalfOpen { relay, share, mode: Mode::Mute, ms: rng.random_range(300..3000) },
            Fault::LoseAnswers { serve, ms: rng.random_range(1500..4000) },
            Fault::LoseAnswers { serve: rng.random_range(0..serves), ms: rng.random_range(1500..4000) },
            Fault::Sever { serve },
        ],
        Group::Provider => {
            let ms = rng.random_range(3000..12_000);
            let mut all: Vec<Fault> = [
                (0.2, "drop_after_accept"),
                (0.2, "drop_before_accept"),
                (0.3, "131000/500"),
                (0.1, "error_after_accept"),
                (0.2, "html_502"),
                (0.1, "html_502_after_accept"),
                (0.5, "slow_ms=1500"),
                (0.03, "slow_ms=9000"),
                (0.5, "duplicate_callbacks"),
                (0.5, "reorder_callbacks"),
                (0.5, "late_ms=4000"),
                (0.3, "bad_signature"),
                (0.2, "no_callbacks"),
                (0.05, "async=131000"),
                (0.02, "async=131026"),
            ]
            .map(|(share, action)| provider(share, action, ms))
            .into();
            // One number each: what is throttled rises by 5 % a minute, and a run that crept would meet few of its faults.
            for action in ["throttle", "throttle_429"] {
                let number = world.numbers[rng.random_range(0..world.numbers.len())].provider_id();
                let when = json!({"number": number, "probability": 0.2});
                all.push(Fault::Provider { fault: json!({"match": when, "do": action}), ms });
            }
            all.extend([Fault::Withhold { ms }, once(rng.random_range(0..2), "token_expired"), once(0, "132015")]);
            all
        }
    }
}

impl World {
    fn chosen(&self, serve: usize) -> anyhow::Result<&Arc<Serve>> {
        self.serves.get(serve).ok_or_else(|| anyhow::anyhow!("there is no serve-{serve}"))
    }

    fn relay(&self, relay: usize) -> Option<Relay> {
        self.relays().get(relay).map(|relay| (*relay).clone())
    }
}

/// Faults of one group, one after the other, until `end`: first each kind once, then as they are drawn.
pub(crate) async fn go_on(world: Arc<World>, group: Group, seed: u64) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed ^ (group as u64 + 1) << 32);
    loop {
        let mut all = kinds(&world, group, &mut rng);
        all.shuffle(&mut rng);
        for fault in all {
            tokio::time::sleep(Duration::from_secs_f64(rng.random_range(group.pause()))).await;
            run(&world, fault).await?;
        }
    }
}

/// Does it, and ends it.
pub(crate) async fn run(world: &World, fault: Fault) -> anyhow::Result<()> {
    world.rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    match fault {
        Fault::Kill { .. } | Fault::Freeze { .. } | Fault::Drain { .. } => to_process(world, fault).await,
        Fault::PostgresRestart | Fault::PostgresTerminate { .. } | Fault::RabbitmqRestart { .. } => {
            to_server(world, fault).await
        }
        Fault::Cut { .. } | Fault::HalfOpen { .. } | Fault::Refuse { .. } | Fault::Slow { .. } => {
            to_network(world, fault).await;
            Ok(())
        }
        Fault::LoseAnswers { .. } | Fault::Sever { .. } => to_database_path(world, fault).await,
        Fault::Provider { .. } | Fault::Withhold { .. } => to_provider(world, fault).await,
    }
}

async fn to_process(world: &World, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::Kill { serve, down_s } => {
            world.say(&format!("kill -9 serve-{serve}, started again after {down_s} s"));
            let serve = world.chosen(serve)?;
            serve.process.kill().await?;
            tokio::time::sleep(Duration::from_secs(down_s)).await;
            serve.process.start().await
        }
        Fault::Freeze { serve, frozen_s } => {
            world.say(&format!("freeze serve-{serve} for {frozen_s} s, its calls under way"));
            let slow = json!({"match": {"probability": 0.7}, "do": "slow_ms=2500"});
            let slow = world.simulator.add_fault(&slow).await?;
            // Told of by callback, to the others, before the frozen one can settle.
            let failed = json!({"match": {"probability": 0.1}, "do": "async=131000"});
            let failed = world.simulator.add_fault(&failed).await?;
            tokio::time::sleep(Duration::from_millis(800)).await;
            let serve = world.chosen(serve)?;
            serve.process.freeze().await?;
            world.simulator.remove_fault(slow).await?;
            world.simulator.remove_fault(failed).await?;
            tokio::time::sleep(Duration::from_secs(frozen_s)).await;
            serve.process.thaw().await
        }
        Fault::Drain { serve } => {
            world.say(&format!("SIGTERM serve-{serve}, then start"));
            let serve = world.chosen(serve)?;
            // Its drain may outlast this with a server down; then it is killed, which must be as safe.
            if serve.process.terminate(Duration::from_secs(30)).await.is_err() {
                serve.process.kill().await?;
            }
            serve.process.start().await
        }
        _ => Ok(()),
    }
}

async fn to_server(world: &World, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::PostgresRestart => {
            world.say("Postgres: immediate stop, then start");
            world.services.restart_postgres().await
        }
        Fault::PostgresTerminate { share } => {
            let mut connection = world.connect().await?;
            let ended: Result<i64, _> = sqlx::query_scalar(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < $1",
            )
            .bind(share)
            .fetch_one(&mut connection)
            .await;
            world.say(&format!("Postgres: {} connections terminated", ended.unwrap_or_default()));
            Ok(())
        }
        Fault::RabbitmqRestart { kill, node } if world.services.is_cluster => {
            world.say(&format!("RabbitMQ: kill -9 of node {node}, then start"));
            let _ = kill;
            world.services.bounce_node(node, Duration::from_secs(5)).await
        }
        Fault::RabbitmqRestart { kill, .. } => {
            world.say(if kill { "RabbitMQ: kill -9, then start" } else { "RabbitMQ: stop, then start" });
            world.services.restart_rabbitmq(kill, Duration::from_secs(3)).await
        }
        _ => Ok(()),
    }
}

async fn to_database_path(world: &World, fault: Fault) -> anyhow::Result<()> {
    let (Fault::LoseAnswers { serve, .. } | Fault::Sever { serve }) = fault else { return Ok(()) };
    let Some(relay) = world.chosen(serve)?.postgres.clone() else { return Ok(()) };
    if let Fault::LoseAnswers { ms, .. } = fault {
        relay.new_connections(Mode::Pass, Delays { request_ms: 0, answer_ms: 150 });
        relay.cut(1.0);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        relay.new_connections(Mode::Mute, Delays::default());
        let open = relay.half_open(1.0, Mode::Mute);
        world.say(&format!("the answers under way to {open} connections between {} are lost", relay.name));
        tokio::time::sleep(Duration::from_millis(500)).await;
    } else {
        world.say(&format!("serve-{serve} cannot reach Postgres for 12 s, its calls under way"));
        let slow = json!({"match": {"probability": 0.5}, "do": "slow_ms=7500"});
        let slow = world.simulator.add_fault(&slow).await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        relay.new_connections(Mode::Deaf, Delays::default());
        relay.half_open(1.0, Mode::Deaf);
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.simulator.remove_fault(slow).await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    relay.pass();
    Ok(())
}

async fn to_network(world: &World, fault: Fault) {
    match fault {
        Fault::Cut { relay, share } => {
            let Some(relay) = world.relay(relay) else { return };
            let cut = relay.cut(share);
            world.say(&format!("cut {cut} connections between {}", relay.name));
        }
        Fault::HalfOpen { relay, share, mode, ms } => {
            let Some(relay) = world.relay(relay) else { return };
            if share >= 1.0 {
                relay.new_connections(mode, Delays::default());
            }
            let open = relay.half_open(share, mode);
            world.say(&format!("{open} connections between {} are {mode:?} for {ms} ms", relay.name));
            tokio::time::sleep(Duration::from_millis(ms)).await;
            relay.pass();
        }
        Fault::Refuse { relay, ms } => {
            let Some(relay) = world.relay(relay) else { return };
            relay.new_connections(Mode::Refuse, Delays::default());
            let cut = relay.cut(1.0);
            world.say(&format!("no way between {} for {ms} ms ({cut} connections cut)", relay.name));
            tokio::time::sleep(Duration::from_millis(ms)).await;
            relay.pass();
        }
        Fault::Slow { relay, ms } => {
            let Some(relay) = world.relay(relay) else { return };
            let is_provider = relay.name == "provider";
            let delays = Delays {
                request_ms: if is_provider { 8 } else { 100 },
                answer_ms: if is_provider { 2000 } else { 100 },
            };
            relay.new_connections(Mode::Pass, delays);
            relay.cut(0.5);
            world.say(&format!("slow between {} for {ms} ms", relay.name));
            tokio::time::sleep(Duration::from_millis(ms)).await;
            relay.pass();
            relay.cut(1.0);
        }
        _ => {}
    }
}

async fn to_provider(world: &World, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::Provider { fault, ms } => {
            world.say(&format!("provider: {fault} for {ms} ms"));
            let id = world.simulator.add_fault(&fault).await?;
            tokio::time::sleep(Duration::from_millis(ms)).await;
            world.simulator.remove_fault(id).await
        }
        Fault::Withhold { ms } => {
            world.say(&format!("provider: callbacks withheld for {ms} ms"));
            world.simulator.withhold(true).await?;
            tokio::time::sleep(Duration::from_millis(ms)).await;
            world.simulator.withhold(false).await
        }
        _ => Ok(()),
    }
}

/// Every fault has ended: everything runs and is reachable.
pub(crate) async fn calm(world: &World) -> anyhow::Result<()> {
    world.say("the faults end");
    for relay in world.relays() {
        relay.pass();
        relay.cut(1.0);
    }
    world.simulator.clear_faults().await?;
    world.simulator.withhold(false).await?;
    world.services.heal().await?;
    for serve in &world.serves {
        serve.process.thaw().await.ok();
        serve.process.start().await?;
    }
    for serve in &world.serves {
        world.ready(serve).await?;
    }
    Ok(())
}
