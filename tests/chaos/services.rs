//! Postgres and RabbitMQ, controlled by `deploy/services.sh` and `deploy/cluster.sh`.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use tokio::process::Command;

use crate::children::usual_priority;

/// What this run may do to the servers.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    checkout: PathBuf,
    /// Postgres is a private server of this checkout.
    pub(crate) owns_postgres: bool,
    /// RabbitMQ is.
    pub(crate) owns_rabbitmq: bool,
    /// The broker is a cluster of `deploy/cluster.sh`.
    pub(crate) is_cluster: bool,
}

impl Services {
    pub(crate) async fn find(is_cluster: bool) -> Self {
        let checkout = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut found = Self { checkout, owns_postgres: false, owns_rabbitmq: false, is_cluster };
        found.owns_postgres = found.services(&["pid", "postgres"]).await.is_ok();
        found.owns_rabbitmq = is_cluster || found.services(&["pid", "rabbitmq"]).await.is_ok();
        found
    }

    async fn services(&self, arguments: &[&str]) -> anyhow::Result<()> {
        self.script("services.sh", arguments).await
    }

    async fn script(&self, script: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let path = self.checkout.join("deploy").join(script).display().to_string();
        let words: Vec<&str> = usual_priority().iter().copied().chain([path.as_str()]).collect();
        let mut command = Command::new(words[0]);
        let running =
            command.args(&words[1..]).args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_mins(3), running).await;
        let output = output.with_context(|| format!("{script} {arguments:?} does not end"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{script} {arguments:?}: {}", said.trim());
        Ok(())
    }

    /// Stops Postgres without a checkpoint and starts it again.
    pub(crate) async fn restart_postgres(&self) -> anyhow::Result<()> {
        self.services(&["restart", "postgres", "--immediate"]).await
    }

    /// Stops the broker (with kill -9 or in order), waits, and starts it again.
    pub(crate) async fn restart_rabbitmq(&self, kill: bool, down: Duration) -> anyhow::Result<()> {
        let stop: &[&str] = if kill { &["stop", "rabbitmq", "--kill"] } else { &["stop", "rabbitmq"] };
        self.services(stop).await?;
        tokio::time::sleep(down).await;
        self.services(&["start", "rabbitmq"]).await
    }

    /// kill -9 of one node of the cluster, and its start some time later.
    pub(crate) async fn bounce_node(&self, node: usize, down: Duration) -> anyhow::Result<()> {
        let node = node.to_string();
        self.script("cluster.sh", &["kill", &node]).await?;
        tokio::time::sleep(down).await;
        self.script("cluster.sh", &["start", &node]).await
    }

    /// Everything is up again.
    pub(crate) async fn heal(&self) -> anyhow::Result<()> {
        if self.owns_postgres {
            self.services(&["start", "postgres"]).await?;
        }
        if self.is_cluster {
            self.script("cluster.sh", &["up"]).await
        } else if self.owns_rabbitmq {
            self.services(&["start", "rabbitmq"]).await
        } else {
            Ok(())
        }
    }
}

/// Host and port of a URL, and the URL with another address in their place.
pub(crate) fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let parsed = reqwest::Url::parse(url).context("a service's URL")?;
    let host = parsed.host_str().context("a service's URL has no host")?;
    let port = parsed.port().unwrap_or(if url.starts_with("amqp") { 5672 } else { 5432 });
    (host, port).to_socket_addrs()?.next().context("a service's host has no address")
}

/// The URL with another address.
pub(crate) fn through(url: &str, address: SocketAddr) -> anyhow::Result<String> {
    let mut parsed = reqwest::Url::parse(url)?;
    let set = parsed.set_host(Some(&address.ip().to_string())).is_ok() && parsed.set_port(Some(address.port())).is_ok();
    anyhow::ensure!(set, "a service's URL cannot be sent through a relay");
    Ok(parsed.to_string())
}
