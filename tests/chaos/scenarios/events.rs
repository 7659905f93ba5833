//! Events heard by foreign clients (the Python program of the README, each bound to its own producer's keys) while the
//! broker is killed, a `serve` is killed and one of the listeners is killed: compared with the rows in the database.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use lapin::{Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::{calls, close, ended, publish, world};
use crate::{
    Arguments,
    load::{self, Job},
    registry::PRODUCERS,
    world::World,
};

const MESSAGES: u32 = 6000;
const JOBS: u32 = 12;
const README: &str = include_str!("../../../README.md");
/// The exchange and the producer that stand in it.
const IN_README: (&str, &str) = ("\"dispatch.events\"", "shop");

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let messages = arguments.messages.unwrap_or(MESSAGES).max(2 * JOBS);
    let world = world(arguments, 2, vec![(messages / 40, 0), (messages / 40, 1)]).await?;
    for action in ["131026", "async=131026"] {
        world.simulator.add_fault(&json!({"match": {"probability": 0.05}, "do": action})).await?;
    }
    let mut listeners = Vec::new();
    for producer in PRODUCERS {
        listeners.push(Listener::start(&world, producer).await?);
    }
    let jobs: Vec<Job> = (0..JOBS).map(|n| job(n, messages / JOBS)).collect();
    let publishing = publish(&world, jobs);
    calls(&world, u64::from(messages) / 5).await?;
    world.serves[0].process.kill().await?;
    world.say("killed a serve");
    listeners[0].child.kill().await?;
    world.say("killed a listener");
    calls(&world, u64::from(messages) / 3).await?;
    let is_ours = world.services.owns_rabbitmq;
    if is_ours {
        world.say("kill RabbitMQ, away for 5 s");
        world.services.restart_rabbitmq(true, Duration::from_secs(5)).await?;
    } else {
        world.say("RabbitMQ is not ours to kill");
    }
    listeners[0].go_on(&world)?;
    world.serves[0].process.start().await?;
    world.ready(&world.serves[0]).await?;
    let published = publishing.await?;
    let verdict = ended(&world, &published, Duration::from_mins(5)).await?;

    let mut ok = verdict.is_clean();
    let (mut expected, mut heard, mut sums) = (0, 0, Faults::default());
    for listener in &listeners {
        let due = due(&world, listener.producer).await?;
        let faults = listener.hears(&world, &due).await?;
        expected += due.len();
        heard += due.len() - faults.missing;
        sums.add(&faults);
    }
    // Something must have gone wrong for this to show anything.
    ok &= sums.is_clean() && expected > usize::try_from(messages)?;
    for listener in listeners {
        listener.end(&world).await?;
    }
    close(world, ok).await;
    println!(
        "events: listeners={} broker_kills={} owed={expected} heard={heard} missing={} again_same_id={} again_other_id={} unowed={} foreign={} out_of_order={}",
        PRODUCERS.len(),
        u8::from(is_ours),
        sums.missing,
        sums.same_id,
        sums.other_id,
        sums.unowed,
        sums.foreign,
        sums.out_of_order
    );
    Ok(ok)
}

/// Jobs of both producers in turn, each of which asks for all.
fn job(n: u32, recipients: u32) -> Job {
    let number = (n % 2) as usize;
    load::bulk(&format!("events-{n}"), "order", number, recipients, n * recipients).told(PRODUCERS[number])
}

/// What a message or batch is told of: kind, and its id.
type Told = (String, String);

/// What must be told to a producer, from the rows.
async fn due(world: &World, producer: &str) -> anyhow::Result<BTreeSet<Told>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "WITH mine AS (SELECT m.batch_id || '.' || m.seq AS id, m.state FROM message m JOIN batch b USING (batch_id) WHERE b.producer = $1)
         SELECT 'message.failed.v1', id FROM mine WHERE state IN ('failed', 'expired', 'suppressed', 'cancelled')
         UNION ALL SELECT 'message.delivered.v1', id FROM mine WHERE state IN ('delivered', 'read')
         UNION ALL SELECT 'message.read.v1', id FROM mine WHERE state = 'read'
         UNION ALL SELECT kind, batch_id::text FROM batch, unnest(ARRAY['job.accepted.v1', 'batch.dispatched.v1', 'batch.completed.v1']) kind
                   WHERE producer = $1",
    )
    .bind(producer)
    .fetch_all(&mut world.connect().await?)
    .await?;
    Ok(rows.into_iter().collect())
}

/// What is wrong with what was heard.
#[derive(Debug, Default)]
struct Faults {
    missing: usize,
    /// Heard again with its id: allowed.
    same_id: usize,
    /// Heard again under another id.
    other_id: usize,
    /// Heard and not in the rows.
    unowed: usize,
    /// Of another producer.
    foreign: usize,
    out_of_order: usize,
}

