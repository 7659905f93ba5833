//! Producers: jobs over AMQP and HTTP, published again until they are answered, some of them twice on purpose.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use campaign_dispatch::broker::Topology;
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use crate::{
    registry::{Number, PRODUCERS},
    world::World,
};

/// A job that is to be published.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) template: &'static str,
    pub(crate) number: usize,
    pub(crate) recipients: u32,
    send_at: Option<String>,
    first: u32,
    over_http: bool,
    again: bool,
    producer: &'static str,
    notify: &'static [&'static str],
}

impl Job {
    /// Not before this time, as the contract has it.
    pub(crate) fn due(self, at: &str) -> Self {
        Self { send_at: Some(at.to_owned()), ..self }
    }

    /// From this producer, who wants to be told everything.
    pub(crate) fn told(self, producer: &'static str) -> Self {
        Self { producer, notify: &["delivered", "read"], ..self }
    }

    fn body(&self, numbers: &[Number]) -> Value {
        let is_code = self.template == "code";
        let recipients = (self.first..self.first + self.recipients).map(|i| {
            let params =
                if is_code { json!({"code": format!("{:06}", i % 1_000_000)}) } else { json!({"name": "佐藤"}) };
            json!({"to": format!("+8190{:08}", 10_000_000 + i), "params": params})
        });
        json!({"schema": "send-job/v1", "job_id": self.id, "producer": self.producer, "notify": self.notify,
               "business_number": numbers[self.number].business(),
               "template": {"name": self.template, "language": "ja"}, "send_at": self.send_at,
               "recipients": recipients.collect::<Vec<_>>()})
    }
}

/// Jobs of `messages` in all: each number gets its share by its limit, in lanes and sizes that are drawn.
pub(crate) fn plan(numbers: &[Number], messages: u32, seed: u64) -> Vec<Job> {
    let mut rng = StdRng::seed_from_u64(seed);
    let total: u32 = numbers.iter().map(|number| number.limit).sum();
    let (mut jobs, mut first) = (Vec::new(), 0);
    for number in numbers {
        let mut left = u64::from(messages) * u64::from(number.limit) / u64::from(total);
        while left > 0 {
            let (template, most) = match rng.random_range(0..100) {
                0..40 => ("code", 1),
                40..70 => ("order", [1, 5, 20][rng.random_range(0..3)]),
                _ => ("offer", [20, 60, 90, 300][rng.random_range(0..4)]),
            };
            let recipients = u32::try_from(left.min(most)).unwrap_or(1);
            let (over_http, again) = (rng.random_bool(0.3), rng.random_bool(0.1));
            let id = format!("job-{}", jobs.len());
            jobs.push(Job { over_http, again, ..bulk(&id, template, number.index, recipients, first) });
            (first, left) = (first + recipients, left - u64::from(recipients));
        }
    }
    jobs.shuffle(&mut rng);
    jobs
}

/// One job for one number, over AMQP.
pub(crate) fn bulk(id: &str, template: &'static str, number: usize, recipients: u32, first: u32) -> Job {
    let (over_http, again, producer) = (false, false, PRODUCERS[0]);
    Job {
        id: id.to_owned(),
        template,
        number,
        recipients,
        send_at: None,
        first,
        over_http,
        again,
        producer,
        notify: &[],
    }
}

/// What was answered: the batch of each job, and how many of its recipients were accepted.
pub(crate) type Answers = HashMap<String, (Uuid, i64)>;

/// What the producers know at the end.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) answers: Answers,
    /// Refused jobs and answers that changed: each is a broken promise.
    pub(crate) wrong: Vec<String>,
    /// Events that came twice.
    pub(crate) events_twice: u64,
}

/// Publishes all jobs within about `within`, and waits until each is answered.
pub(crate) async fn publish(world: &Arc<World>, jobs: Vec<Job>, within: Duration) -> Published {
    let events = Arc::new(Events::default());
    let listening = tokio::spawn(Arc::clone(&events).listen(world.amqp.clone(), world.topology.clone()));
    let producer = Arc::new(Producer::default());
    let sending = tokio::spawn(Arc::clone(&producer).run(world.amqp.clone(), world.topology.clone()));
    let pause = within / u32::try_from(jobs.len().max(1)).unwrap_or(u32::MAX);
    let (open, published) = (Arc::new(Semaphore::new(256)), Arc::new(Mutex::new(Published::default())));
    let tasks = tokio_util::task::TaskTracker::new();
    let mut next = tokio::time::Instant::now();
    for job in jobs {
        tokio::time::sleep_until(next).await;
        next += pause;
        let Ok(permit) = Arc::clone(&open).acquire_owned().await else { break };
        let (world, producer, published) = (Arc::clone(world), Arc::clone(&producer), Arc::clone(&published));
        tasks.spawn(async move {
            let result = until_answered(&world, &producer, &job).await;
            let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(answer) => drop(published.answers.insert(job.id, answer)),
                Err(problem) => published.wrong.push(format!("{}: {problem}", job.id)),
            }
            drop(permit);
        });
    }
    tasks.close();
    tasks.wait().await;
    sending.abort();
    listening.abort();
    let mut published = std::mem::take(&mut *published.lock().unwrap_or_else(PoisonError::into_inner));
    published.events_twice = events.twice.load(Ordering::Relaxed);
    published
}

