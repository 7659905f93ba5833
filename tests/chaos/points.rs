//! Every fault point: the 1st, 2nd, 3rd … pass through it crashes, fails or stands still, until a run ends without
//! reaching it; after each run every promise is judged.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use campaign_dispatch::fault::{self, Point};
use serde_json::{Value, json};

use crate::{
    Arguments,
    children::Environment,
    judge::{self, Verdict},
    load::{self, Published},
    person,
    world::{Plan, World},
};

/// Runs side by side: most of their time they wait for leases and claims to end.
const LANES: usize = 6;
/// A point that is passed again and again while a process lives is left after so many.
const PASSES_MOST: u32 = 6;
/// A run that is not at rest by then never will be.
const PATIENCE: Duration = Duration::from_secs(90);
const KINDS: [&str; 3] = ["crash", "error", "delay"];

type Case = (Point, &'static str);

/// Runs all of them and prints the last line. Returns whether every promise was kept and every point was reached.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    anyhow::ensure!(fault::ARE_BUILT_IN, "this build has no fault points: deploy/chaos.sh --points builds one");
    let kinds = if arguments.short { &KINDS[..1] } else { &KINDS[..] };
    let cases: VecDeque<Case> = kinds.iter().flat_map(|kind| points().map(move |point| (point, *kind))).collect();
    println!("{} points, {}", points().count(), kinds.join(", "));
    let passes_most = if arguments.short { 1 } else { PASSES_MOST };
    let (cases, totals) = (Arc::new(Mutex::new(cases)), Arc::new(Mutex::new(Totals::default())));
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..LANES {
        lanes.spawn(go(lane, passes_most, Arc::clone(&cases), Arc::clone(&totals)));
    }
    while let Some(ended) = lanes.join_next().await {
        ended??;
    }
    let totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
    for problem in &totals.problems {
        println!("  {problem}");
    }
    println!(
        "points: cases={} runs={} reached={} problems={}",
        totals.cases,
        totals.runs,
        totals.reached,
        totals.problems.len()
    );
    Ok(totals.problems.is_empty())
}

/// The load here publishes by itself: what campaigns do is crashed in `tests/it/campaigns.rs`.
fn points() -> impl Iterator<Item = Point> {
    Point::ALL.iter().copied().filter(|point| !matches!(point, Point::FireBefore | Point::FireAfter))
}

#[derive(Debug, Default)]
struct Totals {
    cases: usize,
    runs: usize,
    reached: usize,
    problems: Vec<String>,
}

async fn go(
    lane: usize,
    passes_most: u32,
    cases: Arc<Mutex<VecDeque<Case>>>,
    totals: Arc<Mutex<Totals>>,
) -> anyhow::Result<()> {
    let set = |name, value: &str| (name, value.to_owned());
    let settings = vec![
        set("DISPATCH__LEASE__TTL_S", "4"),
        set("DISPATCH__LEASE__RENEW_S", "1"),
        set("DISPATCH__LEASE__MARGIN_S", "1"),
        set("DISPATCH__PROVIDER__TIMEOUT_MS", "1000"),
        set("DISPATCH__PROVIDER__CONNECT_TIMEOUT_MS", "500"),
        set("DISPATCH__LOG__FILTER", "info,sqlx=warn,lapin=off"),
    ];
    let plan =
        Plan { workers: 1, limits: vec![(200, 0), (200, 0)], seed: 1, is_cluster: false, relayed: false, settings };
    let mut lane =
        Lane { world: Arc::new(World::start(&plan).await?), published: Published::default(), runs: lane * 10_000 };
    loop {
        let next = cases.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(case) = next else { break };
        let (runs, reached, problem) = lane.case(case, passes_most).await?;
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.cases += 1;
        totals.runs += runs;
        totals.reached += reached;
        let named = |what: String| format!("{} {}: {what}", case.0, case.1);
        println!(
            "{}",
            named(format!("reached {reached} times{}", if problem.is_some() { ", a promise broke" } else { "" }))
        );
        totals.problems.extend(problem.map(named));
        if reached == 0 {
            totals.problems.push(named("never reached".to_owned()));
        }
    }
    let world = Arc::into_inner(lane.world).context("nobody else has the world")?;
    world.finish(false).await
}

/// A world that runs one case after the other.
struct Lane {
    world: Arc<World>,
    /// Everything that was answered so far, since the judgement is about all rows.
    published: Published,
    runs: usize,
}

impl Lane {
    /// Returns how many runs it took, in how many of them the point was reached, and what was wrong.
    async fn case(&mut self, (point, kind): Case, passes_most: u32) -> anyhow::Result<(usize, usize, Option<String>)> {
        for pass in 1..=passes_most {
            let before = format!("{}*off->", pass - 1);
            let before = if pass > 1 { before.as_str() } else { "" };
            let actions = format!("{point}={before}1*return({kind})->off");
            let was_reached = self.once(&actions).await.with_context(|| actions.clone())?;
            let verdict = judge::judge(&self.world, &self.published).await?;
            let (pass, reached) = (usize::try_from(pass)?, usize::try_from(pass)? - usize::from(!was_reached));
            if !verdict.is_clean() {
                return Ok((pass, reached, Some(told(&actions, &verdict))));
            }
            if !was_reached {
                return Ok((pass, reached, None));
            }
        }
        let all = usize::try_from(passes_most)?;
        Ok((all, all, None))
    }

