//! Jobs of one recipient each, by AMQP.

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use campaign_dispatch::broker::{Broker, BrokerOptions, Publication, Publisher, Topology};
use futures_util::future::try_join_all;
use lapin::{
    Connection, ConnectionProperties,
    options::QueueDeclareOptions,
    types::{FieldTable, ShortString},
};
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::{now_ms, say};

/// Jobs in one round of confirms.
const ROUND: usize = 250;
/// What was taken of a queue of some depth is replaced this often: little by little, as many producers would.
const REFILL_EVERY: Duration = Duration::from_millis(20);
/// Publishers, each with a channel of its own.
const PUBLISHERS: usize = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Jobs {
    /// `AMQP_URL`
    #[arg(long, env = "AMQP_URL")]
    amqp: String,
    /// Of the exchanges
    #[arg(long, env = "DISPATCH__BROKER__PREFIX")]
    prefix: String,
    /// jobs or jobs.urgent
    #[arg(long, default_value = "jobs")]
    key: String,
    /// How many
    #[arg(long)]
    n: usize,
    /// Begins the job ids: unique for each call
    #[arg(long)]
    name: String,
    /// The business numbers, in turn
    #[arg(long, value_delimiter = ',')]
    numbers: Vec<String>,
    /// The templates, in turn
    #[arg(long, value_delimiter = ',')]
    templates: Vec<String>,
    /// One at a time, so many milliseconds apart
    #[arg(long)]
    every_ms: Option<u64>,
    /// As fast as they are taken: at most so many in the queue
    #[arg(long)]
    depth: Option<u32>,
    /// Where `job_id` and the time of each publish go, with `--every-ms`
    #[arg(long)]
    times: Option<PathBuf>,
}

impl Jobs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // An error says that it is installed already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let stop = CancellationToken::new();
        let options = BrokerOptions {
            url: self.amqp.clone().into(),
            confirm_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            topology: Topology::with_prefix(&self.prefix),
        };
        let broker = Broker::start(&options, stop.clone())?;
        let jobs: Vec<Publication> = (0..self.n).map(|i| self.job(i, broker.topology())).collect();
        while !broker.is_connected() {
            sleep(Duration::from_millis(10)).await;
        }
        let began = now_ms();
        if let Some(every) = self.every_ms {
            let times = one_by_one(&broker.publisher(), jobs, Duration::from_millis(every)).await?;
            if let Some(path) = &self.times {
                fs::write(path, times).context("could not write the times")?;
            }
        } else {
            let publishers: Vec<Publisher> = (0..PUBLISHERS).map(|_| broker.publisher()).collect();
            self.at_once(&publishers, jobs, broker.topology()).await?;
        }
        say(&format!("{began:.3} {:.3} {}", now_ms(), self.n))?;
        stop.cancel();
        broker.closed().await;
        Ok(())
    }

    fn job(&self, i: usize, topology: &Topology) -> Publication {
        let turn = |of: &[String]| of.get(i % of.len().max(1)).cloned().unwrap_or_default();
        let (name, number, template) = (&self.name, turn(&self.numbers), turn(&self.templates));
        let (id, to) = (format!("{name}-{i}"), 10_000_000 + i);
        let params = if template == "code" {
            format!(r#"{{"code":"{:06}"}}"#, i % 1_000_000)
        } else {
            format!(r#"{{"name":"佐藤{i}","shop":"渋谷店"}}"#)
        };
        let body = format!(
            r#"{{"schema":"send-job/v1","job_id":"{id}","producer":"bench","business_number":"{number}","template":{{"name":"{template}","language":"ja"}},"recipients":[{{"to":"+8190{to}","params":{params},"ref":"crm-{i}"}}]}}"#
        );
        Publication::json(topology.entry(), self.key.clone(), id, body.into())
    }

    async fn at_once(&self, by: &[Publisher], jobs: Vec<Publication>, topology: &Topology) -> anyhow::Result<()> {
        let queue = match self.depth {
            Some(most) => Some((Depth::open(&self.amqp, topology.jobs()).await?, most)),
            None => None,
        };
        let mut left = jobs.as_slice();
        while !left.is_empty() {
            let room = match &queue {
                Some((queue, most)) => most.saturating_sub(queue.now().await?) as usize,
                None => usize::MAX,
            };
            let (part, later) = left.split_at(left.len().min(room).min(ROUND * by.len()));
            let rounds = part.chunks(ROUND).zip(by).map(|(round, publisher)| publisher.publish(round.to_vec()));
            try_join_all(rounds).await?;
            left = later;
            if queue.is_some() {
                sleep(REFILL_EVERY).await;
            }
        }
        Ok(())
    }
}

async fn one_by_one(publisher: &Publisher, jobs: Vec<Publication>, every: Duration) -> anyhow::Result<String> {
    let (mut ticks, mut times) = (interval(every), String::new());
    let (first, mut late) = (Instant::now(), 0);
    for job in jobs {
        if ticks.tick().await.elapsed() > every / 2 {
            late += 1;
        }
        // Writing to a String cannot fail.
        writeln!(times, "{} {:.3}", job.message_id, now_ms()).ok();
        let publisher = publisher.clone();
        // Not waited for: the next one goes out in time even if the broker is slow.
        tokio::spawn(async move { publisher.publish(vec![job]).await });
    }
    sleep(Duration::from_secs(1)).await;
    say(&format!("published within {:.1} s, {late} late", first.elapsed().as_secs_f64()))?;
    Ok(times)
}

/// How many messages wait in a queue.
struct Depth {
    channel: lapin::Channel,
    queue: String,
    _connection: Connection,
}

impl Depth {
    async fn open(url: &str, queue: String) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self { channel, queue, _connection: connection })
    }

    async fn now(&self) -> anyhow::Result<u32> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = ShortString::try_new(self.queue.as_str())?;
        let queue = self.channel.queue_declare(name, passive, FieldTable::default()).await?;
        Ok(queue.message_count())
    }
}
