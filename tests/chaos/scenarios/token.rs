//! A token expires early in a large campaign: its account stops at once and uncharged, the other account keeps its pace,
//! and when the token is replaced everything goes out.

use std::time::Duration;

use serde_json::json;

use super::{calls, close, ended, jobs, publish, used, world};
use crate::{Arguments, load, registry::WABAS, world::World};

/// Numbers of the account whose token expires.
const NUMBERS: usize = 8;
/// The number of the other account.
const OTHER: usize = NUMBERS;
const OTHER_LIMIT: u32 = 80;
const EXPIRES_AT: u64 = 1000;
const LIMIT: u32 = 500;
/// What is claimed ahead: a quarter of a second (`dispatch.step_ms`).
const MOST_PER_NUMBER: u64 = LIMIT as u64 / 4;

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let messages = arguments.messages.unwrap_or(200_000);
    let mut limits = vec![(LIMIT, 0); NUMBERS];
    limits.push((OTHER_LIMIT, 1));
    let world = world(arguments, arguments.workers.max(4), limits).await?;
    let expired = json!({"match": {"waba": WABAS[0], "after_calls": EXPIRES_AT}, "do": "token_expired"});
    let fault = world.simulator.add_fault(&expired).await?;
    let each = messages / u32::try_from(NUMBERS)?;
    let other = [
        load::bulk("other", "order", OTHER, 1000, messages),
        load::bulk("other-2", "order", OTHER, 1000, messages + 1000),
    ];
    let publishing = publish(&world, other.into_iter().chain(jobs(0..NUMBERS, each)).collect());
    calls(&world, EXPIRES_AT).await?;
    let (stopped_at, held) = stops(&world).await?;
    let published = publishing.await?;
    world.say("everything is published");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = refused(&world).await?;
    let still = state(&world).await?;
    let pace = used(&world.simulator, &(1001 + OTHER).to_string(), stopped_at - 2000.0, stopped_at + 8000.0).await?;

    world.simulator.remove_fault(fault).await?;
    let registry = world.folder.join("registry.json").display().to_string();
    world.cli(&["accounts", "apply", &registry]).await?;
    for hold in &held {
        world.cli(&["holds", "close", &hold.to_string(), "--reason", "the token was replaced"]).await?;
    }
    world.say("the token is replaced and the hold closed");
    let verdict = ended(&world, &published, Duration::from_mins(15)).await?;
    let failed = state(&world).await?.failed;
    let most = MOST_PER_NUMBER * u64::try_from(NUMBERS)?;
    let ok = verdict.is_clean()
        && refused <= most
        && failed == 0
        && still.failed == 0
        && still.charged == 0
        && still.calling == 0
        && !held.is_empty()
        && pace.mean >= f64::from(OTHER_LIMIT) * 0.95;
    println!(
        "token: messages={} calls_after_expiry={refused} (at most {most}) failed={failed} waiting={} parked={} charged={} \
         holds={} other_account={:.1}/s lost={} doubled={} {}",
        verdict.messages,
        still.waiting,
        still.parked,
        still.charged,
        held.len(),
        pace.mean,
        verdict.lost,
        verdict.doubled,
        if ok { "ok" } else { "FAILED" }
    );
    close(world, ok).await;
    Ok(ok)
}

async fn refused(world: &World) -> anyhow::Result<u64> {
    Ok(world.simulator.ledger().await?.totals.refused.get("190").copied().unwrap_or_default())
}

/// Waits until refusals stop. Returns when, by the simulator's clock, and the holds that stopped them.
async fn stops(world: &World) -> anyhow::Result<(f64, Vec<i64>)> {
    let (mut last, mut same) = (0, 0);
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = refused(world).await?;
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        if same >= 10 {
            break;
        }
    }
    let ledger = world.simulator.ledger().await?;
    let ends = ledger.numbers.values().filter(|number| number.waba == WABAS[0]).filter_map(|number| number.last_ms);
    let holds: Vec<(i64, String, String)> = sqlx::query_as("SELECT id, scope, cause FROM hold WHERE closed_at IS NULL")
        .fetch_all(&mut world.connect().await?)
        .await?;
    for (id, scope, cause) in &holds {
        world.say(&format!("hold {id}: {cause} over {scope}"));
    }
    Ok((ends.fold(0.0, f64::max), holds.into_iter().map(|(id, ..)| id).collect()))
}

#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct State {
    waiting: i64,
    parked: i64,
    calling: i64,
    charged: i64,
    failed: i64,
}

/// The work of the stopped account, and failures of all.
async fn state(world: &World) -> anyhow::Result<State> {
    let sql = "SELECT count(*) AS waiting, count(*) FILTER (WHERE w.stage = 'parked') AS parked,
                      count(*) FILTER (WHERE w.stage = 'calling') AS calling, count(*) FILTER (WHERE w.charged > 0) AS charged,
                      (SELECT count(*) FROM failed_message) AS failed
               FROM work w JOIN business_number n ON n.id = w.number_id JOIN account a ON a.id = n.account_id
               WHERE a.waba_id = $1";
    Ok(sqlx::query_as(sql).bind(WABAS[0]).fetch_one(&mut world.connect().await?).await?)
}
