//! Accounts, numbers and templates: applied from a file, listed, shown.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::cli::client::Method;
use anyhow::bail;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::{
    cli::{Common, client::Query, output, read},
    domain::{Category, lane::Lane, uncertain::UncertainOverrides},
    registry::{
        apply::{Applied, Became, secrets_key},
        file::RegistryFile,
        shown::{AccountInfo, NumberInfo, TemplateInfo},
    },
};

/// Which of the three.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Accounts,
    Numbers,
    Templates,
}

/// What can be done with them.
#[derive(Debug, clap::Subcommand)]
pub(super) enum RegistryCommand {
    /// Make the registry what a file says (JSON or TOML; it may hold all kinds). Applying twice changes nothing
    Apply {
        /// The file; secrets named as {env} or {file} are read here
        file: PathBuf,
    },
    /// All of them
    List,
    /// One of them
    Show {
        /// An account's name, a business number, a template's id or name
        name: String,
    },
}

pub(super) async fn run(common: &Common, kind: Kind, command: RegistryCommand) -> anyhow::Result<()> {
    match (command, kind) {
        (RegistryCommand::Apply { file }, _) => apply(common, &file).await,
        (RegistryCommand::List, Kind::Accounts) => accounts(common, None).await,
        (RegistryCommand::List, Kind::Numbers) => numbers(common, None).await,
        (RegistryCommand::List, Kind::Templates) => templates(common, None).await,
        (RegistryCommand::Show { name }, Kind::Accounts) => accounts(common, Some(name)).await,
        (RegistryCommand::Show { name }, Kind::Numbers) => numbers(common, Some(name)).await,
        (RegistryCommand::Show { name }, Kind::Templates) => templates(common, Some(name)).await,
    }
}

async fn apply(common: &Common, path: &Path) -> anyhow::Result<()> {
    let file = RegistryFile::read(path)?;
    let base = path.parent().unwrap_or_else(|| Path::new("."));
    let mut secrets = BTreeMap::new();
    for account in file.accounts.iter().filter(|account| !account.credentials.is_empty()) {
        let found = account.resolve_credentials(base).map_err(|errors| {
            let list: Vec<_> = errors.iter().map(|e| format!("\n  {e}")).collect();
            anyhow::anyhow!("account {}: its secrets could not be read:{}", account.name, list.concat())
        })?;
        let plain: BTreeMap<_, _> =
            found.0.into_iter().map(|(name, secret)| (name, secret.expose_secret().to_owned())).collect();
        secrets.insert(secrets_key(account), plain);
    }
    let body = json!({ "registry": file, "secrets": secrets });
    let answer = common.client()?.call(Method::PUT, "/v1/registry", &Query::new(), Some(&body)).await?;
    if common.json {
        return output::json(&answer);
    }
    let applied: Applied = read(&answer)?;
    for change in applied.changes.iter().filter(|change| change.became != Became::Unchanged) {
        output::line(&format!("{} {} {}", change.became, change.kind, change.name))?;
    }
    let counts = [Became::Created, Became::Updated, Became::Unchanged]
        .map(|became| format!("{became} {}", applied.count(became)));
    output::line(&counts.join(", "))
}

/// A list whole, or the one of it that is called so.
fn one_or_all<T>(
    list: Vec<T>,
    name: Option<&str>,
    is: impl Fn(&T, &str) -> bool,
    what: &str,
) -> anyhow::Result<Vec<T>> {
    let Some(name) = name else { return Ok(list) };
    let found: Vec<T> = list.into_iter().filter(|item| is(item, name)).collect();
    if found.is_empty() {
        bail!("there is no {what} `{name}`: `{what}s list` shows all");
    }
    Ok(found)
}

async fn list<T: serde::de::DeserializeOwned>(common: &Common, path: &str) -> anyhow::Result<(Value, Vec<T>)> {
    let value = common.client()?.get(path, &Query::new()).await?;
    let list = read(&value)?;
    Ok((value, list))
}

