//! What the other end saw, and when.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{now_ms, say};

/// Bounds every wait.
const PATIENCE: Duration = Duration::from_secs(280);

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// Host and port of nginx, which counts its requests at `/status`
    #[arg(long)]
    host: String,
    /// How many requests are to come
    #[arg(long)]
    n: u64,
}

impl Watch {
    /// Says `ready`, `first TIME` and `last TIME`: nginx's own counter less these looks, so that neither the product nor
    /// the database is asked.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut stub = TcpStream::connect(&self.host).await.context("could not connect to the stub")?;
        let (mut looks, deadline) = (1, Instant::now() + PATIENCE);
        let base = requests(&mut stub, &self.host).await?;
        say("ready")?;
        let mut seen = 0;
        while seen < self.n {
            if Instant::now() > deadline {
                bail!("the stub got {seen} of {} requests", self.n);
            }
            sleep(Duration::from_millis(if seen > 0 && seen < self.n * 97 / 100 { 50 } else { 10 })).await;
            let before = seen;
            seen = requests(&mut stub, &self.host).await? - base - looks;
            looks += 1;
            if before == 0 && seen > 0 {
                say(&format!("first {:.3}", now_ms()))?;
            }
        }
        say(&format!("last {:.3}", now_ms()))
    }
}

async fn requests(stub: &mut TcpStream, host: &str) -> anyhow::Result<u64> {
    let answer = ask(stub, host, "/status").await?;
    // Three numbers: accepted, handled, requests.
    let line = answer.lines().find(|line| line.starts_with(' ')).context("the stub shows no status")?;
    Ok(line.split_whitespace().nth(2).context("no number of requests")?.parse()?)
}

async fn ask(stream: &mut TcpStream, host: &str, path: &str) -> anyhow::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut buffer = vec![0; 4096];
    let length = stream.read(&mut buffer).await?;
    buffer.truncate(length);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

#[derive(Debug, clap::Args)]
pub(crate) struct Clock {
    /// Host and port of the simulator
    #[arg(long)]
    host: String,
}

impl Clock {
    /// What to add to a time of the simulator's ledger; of twenty answers the quickest is trusted.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(&self.host).await.context("could not connect to the simulator")?;
        stream.set_nodelay(true)?;
        let mut best = (f64::MAX, 0.0);
        for _ in 0..20 {
            let asked = now_ms();
            let answer = ask(&mut stream, &self.host, "/_sim/clock").await?;
            let took = now_ms() - asked;
            let clock: f64 = answer.lines().last().unwrap_or_default().trim().parse().context("no clock")?;
            if took < best.0 {
                best = (took, asked + took / 2.0 - clock);
            }
        }
        say(&format!("{:.3}", best.1))
    }
}
