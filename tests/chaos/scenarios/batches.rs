//! Batches in the hands of a person: stopped in full run, and one behind the other on one number.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{calls, close, ended, world};
use crate::{Arguments, load::Published, world::World};

const WHY: [&str; 2] = ["--reason", "a wrong price"];
/// Of the simulator's clock, after the answer to whoever stopped it.
const STOPS_WITHIN_MS: f64 = 1000.0;

/// A batch is paused in full run, resumed, and sends exactly the rest; another is cancelled in full run.
pub(super) async fn cancel(arguments: &Arguments) -> anyhow::Result<bool> {
    let messages = arguments.messages.unwrap_or(50_000);
    let world = world(arguments, 2, vec![(1000, 0)]).await?;
    let mut published = Published::default();
    let paused = send(&world, "paused", 0, messages, &mut published).await?;
    calls(&world, u64::from(messages) / 5).await?;
    let after_pause = stop(&world, "pause", paused).await?;
    world.cli(&["batches", "resume", &paused.to_string(), WHY[0], WHY[1]]).await?;
    calls(&world, u64::from(messages)).await?;
    let cancelled = send(&world, "cancelled", messages, messages, &mut published).await?;
    calls(&world, u64::from(messages) * 6 / 5).await?;
    let after_cancel = stop(&world, "cancel", cancelled).await?;
    let verdict = ended(&world, &published, Duration::from_mins(5)).await?;
    let (sent, given_up): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE state <> 'cancelled'), count(*) FILTER (WHERE state = 'cancelled') FROM message",
    )
    .fetch_one(&mut world.connect().await?)
    .await?;
    let accepted = i64::try_from(world.simulator.ledger().await?.totals.accepted)?;
    let ok = verdict.is_clean()
        && after_pause <= STOPS_WITHIN_MS
        && after_cancel <= STOPS_WITHIN_MS
        && sent == accepted
        && sent > i64::from(messages)
        && given_up > 0
        && sent + given_up == i64::from(messages) * 2;
    println!(
        "cancel: batches=2 of {messages} last_call_after_pause={after_pause:.0}ms last_call_after_cancel={after_cancel:.0}ms \
         (at most {STOPS_WITHIN_MS:.0}) sent={sent} accepted={accepted} cancelled={given_up} lost={} doubled={} {}",
        verdict.lost,
        verdict.doubled,
        if ok { "ok" } else { "FAILED" }
    );
    close(world, ok).await;
    Ok(ok)
}

/// Two batches on one number at 80/s: the small one, begun behind the large one, is through in seconds; the large one ends
/// when it was forecast.
pub(super) async fn shares(arguments: &Arguments) -> anyhow::Result<bool> {
    const SMALL: u32 = 200;
    let messages = arguments.messages.unwrap_or(20_000);
    let world = world(arguments, 2, vec![(80, 0)]).await?;
    let mut published = Published::default();
    let job = job(&world, "large", 0, messages).await?;
    let asked = Utc::now();
    let forecast: Value = serde_json::from_str(&world.cli(&["send", &job, "--forecast", "--json"]).await?)?;
    let finish: DateTime<Utc> = forecast["finish"].as_str().context("the forecast has a finish")?.parse()?;
    let large = publish(&world, &job, "large", messages, &mut published).await?;
    calls(&world, 400).await?;
    let begun = Utc::now();
    let small = send(&world, "small", messages, SMALL, &mut published).await?;
    let verdict = ended(&world, &published, Duration::from_mins(10)).await?;
    let small_took = seconds(last(&world, small).await? - begun);
    let (took, foretold) = (seconds(last(&world, large).await? - asked), seconds(finish - asked));
    let off = (foretold - took) / took * 100.0;
    let ok = verdict.is_clean() && small_took < 10.0 && off.abs() <= 5.0;
    println!(
        "shares: {SMALL} behind {messages} at 80/s took {small_took:.1}s (under 10); the large batch took {took:.1}s, forecast \
         {foretold:.1}s ({off:+.1} %, at most 5) lost={} doubled={} {}",
        verdict.lost,
        verdict.doubled,
        if ok { "ok" } else { "FAILED" }
    );
    close(world, ok).await;
    Ok(ok)
}

fn seconds(time: chrono::TimeDelta) -> f64 {
    time.as_seconds_f64()
}

/// When the last message of a batch was accepted.
async fn last(world: &World, batch: Uuid) -> anyhow::Result<DateTime<Utc>> {
    let sql = "SELECT max(accepted_at) FROM message WHERE batch_id = $1";
    Ok(sqlx::query_scalar(sql).bind(batch).fetch_one(&mut world.connect().await?).await?)
}

/// A job over an import of its own. The file it stands in.
async fn job(world: &World, name: &str, first: u32, count: u32) -> anyhow::Result<String> {
    let csv = world.folder.join(format!("{name}.csv"));
    let rows = (first..first + count).map(|i| format!("+8190{:08},佐藤\n", 10_000_000 + i));
    std::fs::write(&csv, ["to,body.name\n".to_owned()].into_iter().chain(rows).collect::<String>())?;
    let (csv, number) = (csv.display().to_string(), world.numbers[0].business());
    let import =
        ["imports", "create", &csv, "--business-number", &number, "--template", "order", "--language", "ja", "--json"];
    let import: Value = serde_json::from_str(&world.cli(&import).await?)?;
    anyhow::ensure!(import["good"] == count, "the import took {} of {count}", import["good"]);
    let job = json!({"schema": "send-job/v1", "job_id": name, "producer": "chaos", "business_number": number,
                     "template": {"name": "order", "language": "ja"}, "audience": {"import": import["id"]}});
    let file = world.folder.join(format!("{name}.json"));
    std::fs::write(&file, job.to_string())?;
    Ok(file.display().to_string())
}

async fn publish(world: &World, job: &str, name: &str, count: u32, published: &mut Published) -> anyhow::Result<Uuid> {
    let answer: Value = serde_json::from_str(&world.cli(&["send", job, "--json"]).await?)?;
    let batch: Uuid = answer["batch_id"].as_str().context("the job was accepted")?.parse()?;
    published.answers.insert(name.to_owned(), (batch, i64::from(count)));
    Ok(batch)
}

async fn send(world: &World, name: &str, first: u32, count: u32, published: &mut Published) -> anyhow::Result<Uuid> {
    let job = job(world, name, first, count).await?;
    publish(world, &job, name, count, published).await
}

/// Stops a batch; how long after the answer the provider was called for it last, in milliseconds of its clock. Calls come
/// so fast that the last one before the answer tells its time.
async fn stop(world: &Arc<World>, what: &str, batch: Uuid) -> anyhow::Result<f64> {
    let id = world.numbers[0].provider_id();
    let answer = world.cli(&["batches", what, &batch.to_string(), WHY[0], WHY[1]]).await?;
    let answered = world.simulator.arrivals(&id).await?.last().copied().unwrap_or_default();
    world.say(&format!("{what}: {}", answer.trim()));
    let mut seen = answered;
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = world.simulator.arrivals(&id).await?.last().copied().unwrap_or_default();
        if now <= seen {
            return Ok(seen - answered);
        }
        seen = now;
    }
}
