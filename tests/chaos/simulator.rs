//! The simulator as a process: its faults, and its ledger, which is the judge.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use campaign_dispatch::simulator::{CallbackCounts, LedgerReport, MessageLine};
use serde_json::{Value, json};

use crate::children::Process;

/// A running simulator.
#[derive(Debug)]
pub(crate) struct Simulator {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    client: reqwest::Client,
    /// Stalls of the relays that it was told.
    pub(crate) relay_stalls: AtomicU64,
}

impl Simulator {
    pub(crate) async fn start(process: Process, address: SocketAddr) -> anyhow::Result<Self> {
        process.start().await?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(1)).build()?;
        let simulator = Self { process, address, client, relay_stalls: AtomicU64::new(0) };
        for _ in 0..200 {
            if simulator.client.get(simulator.url("healthz")).send().await.is_ok() {
                return Ok(simulator);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the simulator does not answer")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/_sim/{path}", self.address)
    }

    async fn put(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        self.client.put(self.url(path)).json(body).send().await?.error_for_status()?;
        Ok(())
    }

    pub(crate) async fn set_webhook(&self, waba: &str, url: &str) -> anyhow::Result<()> {
        self.put("webhooks", &json!({ waba: url })).await
    }

    /// Withholds callbacks that are due, or lets them go.
    pub(crate) async fn withhold(&self, withheld: bool) -> anyhow::Result<()> {
        self.put("settings", &json!({ "withhold_callbacks": withheld })).await
    }

    /// Adds a fault, `{"match": …, "do": …}`, and returns its id.
    pub(crate) async fn add_fault(&self, fault: &Value) -> anyhow::Result<u64> {
        let answer = self.client.post(self.url("faults")).json(fault).send().await?.error_for_status()?;
        answer.json::<Value>().await?["id"].as_u64().context("a fault has an id")
    }

    pub(crate) async fn remove_fault(&self, id: u64) -> anyhow::Result<()> {
        self.client.delete(self.url(&format!("faults/{id}"))).send().await?.error_for_status()?;
        Ok(())
    }

    pub(crate) async fn clear_faults(&self) -> anyhow::Result<()> {
        self.client.delete(self.url("faults")).send().await?.error_for_status()?;
        Ok(())
    }

    pub(crate) async fn ledger(&self) -> anyhow::Result<LedgerReport> {
        Ok(self.client.get(self.url("ledger")).send().await?.error_for_status()?.json().await?)
    }

    pub(crate) async fn callbacks(&self) -> anyhow::Result<CallbackCounts> {
        let all: Value = self.client.get(self.url("callbacks")).send().await?.error_for_status()?.json().await?;
        Ok(serde_json::from_value(all["all"].clone())?)
    }

    /// Every accepted call, in the order of acceptance.
    pub(crate) async fn accepted(&self) -> anyhow::Result<Vec<MessageLine>> {
        let text = self.client.get(self.url("ledger/messages")).send().await?.error_for_status()?.text().await?;
        text.lines().map(|line| serde_json::from_str(line).context("a line of the ledger")).collect()
    }

    /// When calls of a number arrived, in milliseconds since the simulator's start.
    pub(crate) async fn arrivals(&self, number: &str) -> anyhow::Result<Vec<f64>> {
        let url = self.url(&format!("ledger/arrivals?number={number}"));
        let text = self.client.get(url).send().await?.error_for_status()?.text().await?;
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).ok()?["at_ms"].as_f64());
        lines.collect::<Option<Vec<f64>>>().context("a line of the arrivals")
    }

    /// Says that the network before it stood still.
    pub(crate) async fn stalled(&self, ms: u64) {
        self.relay_stalls.fetch_add(1, Ordering::Relaxed);
        // Told again by the next stall if this one is lost: a missing one only makes the judge stricter.
        self.client.post(self.url("stalls")).json(&json!({ "ms": ms })).send().await.ok();
    }
}