async fn accounts(common: &Common, name: Option<String>) -> anyhow::Result<()> {
    let (_, all) = list::<AccountInfo>(common, "/v1/accounts").await?;
    let found = one_or_all(all, name.as_deref(), |a, name| a.name == name, "account")?;
    if common.json {
        return output::json(&serde_json::to_value(&found)?);
    }
    if name.is_none() {
        let row = |a: &AccountInfo| {
            let usable = if a.usable { "" } else { "credentials cannot be opened: apply it again" };
            vec![
                a.name.clone(),
                a.channel.clone(),
                a.provider.clone(),
                a.waba_id.clone(),
                a.numbers.to_string(),
                a.templates.to_string(),
                usable.to_owned(),
            ]
        };
        return output::table(
            &["ACCOUNT", "CHANNEL", "PROVIDER", "WABA", "NUMBERS", "TEMPLATES", ""],
            &found.iter().map(row).collect::<Vec<_>>(),
        );
    }
    for a in &found {
        output::fields(&[
            ("account", a.name.clone()),
            ("portfolio", output::maybe(a.portfolio.as_ref())),
            ("channel", a.channel.clone()),
            ("provider", a.provider.clone()),
            ("base url", output::maybe(a.base_url.as_ref())),
            ("api version", output::maybe(a.api_version.as_ref())),
            ("waba", a.waba_id.clone()),
            (
                "credentials",
                if a.usable {
                    a.credentials.join(", ")
                } else {
                    "cannot be opened: apply it again, or set the right secrets.key".to_owned()
                },
            ),
            ("callback path", a.hook_path.clone()),
            ("uncertain", uncertain(a.uncertain)),
            ("tier", a.tier.map(|tier| format!("{tier} people in 24 h")).unwrap_or_default()),
            ("countries", a.countries.iter().cloned().collect::<Vec<_>>().join(", ")),
            ("rates", a.rates.as_ref().map(|rates| format!("in {}", rates.currency)).unwrap_or_default()),
            ("numbers", a.numbers.to_string()),
            ("templates", a.templates.to_string()),
        ])?;
    }
    Ok(())
}

/// The policies that are the account's own: `marketing resend, utility fail`.
fn uncertain(own: UncertainOverrides) -> String {
    let said = Category::ALL.iter().filter_map(|c| own.of(Lane::from(*c)).map(|policy| format!("{c} {policy}")));
    said.collect::<Vec<_>>().join(", ")
}

async fn numbers(common: &Common, name: Option<String>) -> anyhow::Result<()> {
    let (_, all) = list::<NumberInfo>(common, "/v1/numbers").await?;
    let found = one_or_all(all, name.as_deref(), |n, name| n.business_number == name, "number")?;
    if common.json {
        return output::json(&serde_json::to_value(&found)?);
    }
    let row = |n: &NumberInfo| {
        let per_s = |rate: Option<u32>, else_: &str| rate.map_or_else(|| else_.to_owned(), |rate| format!("{rate}/s"));
        vec![
            n.id.to_string(),
            n.business_number.clone(),
            n.account.clone(),
            n.provider_number_id.clone(),
            per_s(n.limit, "unlimited"),
            per_s(n.rate, ""),
            n.status.clone(),
        ]
    };
    output::table(
        &["ID", "NUMBER", "ACCOUNT", "PROVIDER'S ID", "LIMIT", "RATE", "STATUS"],
        &found.iter().map(row).collect::<Vec<_>>(),
    )
}

async fn templates(common: &Common, name: Option<String>) -> anyhow::Result<()> {
    let (_, all) = list::<TemplateInfo>(common, "/v1/templates").await?;
    let found = one_or_all(
        all,
        name.as_deref(),
        |t, name| t.name == name || t.id.to_string() == name || t.provider_template_id.as_deref() == Some(name),
        "template",
    )?;
    if common.json {
        return output::json(&serde_json::to_value(&found)?);
    }
    if name.is_none() {
        let row = |t: &TemplateInfo| {
            let slots: Vec<_> = t.slots.iter().map(|s| s.name.as_str()).collect();
            vec![
                t.id.to_string(),
                t.name.clone(),
                t.language.clone(),
                t.category.clone(),
                t.status.clone(),
                t.account.clone(),
                slots.join(" "),
            ]
        };
        return output::table(
            &["ID", "TEMPLATE", "LANGUAGE", "CATEGORY", "STATUS", "ACCOUNT", "SLOTS"],
            &found.iter().map(row).collect::<Vec<_>>(),
        );
    }
    for t in &found {
        output::line(&format!(
            "{} {} ({}, {}) of {}, id {}",
            t.name, t.language, t.category, t.status, t.account, t.id
        ))?;
        let row = |s: &crate::registry::shown::SlotInfo| {
            let required = if s.required { "yes" } else { "no" };
            vec![
                s.name.clone(),
                s.kind.clone(),
                s.max_chars.to_string(),
                required.to_owned(),
                output::maybe(s.example.as_ref()),
            ]
        };
        output::table(
            &["SLOT", "TYPE", "LONGEST", "REQUIRED", "EXAMPLE"],
            &t.slots.iter().map(row).collect::<Vec<_>>(),
        )?;
    }
    Ok(())
}