async fn until_answered(world: &World, producer: &Producer, job: &Job) -> anyhow::Result<(Uuid, i64)> {
    let body = job.body(&world.numbers);
    let first = once(world, producer, job, &body).await?;
    if job.again {
        // The other road, and perhaps another process: the answer must be the same.
        let other = Job { over_http: !job.over_http, ..job.clone() };
        let second = once(world, producer, &other, &body).await?;
        anyhow::ensure!(first == second, "answered {first:?}, then {second:?}");
    }
    Ok(first)
}

async fn once(world: &World, producer: &Producer, job: &Job, body: &Value) -> anyhow::Result<(Uuid, i64)> {
    for tries in 0_usize.. {
        let answer = if job.over_http { http(world, body, tries).await } else { producer.ask(job, body).await };
        let Some(answer) = answer else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let accepted = (answer["status"] == "accepted" && answer["rejected"] == 0)
            .then(|| Some((answer["batch_id"].as_str()?.parse().ok()?, answer["accepted"].as_i64()?)));
        return accepted.flatten().ok_or_else(|| anyhow::anyhow!("refused: {answer}"));
    }
    anyhow::bail!("never answered")
}

pub(crate) async fn http(world: &World, body: &Value, tries: usize) -> Option<Value> {
    let turn = usize::from(rand::random::<u16>()) + tries;
    let address = world.serves.get(turn % world.serves.len())?.address;
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().ok()?;
    let answer =
        client.post(format!("http://{address}/v1/jobs")).bearer_auth(&world.token).json(body).send().await.ok()?;
    // Anything but an answer about the job means: again.
    let is_answer = answer.status().is_success() || answer.status() == reqwest::StatusCode::UNPROCESSABLE_ENTITY;
    if is_answer { answer.json().await.ok() } else { None }
}

/// A producer on AMQP: it may lose its connection, its broker and its answers.
#[derive(Debug, Default)]
struct Producer {
    link: tokio::sync::Mutex<Option<(Channel, String)>>,
    asked: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    entry: std::sync::OnceLock<String>,
}

impl Producer {
    /// Publishes once and waits a while for the answer.
    async fn ask(&self, job: &Job, body: &Value) -> Option<Value> {
        let (channel, reply_to) = self.link.lock().await.clone()?;
        let (sender, answer) = oneshot::channel();
        let correlation = Uuid::new_v4().to_string();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(correlation.clone(), sender);
        let key = if job.template == "code" { Topology::URGENT_KEY } else { Topology::JOBS_KEY };
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_correlation_id(correlation.as_str().into())
            .with_reply_to(reply_to.as_str().into());
        let body = serde_json::to_vec(body).ok()?;
        let options = BasicPublishOptions::default();
        let entry = self.entry.get()?;
        let published = channel.basic_publish(entry.as_str().into(), key.into(), options, &body, properties);
        tokio::time::timeout(Duration::from_secs(5), published).await.ok()?.ok()?;
        let answer = tokio::time::timeout(Duration::from_secs(8), answer).await;
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&correlation);
        answer.ok()?.ok()
    }

    /// Keeps a connection with a queue for answers.
    async fn run(self: Arc<Self>, amqp: String, topology: Topology) {
        self.entry.set(topology.entry()).ok();
        loop {
            if let Some((channel, queue, mut answers, _connection)) = connect(&amqp, None).await {
                *self.link.lock().await = Some((channel, queue));
                while let Some(Ok(answer)) = answers.next().await {
                    let correlation = answer.properties.correlation_id().as_ref().map(ToString::to_string);
                    let asked = correlation
                        .and_then(|id| self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
                    if let (Some(asked), Ok(answer)) = (asked, serde_json::from_slice(&answer.data)) {
                        asked.send(answer).ok();
                    }
                }
                *self.link.lock().await = None;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// A connection with a queue of its own, bound to an exchange with a key when one is given.
async fn connect(amqp: &str, bind: Option<(&str, &str)>) -> Option<(Channel, String, lapin::Consumer, Connection)> {
    let connecting = Connection::connect(amqp, ConnectionProperties::default());
    let connection = tokio::time::timeout(Duration::from_secs(5), connecting).await.ok()?.ok()?;
    let channel = connection.create_channel().await.ok()?;
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.ok()?.name().to_string();
    if let Some((exchange, key)) = bind {
        let options = QueueBindOptions::default();
        channel
            .queue_bind(queue.as_str().into(), exchange.into(), key.into(), options, FieldTable::default())
            .await
            .ok()?;
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer =
        channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await.ok()?;
    Some((channel, queue, consumer, connection))
}

/// Whoever listens to events: they may come twice with the same id.
#[derive(Debug, Default)]
struct Events {
    twice: AtomicU64,
}

impl Events {
    async fn listen(self: Arc<Self>, amqp: String, topology: Topology) {
        let mut seen = std::collections::HashSet::new();
        loop {
            if let Some((_, _, mut events, _connection)) = connect(&amqp, Some((&topology.events(), "#"))).await {
                while let Some(Ok(event)) = events.next().await {
                    let id = event.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
                    if !seen.insert(id) {
                        self.twice.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