impl Faults {
    fn add(&mut self, other: &Self) {
        self.missing += other.missing;
        self.same_id += other.same_id;
        self.other_id += other.other_id;
        self.unowed += other.unowed;
        self.foreign += other.foreign;
        self.out_of_order += other.out_of_order;
    }

    fn is_clean(&self) -> bool {
        self.missing + self.other_id + self.unowed + self.foreign + self.out_of_order == 0
    }

    /// Takes events in the order they were heard.
    fn of(events: &[Value], producer: &str, due: &BTreeSet<Told>) -> Self {
        let mut faults = Self::default();
        let (mut ids, mut heard) = (BTreeSet::<Uuid>::new(), HashMap::<Told, usize>::new());
        for (place, event) in events.iter().enumerate() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            if event["producer"] != producer {
                faults.foreign += 1;
            }
            if !ids.insert(text(&event["id"]).parse().unwrap_or_default()) {
                faults.same_id += 1;
                continue;
            }
            let data = &event["data"];
            let about = if data["id"].is_string() { &data["id"] } else { &data["batch_id"] };
            if heard.insert((text(&event["type"]), text(about)), place).is_some() {
                faults.other_id += 1;
            }
        }
        faults.missing = due.iter().filter(|told| !heard.contains_key(*told)).count();
        faults.unowed = heard.keys().filter(|told| !due.contains(*told)).count();
        let order = [("message.delivered.v1", "message.read.v1"), ("batch.dispatched.v1", "batch.completed.v1")];
        for (earlier, later) in order {
            let of_kind = |kind| heard.iter().filter(move |((of, _), _)| *of == kind);
            for ((_, about), at) in of_kind(later) {
                let before = heard.get(&(earlier.to_owned(), about.clone()));
                faults.out_of_order += usize::from(before.is_none_or(|before| before > at));
            }
        }
        faults
    }
}

/// A process that hears the events of one producer and writes each as a line.
struct Listener {
    producer: &'static str,
    program: String,
    lines: PathBuf,
    child: Child,
}

impl Listener {
    async fn start(world: &World, producer: &'static str) -> anyhow::Result<Self> {
        let mut blocks = README.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
        let block = blocks.find(|block| block.contains("basic_ack")).context("README shows a consumer")?;
        anyhow::ensure!(
            block.contains(IN_README.0) && block.contains(IN_README.1),
            "README names exchange and producer"
        );
        let exchange = format!("\"{}\"", world.topology.events());
        let program = block.replace(IN_README.0, &exchange).replace(IN_README.1, producer);
        let lines = world.folder.join(format!("heard-{producer}.jsonl"));
        let child = spawn(&program, &lines, world)?;
        let listener = Self { producer, program, lines, child };
        let connection = Connection::connect(&world.amqp, ConnectionProperties::default()).await?;
        for _ in 0..300 {
            // A channel each: asking for a queue that is not there ends it.
            let channel = connection.create_channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(listener.queue().into(), passive, FieldTable::default()).await;
            if found.is_ok_and(|queue| queue.consumer_count() > 0) {
                return Ok(listener);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the listener of {producer} does not listen: see {}", listener.lines.display())
    }

    fn queue(&self) -> String {
        format!("{}-events", self.producer)
    }

    fn go_on(&mut self, world: &World) -> anyhow::Result<()> {
        self.child = spawn(&self.program, &self.lines, world)?;
        Ok(())
    }

    /// Waits until all that is due was heard, or nothing has come for a while.
    async fn hears(&self, world: &World, due: &BTreeSet<Told>) -> anyhow::Result<Faults> {
        let (mut lines, mut calm) = (0, 0);
        loop {
            let events = self.events()?;
            let faults = Faults::of(&events, self.producer, due);
            calm = if events.len() == lines { calm + 1 } else { 0 };
            lines = events.len();
            // What comes when nothing is missing any more is heard too.
            if (faults.missing == 0 && calm >= 10) || calm >= 100 {
                world.say(&format!("{}: {} events heard, {faults:?}", self.producer, events.len()));
                return Ok(faults);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    fn events(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.lines)?;
        // A line that was being written when its process was killed has no end; that event comes again.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    async fn end(mut self, world: &World) -> anyhow::Result<()> {
        self.child.kill().await?;
        let connection = Connection::connect(&world.amqp, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.queue_delete(self.queue().into(), lapin::options::QueueDeleteOptions::default()).await?;
        Ok(())
    }
}

fn spawn(program: &str, lines: &Path, world: &World) -> anyhow::Result<Child> {
    let heard = File::options().create(true).append(true).open(lines)?;
    let errors = File::options().create(true).append(true).open(lines.with_extension("log"))?;
    let mut command = Command::new(std::env::var("CHAOS_PYTHON").as_deref().unwrap_or("python3"));
    command.args(["-u", "-c", program]).env("AMQP_URL", &world.amqp).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(heard).stderr(errors);
    command.spawn().context("python3, with pika")
}
