//! Campaigns: each occurrence once whoever ticks and whatever dies, and what people do to them.

use std::{process::Stdio, sync::Arc, time::Duration};

use campaign_dispatch::{
    campaigns::{self, Means, Ticked, Ticker},
    domain::ids::TenantId,
    registry::tokens::{self, Scope, TokenRequest},
    store::campaigns::Person,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    journey::Home,
    support::{
        broker::Names,
        eventually::eventually,
        world::{KEY, Plan, World},
    },
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
    sqlx::query_scalar("SELECT m -> 'body' ->> 'job_id' FROM outbox, jsonb_array_elements(messages) m ORDER BY 1")
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

/// The API as a person uses it.
struct Operator {
    url: String,
    token: String,
}

impl Operator {
    async fn of(home: &Home, name: &str) -> Self {
        let request = TokenRequest {
            name: name.to_owned(),
            scopes: vec![Scope::Operate, Scope::Read],
            producer: None,
            tenant: Some("default".to_owned()),
        };
        let token = tokens::create(&home.world.store, None, &request).await.unwrap().token;
        Self { url: home.url(), token }
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut request =
            reqwest::Client::new().request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
    }

    async fn put(&self, document: &Value, query: &str) -> (u16, Value) {
        let path = format!("/v1/campaigns/{}{query}", document["key"].as_str().unwrap());
        self.call(reqwest::Method::PUT, &path, Some(document)).await
    }

    async fn post(&self, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.call(reqwest::Method::POST, path, body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.call(reqwest::Method::GET, path, None).await.1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_fires_by_the_clock_through_the_queue_to_the_provider() {
    let home = Home::start(Plan::default()).await;
    let ann = Operator::of(&home, "ann").await;
    let at = (chrono::Utc::now() + chrono::Duration::seconds(2)).to_rfc3339();
    let once = document("once", &json!({ "once": at }));
    let (status, would) = ann.put(&once, "?dry_run=true").await;
    assert_eq!((status, &would["change"]), (200, &json!("created")), "{would}");
    assert_eq!(ann.get("/v1/campaigns").await, json!([]));
    assert_eq!(ann.put(&once, "").await.1["change"], "created");
    assert_eq!(ann.put(&once, "").await.1["change"], "unchanged");
    home.states(&[("read", 30)]).await;
    let rows = ann.get("/v1/campaigns/once/occurrences").await;
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["state"]), (1, &json!("fired")), "{rows}");
    let batch = ann.get(&format!("/v1/batches/{}", rows[0]["batch_id"].as_str().unwrap())).await;
    assert_eq!((&batch["campaign"], &batch["job_id"]), (&json!("once"), &rows[0]["job_id"]), "{batch}");
    assert_eq!(ann.get("/v1/campaigns/once").await["next_fire_at"], Value::Null);
    assert_eq!(home.world.ledger().totals.doubled, 0);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_named_once_and_waits_for_another_person() {
    let home = Home::start(Plan::default()).await;
    let (ann, ben) = (Operator::of(&home, "ann").await, Operator::of(&home, "ben").await);
    let mut asked = document("asked", &json!("on_demand"));
    asked["approval_over"] = json!(10);
    assert_eq!(ann.put(&asked, "").await.0, 200);
    let name = json!({"name": "first"});
    let (status, first) = ann.post("/v1/campaigns/asked/run", Some(&name)).await;
    assert_eq!((status, &first["state"]), (202, &json!("fired")), "{first}");
    let (_, again) = ann.post("/v1/campaigns/asked/run", Some(&name)).await;
    assert_eq!(again["job_id"], first["job_id"]);
    home.states(&[("pending", 30)]).await;
    // While it waits, another run would overlap.
    let (status, refused) = ann.post("/v1/campaigns/asked/run", None).await;
    assert_eq!((status, &refused["errors"][0]["code"]), (409, &json!("overlap")), "{refused}");
    let hold = ann.get("/v1/holds?open=true").await["items"][0].clone();
    assert_eq!(hold["cause"], "approval", "{hold}");
    let close = format!("/v1/holds/{}/close", hold["id"]);
    let reason = json!({"reason": "looks good"});
    assert_eq!(ann.post(&close, Some(&reason)).await.0, 403, "not by the one who ran it");
    assert_eq!(home.world.ledger().totals.calls, 0);
    assert_eq!(ben.post(&close, Some(&reason)).await.0, 204);
    home.states(&[("read", 30)]).await;
    let test = json!({"to": ["+819099990001"]});
    assert_eq!(ann.post("/v1/campaigns/asked/test", Some(&test)).await.0, 202);
    home.states(&[("read", 31)]).await;
    let six = json!({"to": ["1", "2", "3", "4", "5", "6"]});
    assert_eq!(ann.post("/v1/campaigns/asked/test", Some(&six)).await.0, 422);
    assert_eq!(ann.get("/v1/campaigns/asked/occurrences").await.as_array().unwrap().len(), 1, "a test counts nowhere");
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_what_is_under_way_and_a_resume_sends_exactly_the_rest() {
    let home = Home::start(Plan { limits: vec![Some(5)], ..Plan::default() }).await;
    let ann = Operator::of(&home, "ann").await;
    let slow = document("slow", &json!("on_demand"));
    assert_eq!(ann.put(&slow, "").await.0, 200);
    assert_eq!(ann.post("/v1/campaigns/slow/run", None).await.0, 202);
    eventually("some are sent", LONG, async || (home.world.ledger().totals.accepted > 3).then_some(())).await;
    let (status, under_way) = ann.post("/v1/campaigns/slow/pause", None).await;
    assert_eq!((status, &under_way["batches"]), (200, &json!(1)), "{under_way}");
    let mut connection = home.world.database.connect().await;
    eventually("what waits is parked", LONG, async || {
        let stages: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT stage::text FROM work").fetch_all(&mut connection).await.unwrap();
        (stages == ["parked"]).then_some(())
    })
    .await;
    let sent = home.world.ledger().totals.accepted;
    assert!(sent < 30, "{sent}");
    assert_eq!(ann.post("/v1/campaigns/slow/run", None).await.0, 409, "a paused campaign is not run");
    assert_eq!(home.world.ledger().totals.accepted, sent, "nothing is sent while it is paused");
    let (status, resumed) = ann.post("/v1/campaigns/slow/resume", None).await;
    assert_eq!((status, &resumed["batches"]), (200, &json!(1)));
    home.states(&[("read", 30)]).await;
    let totals = home.world.ledger().totals;
    assert_eq!((totals.accepted, totals.doubled), (30, 0));
    drop(connection);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_that_waits_goes_when_the_earlier_one_is_through() {
    let home = Home::start(Plan { limits: vec![Some(20)], ..Plan::default() }).await;
    let ann = Operator::of(&home, "ann").await;
    let mut patient = document("patient", &json!("on_demand"));
    patient["overlap"] = json!("wait");
    assert_eq!(ann.put(&patient, "").await.0, 200);
    assert_eq!(ann.post("/v1/campaigns/patient/run", None).await.1["state"], "fired");
    assert_eq!(ann.post("/v1/campaigns/patient/run", None).await.1["state"], "waiting");
    home.states(&[("read", 60)]).await;
    let mut connection = home.world.database.connect().await;
    let overlapping: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM message a, message b WHERE a.batch_id < b.batch_id AND a.accepted_at > b.accepted_at",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(overlapping, 0, "the second began after the first was through");
    drop(connection);
    home.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_document_is_told_with_its_place() {
    let home = Home::start(Plan::default()).await;
    let ann = Operator::of(&home, "ann").await;
    let told = async |change: &dyn Fn(&mut Value)| {
        let mut wrong = document("wrong", &json!({"cron": "0 9 * * mon-fri"}));
        change(&mut wrong);
        let (status, answer) = ann.put(&wrong, "").await;
        assert_eq!(status, 422, "{answer}");
        let first = &answer["errors"][0];
        format!("{} {}", first["pointer"].as_str().unwrap(), first["code"].as_str().unwrap())
    };
    assert_eq!(told(&|d| d["schedule"] = json!({"cron": "0 0 9 * * *"})).await, "/schedule/cron invalid_cron");
    assert_eq!(told(&|d| d["schedule"] = json!({"once": "2020-01-01T00:00:00Z"})).await, "/schedule/once in_the_past");
    assert_eq!(told(&|d| d["end"] = json!("2020-01-01T00:00:00Z")).await, "/schedule/cron never_fires");
    assert_eq!(told(&|d| d["template"]["name"] = json!("offr")).await, "/template/name unknown_template");
    assert_eq!(told(&|d| d["producer"] = json!("shoop")).await, "/producer unknown_producer");
    assert_eq!(told(&|d| d["time_zone"] = json!("Asia/Tokio")).await, "/time_zone unknown_time_zone");
    let place = told(&|d| d["audience"]["recipients"][3]["to"] = json!("12")).await;
    assert_eq!(place, "/audience/recipients/3/to invalid_number");

    // One that is good, and then another: the difference is told, and what the clock does to its firings.
    let mut daily = document("daily", &json!({"cron": "30 2 * * *"}));
    daily["time_zone"] = json!("America/New_York");
    assert_eq!(ann.put(&daily, "").await.1["change"], "created");
    daily["overlap"] = json!("wait");
    let (_, changed) = ann.put(&daily, "").await;
    assert_eq!(changed["differences"], json!([{"field": "overlap", "before": "skip", "after": "wait"}]));
    let next = ann.get("/v1/campaigns/daily/next?count=100").await;
    let next = next.as_array().unwrap();
    assert_eq!(next.len(), 100);
    assert_eq!(next[0]["utc"], changed["next_fire_at"]);
    assert_eq!(ann.post("/v1/campaigns/daily/archive", None).await.0, 204);
    assert_eq!(ann.put(&daily, "").await.0, 409);
    assert_eq!(ann.get("/v1/campaigns").await, json!([]));
    assert_eq!(ann.get("/v1/campaigns?all=true").await[0]["state"], "archived");
    home.finish().await;
}
