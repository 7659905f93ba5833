//! Campaigns: each occurrence once whoever ticks and whatever dies, and what people do to them.

mod canary;
mod groups;
mod operator;
mod stop;
mod zones;

use std::{process::Stdio, sync::Arc, time::Duration};

use campaign_dispatch::{
    campaigns::{self, Means, Ticked, Ticker},
    domain::ids::TenantId,
    store::campaigns::Person,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::support::{
    broker::Names,
    eventually::eventually,
    world::{KEY, Plan, World},
};

const LONG: Duration = Duration::from_mins(1);

fn document(key: &str, schedule: &Value) -> Value {
    let recipients: Vec<Value> = (0..30)
        .map(|i| json!({"to": format!("+8190{:08}", 20_000_000 + i), "params": {"body.name": "佐藤"}}))
        .collect();
    json!({"schema": "campaign/v1", "key": key, "business_number": "+81312340001",
           "template": {"name": "offer", "language": "ja"}, "params": {"body.shop": "渋谷店"},
           "audience": {"recipients": recipients}, "schedule": schedule, "time_zone": "Asia/Tokyo"})
}

fn person(name: &str) -> Person {
    Person { name: name.to_owned(), token: Uuid::new_v4() }
}

/// Applies a document without the API.
async fn apply(world: &World, document: Value) {
    let definition = campaigns::read(serde_json::from_value(document).unwrap()).unwrap();
    let by = person("test");
    let means = Means { store: &world.store, tenant: TenantId(1), by: &by, approval_over: 0 };
    campaigns::apply(means, &definition, "shop", false).await.unwrap();
}

fn ticker(world: &World) -> Ticker {
    Ticker::new(&world.store, world.settings.campaigns.clone(), Arc::default())
}

/// Makes every campaign due since so many minutes.
async fn due_since(connection: &mut PgConnection, minutes: i32) {
    sqlx::query("UPDATE campaign SET next_fire_at = date_trunc('minute', now()) - make_interval(mins => $1)")
        .bind(minutes)
        .execute(connection)
        .await
        .unwrap();
}

/// Occurrences by what became of them.
async fn outcomes(connection: &mut PgConnection) -> Vec<(String, i64)> {
    sqlx::query_as("SELECT coalesce(reason, state), count(*) FROM occurrence GROUP BY 1 ORDER BY 1")
        .fetch_all(connection)
        .await
        .unwrap()
}

/// The ids of the jobs that are owed.
async fn owed(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT m -> 'body' ->> 'job_id' FROM outbox, jsonb_array_elements(messages) m WHERE m ->> 'to' = 'entry' ORDER BY 1",
    )
    .fetch_all(connection)
    .await
    .unwrap()
}

