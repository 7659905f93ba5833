//! Commands that work on the services themselves.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{self, Role},
    broker::{Broker, BrokerOptions, Topology},
    cli::{Common, client, output},
    settings::Settings,
    store::{
        Store, chain,
        registry::{Directory, Snapshot},
        vault::Vault,
    },
    upkeep::notify::Ways,
};

/// How long `check` waits for the broker.
const BROKER_WITHIN: Duration = Duration::from_secs(5);

/// What `serve` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// What this process does: all, or some of intake, dispatch, callbacks, http, campaigns, upkeep
    #[arg(long, value_delimiter = ',', default_value = "all", value_parser = role)]
    roles: Vec<Option<Role>>,
}

/// `all` is none in particular.
fn role(text: &str) -> Result<Option<Role>, crate::domain::UnknownName> {
    if text == "all" { Ok(None) } else { text.parse().map(Some) }
}

pub(super) async fn serve(common: &Common, args: ServeArgs) -> anyhow::Result<()> {
    let all = args.roles.contains(&None);
    let roles: Vec<Role> = if all { Role::ALL.to_vec() } else { args.roles.into_iter().flatten().collect() };
    Ok(app::serve(Arc::new(common.settings()?), &roles).await?)
}

fn store(settings: &Settings) -> anyhow::Result<Store> {
    Ok(Store::new(&settings.database.url, settings.database.connections)?)
}

pub(super) async fn migrate(common: &Common) -> anyhow::Result<()> {
    store(&common.settings()?)?.migrate().await?;
    output::line("the database is up to date")
}

pub(super) fn topology(common: &Common) -> anyhow::Result<()> {
    let description = Topology::with_prefix(&common.settings()?.broker.prefix).describe();
    if common.json {
        output::json(&serde_json::to_value(&description)?)
    } else {
        output::line(description.to_string().trim_end())
    }
}

/// One thing that was looked at.
struct Checked {
    what: String,
    problem: Option<String>,
}

fn checked<T>(list: &mut Vec<Checked>, what: impl Into<String>, result: anyhow::Result<T>) -> Option<T> {
    let (value, problem) = match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(chain(error.as_ref()))),
    };
    list.push(Checked { what: what.into(), problem });
    value
}

pub(super) async fn check(common: &Common) -> anyhow::Result<()> {
    let settings = common.settings()?;
    let mut list = Vec::new();
    let store = store(&settings)?;
    let reached = checked(&mut list, "database", store.connect("check").await.map_err(Into::into));
    let current = match reached {
        Some(_) => checked(&mut list, "schema", store.check_schema().await.map_err(Into::into)),
        None => None,
    };
    checked(&mut list, "broker", broker(&settings).await);
    checked(&mut list, "notify", Ways::new(&settings.notify).map_err(Into::into));
    let key = checked(&mut list, "secrets key", settings.secret_key().map_err(Into::into));
    if let (Some(()), Some(key)) = (current, key) {
        let directory = Directory::new(store, Vault::new(key));
        if checked(&mut list, "registry", directory.refresh().await.map_err(Into::into)).is_some() {
            providers(&mut list, &directory.current()).await;
        }
    }
    report(common, &list)
}

fn report(common: &Common, list: &[Checked]) -> anyhow::Result<()> {
    let bad = list.iter().filter(|c| c.problem.is_some()).count();
    if common.json {
        let all: Vec<_> = list
            .iter()
            .map(|c| serde_json::json!({"name": c.what, "ok": c.problem.is_none(), "detail": c.problem}))
            .collect();
        output::json(&serde_json::json!({"ok": bad == 0, "checks": all}))?;
    } else {
        for Checked { what, problem } in list {
            output::line(&problem.as_ref().map_or_else(|| format!("ok    {what}"), |p| format!("FAIL  {what}: {p}")))?;
        }
    }
    if bad > 0 {
        bail!("{bad} of {} checks failed", list.len());
    }
    Ok(())
}

async fn broker(settings: &Settings) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let broker = Broker::start(&BrokerOptions::from_settings(&settings.broker), stop.clone())?;
    let connected = async {
        while !broker.is_connected() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let result = tokio::time::timeout(BROKER_WITHIN, connected).await;
    stop.cancel();
    broker.closed().await;
    result.context("RabbitMQ cannot be reached, or its queues cannot be declared")
}

async fn providers(list: &mut Vec<Checked>, snapshot: &Snapshot) {
    for account in snapshot.accounts.values() {
        let what = format!("account {}", account.name);
        let reached = match &account.access {
            None => {
                Err(anyhow::anyhow!("its credentials cannot be opened: apply it again, or set the right secrets.key"))
            }
            Some(access) => client::reach(&access.base_url)
                .await
                .with_context(|| format!("the provider's host {} cannot be reached", access.base_url)),
        };
        checked(list, what, reached);
    }
}