    /// One run with one thing going wrong; says whether it did.
    async fn once(&mut self, actions: &str) -> anyhow::Result<bool> {
        self.runs += 1;
        let world = &self.world;
        let process = &world.serves[0].process;
        // A drain, so that leases are given up; whatever runs is what the run before left.
        if process.life() > 0 {
            process.terminate(Duration::from_secs(40)).await?;
        }
        let log_before = std::fs::metadata(process.log()).map(|log| log.len()).unwrap_or_default();
        let hold = self.open_hold().await?;
        process.start_with(&Environment::from([("FAILPOINTS".to_owned(), actions.to_owned())])).await?;
        let guard = tokio::spawn(start_again(Arc::clone(world)));
        let id = |what: &str| format!("run-{}-{what}", self.runs);
        let jobs = vec![
            load::bulk(&id("offer"), "offer", 0, 60, 0),
            load::bulk(&id("order"), "order", 1, 5, 100),
            load::bulk(&id("code"), "code", 0, 1, 200),
        ];
        let published = load::publish(world, jobs, Duration::ZERO).await;
        self.published.answers.extend(published.answers);
        self.published.wrong.extend(published.wrong);
        let audience = self.audience(&id("audience")).await?;
        self.published.answers.insert(id("audience"), audience);
        until("the hold is closed", || self.close_hold(hold)).await?;
        self.rest().await?;
        // The point of giving up is passed by the drain.
        process.terminate(Duration::from_secs(40)).await?;
        process.start().await?;
        self.rest().await?;
        guard.abort();
        let log = std::fs::read(process.log())?;
        let new = String::from_utf8_lossy(log.get(usize::try_from(log_before)?..).unwrap_or_default()).into_owned();
        Ok(new.contains("a fault point was reached"))
    }

    /// Messages of the utility template wait under it.
    async fn open_hold(&self) -> anyhow::Result<i64> {
        let sql = "INSERT INTO hold (tenant_id, scope, cause, resume)
                   SELECT 1, 'template:' || t.id, 'points', 'person' FROM template t JOIN account a ON a.id = t.account_id
                   WHERE t.name = 'order' AND a.name = 'north' RETURNING id";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.world.connect().await?).await?)
    }

    /// Closes it; the process may have ended between the commit and its answer, so the row says whether it is closed.
    async fn close_hold(&self, hold: i64) -> Option<()> {
        let close = ["holds", "close", &hold.to_string(), "--reason", "the point has been passed"];
        self.world.cli(&close).await.ok();
        let sql = "SELECT closed_at IS NOT NULL FROM hold WHERE id = $1";
        let mut connection = self.world.connect().await.ok()?;
        let is_closed: bool = sqlx::query_scalar(sql).bind(hold).fetch_one(&mut connection).await.ok()?;
        is_closed.then_some(())
    }

    /// A job whose recipients come from a file.
    async fn audience(&self, id: &str) -> anyhow::Result<(uuid::Uuid, i64)> {
        let world = &self.world;
        let file = world.folder.join("audience.csv");
        let rows: Vec<String> = (0..20).map(|i| format!("+8190{:08},佐藤", 20_000_000 + i)).collect();
        std::fs::write(&file, format!("to,body.name\n{}\n", rows.join("\n")))?;
        let (file, number) = (file.display().to_string(), world.numbers[0].business());
        let create = [
            "imports",
            "create",
            &file,
            "--business-number",
            &number,
            "--template",
            "offer",
            "--language",
            "ja",
            "--json",
        ];
        let import = until("the file is imported", || async {
            let made: Value = serde_json::from_str(&world.cli(&create).await.ok()?).ok()?;
            made["id"].as_str().map(ToOwned::to_owned)
        });
        let job = json!({"schema": "send-job/v1", "job_id": id, "producer": "chaos", "business_number": number,
                         "template": {"name": "offer", "language": "ja"}, "audience": {"import": import.await?}});
        until("the audience's job is answered", || async {
            let answer = load::http(world, &job, 0).await?;
            Some((answer["batch_id"].as_str()?.parse().ok()?, answer["accepted"].as_i64()?))
        })
        .await
    }

    /// Waits until nothing is left to do; what is uncertain is decided about at once, with evidence.
    async fn rest(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut connection = self.world.connect().await?;
        loop {
            let (work, unsure, waiting): (i64, i64, i64) = sqlx::query_as(
                "SELECT count(*), count(*) FILTER (WHERE stage = 'unsure'),
                        (SELECT count(*) FROM callback_waiting) + (SELECT count(*) FROM outbox)
                          + (SELECT count(*) FROM batch WHERE state = 'planning') FROM work",
            )
            .fetch_one(&mut connection)
            .await?;
            let owed = self.world.simulator.callbacks().await?.owed;
            if work == 0 && waiting == 0 && owed == 0 {
                return Ok(());
            }
            if unsure > 0 && unsure == work && waiting == 0 && owed == 0 {
                person::resolves(&self.world).await.ok();
            }
            anyhow::ensure!(
                began.elapsed() < PATIENCE,
                "not at rest: {work} to be done, {unsure} of them uncertain, {waiting} wait, {owed} callbacks are owed"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A process that crashed is started again as a service manager would, without the fault.
async fn start_again(world: Arc<World>) {
    loop {
        let process = &world.serves[0].process;
        if process.has_ended().await && process.start().await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn told(actions: &str, verdict: &Verdict) -> String {
    let Verdict { lost, doubled, over_limit, uncertain_open, notes, .. } = verdict;
    let notes = notes.join("; ");
    format!(
        "{actions}: lost={lost} doubled={doubled} over_limit={over_limit} uncertain_open={uncertain_open} ({notes})"
    )
}