fn counted(pairs: &[(&str, i64)]) -> Vec<(String, i64)> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_occurrence_fires_once_whoever_ticks() {
    let world = World::start(Plan::default()).await;
    for i in 0..20 {
        apply(&world, document(&format!("campaign-{i}"), &json!({"cron": "* * * * *"}))).await;
    }
    let mut connection = world.database.connect().await;
    for round in 1..=3 {
        due_since(&mut connection, 0).await;
        let before = owed(&mut connection).await.len();
        let ticks = (0..6).map(|_| {
            let mut ticker = ticker(&world);
            tokio::spawn(async move { ticker.step().await.unwrap() })
        });
        let mut all = Ticked::default();
        for tick in futures_util::future::join_all(ticks).await {
            all += tick.unwrap();
        }
        // A campaign that was locked at that moment is passed over: the next tick has it.
        all += ticker(&world).step().await.unwrap();
        let jobs = owed(&mut connection).await;
        assert_eq!(jobs.len() - before, all.fired, "round {round}: as many jobs as firings");
        let mut unique = jobs.clone();
        unique.dedup();
        assert_eq!(unique, jobs, "round {round}: no job twice");
        // Of the same minute nothing fires again, however often it is made due.
        let fired: i64 = sqlx::query_scalar("SELECT count(*) FROM occurrence WHERE state = 'fired'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(usize::try_from(fired).unwrap(), jobs.len());
        let left: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM campaign WHERE next_fire_at <= (SELECT max(fire_at) FROM occurrence)",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!(left, 0, "every campaign goes on to its next time");
        let campaigns: i64 =
            sqlx::query_scalar("SELECT count(DISTINCT campaign_id) FROM occurrence WHERE state = 'fired'")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert_eq!(campaigns, 20, "every campaign fired");
    }
    drop(connection);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_of_an_authentication_template_goes_by_the_urgent_road() {
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    sqlx::query("UPDATE template SET category = 'authentication' WHERE name = 'order'")
        .execute(&mut connection)
        .await
        .unwrap();
    for template in ["order", "offer"] {
        let mut document = document(template, &json!({"cron": "* * * * *"}));
        document["template"]["name"] = json!(template);
        apply(&world, document).await;
    }
    due_since(&mut connection, 0).await;
    ticker(&world).step().await.unwrap();
    let keys: Vec<(String, String)> = sqlx::query_as(
        "SELECT m -> 'body' ->> 'campaign', m ->> 'key' FROM outbox, jsonb_array_elements(messages) m
         WHERE m ->> 'to' = 'entry' ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let expected = [("offer", "jobs"), ("order", "jobs.urgent")];
    assert_eq!(keys, expected.map(|(campaign, key)| (campaign.to_owned(), key.to_owned())));
    drop(connection);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_gap_the_latest_runs_and_the_rest_is_recorded() {
    let world = World::start(Plan::default()).await;
    apply(&world, document("minutely", &json!({"cron": "* * * * *"}))).await;
    let mut connection = world.database.connect().await;
    due_since(&mut connection, 10).await;
    ticker(&world).step().await.unwrap();
    assert_eq!(outcomes(&mut connection).await, counted(&[("fired", 1), ("missed", 10)]));
    assert_eq!(owed(&mut connection).await.len(), 1);
    // Its job is still on its way: the next firing finds it so and skips, which is recorded.
    sqlx::query("DELETE FROM occurrence WHERE state = 'skipped'").execute(&mut connection).await.unwrap();
    sqlx::query("UPDATE occurrence SET fire_at = fire_at - interval '5 minutes', job_id = job_id || '-earlier'")
        .execute(&mut connection)
        .await
        .unwrap();
    due_since(&mut connection, 0).await;
    ticker(&world).step().await.unwrap();
    assert_eq!(outcomes(&mut connection).await, counted(&[("fired", 1), ("overlap", 1)]));
    drop(connection);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_late_or_paused_is_skipped_with_its_reason() {
    let world = World::start(Plan::default()).await;
    let mut yearly = document("yearly", &json!({"cron": "0 0 1 1 *"}));
    yearly["late_within"] = json!("1m");
    apply(&world, yearly).await;
    let mut connection = world.database.connect().await;
    sqlx::query("UPDATE campaign SET next_fire_at = now() - interval '70 seconds'")
        .execute(&mut connection)
        .await
        .unwrap();
    ticker(&world).step().await.unwrap();
    let by = person("ann");
    let means = Means { store: &world.store, tenant: TenantId(1), by: &by, approval_over: 0 };
    campaigns::pause(means, "yearly").await.unwrap();
    sqlx::query("UPDATE campaign SET next_fire_at = now() - interval '1 second'")
        .execute(&mut connection)
        .await
        .unwrap();
    ticker(&world).step().await.unwrap();
    assert_eq!(outcomes(&mut connection).await, counted(&[("late", 1), ("paused", 1)]));
    assert!(owed(&mut connection).await.is_empty());
    // Resumed, it fires at its next time and makes up for nothing.
    campaigns::resume(means, "yearly").await.unwrap();
    ticker(&world).step().await.unwrap();
    assert!(owed(&mut connection).await.is_empty());
    campaigns::archive(means, "yearly").await.unwrap();
    let next: Option<chrono::DateTime<chrono::Utc>> =
        sqlx::query_scalar("SELECT next_fire_at FROM campaign").fetch_one(&mut connection).await.unwrap();
    assert_eq!(next, None);
    drop(connection);
    world.finish().await;
}

/// A process that only fires campaigns, and dies where it is told to.
fn serve(world: &World, prefix: &str, points: &str) -> tokio::process::Child {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_campaign-dispatch"))
        .args(["serve", "--roles", "campaigns"])
        .env("DATABASE_URL", world.database.url().expose_secret())
        .env("DISPATCH__BROKER__PREFIX", prefix)
        .env("DISPATCH__SECRETS__KEY", hex::encode(KEY))
        .env("DISPATCH__CAMPAIGNS__TICK_MS", "50")
        .env("FAILPOINTS", points)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_at_a_firing_leaves_it_fired_once() {
    if !campaign_dispatch::fault::ARE_BUILT_IN {
        return;
    }
    let names = Names::take().await;
    let world = World::start(Plan::default()).await;
    let mut connection = world.database.connect().await;
    for (place, point) in ["fire.before", "fire.after"].into_iter().enumerate() {
        apply(&world, document(point, &json!({"cron": "0 0 1 1 *"}))).await;
        sqlx::query("UPDATE campaign SET next_fire_at = date_trunc('second', now()) WHERE key = $1")
            .bind(point)
            .execute(&mut connection)
            .await
            .unwrap();
        let mut dying = serve(&world, &names.prefix, &format!("{point}=1*return(crash)->off"));
        let ended = tokio::time::timeout(LONG, dying.wait()).await.unwrap().unwrap();
        assert!(!ended.success(), "{point}: it died");
        let left = owed(&mut connection).await.len();
        assert_eq!(left, place + usize::from(point == "fire.after"), "{point}: all of it or nothing");
        let mut next = serve(&world, &names.prefix, "");
        eventually("the firing stands", LONG, async || {
            let fired = outcomes(&mut connection).await;
            (fired == counted(&[("fired", i64::try_from(place + 1).unwrap())])).then_some(())
        })
        .await;
        // Somebody else looks again, and finds nothing more to do.
        assert_eq!(ticker(&world).step().await.unwrap(), Ticked::default());
        next.kill().await.unwrap();
        assert_eq!(owed(&mut connection).await.len(), place + 1, "{point}: one job");
    }
    drop(connection);
    world.finish().await;
}
