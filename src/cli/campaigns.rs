//! Campaigns: applied from a file, looked at, run, tested, stopped.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::{
    campaigns::{Change, Changed},
    cli::{
        Common,
        client::{Client, Method, Query},
        forecast, output, read,
    },
    domain::{campaign::CampaignState, schedule::Shift},
    http::{CampaignInfo, NextFiring},
    store::campaigns::occurrences::OccurrenceRow,
};

/// Firings that `show` lists.
const SHOWN: u16 = 10;

/// Campaigns.
#[derive(Debug, clap::Subcommand)]
pub(super) enum CampaignsCommand {
    /// Make a campaign what a file (JSON) says; shows what differs
    Apply {
        /// The document (campaign/v1)
        file: PathBuf,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// All of them, and when each fires next
    List {
        /// Archived ones too
        #[arg(long)]
        all: bool,
    },
    /// One of them, and its latest firings
    Show {
        /// Its key
        key: String,
    },
    /// The firings ahead, in its zone and in UTC, and what daylight saving does to each
    Next {
        /// Its key
        key: String,
        /// How many
        #[arg(long, default_value_t = 10)]
        count: u8,
    },
    /// How many its next firing would reach, and when it would start and be through
    Forecast {
        /// Its key
        key: String,
    },
    /// Fire it now
    Run {
        /// Its key
        key: String,
        /// Names the run: the same name again runs nothing
        #[arg(long)]
        name: Option<String>,
    },
    /// Send it to at most five numbers; counts for no campaign
    Test {
        /// Its key
        key: String,
        /// To whom
        #[arg(long, required = true, value_delimiter = ',', allow_hyphen_values = true)]
        to: Vec<String>,
        /// A value, as slot=text
        #[arg(long = "param", value_name = "SLOT=TEXT")]
        params: Vec<String>,
    },
    /// Stop it: it fires no more, and its batches wait
    Pause {
        /// Its key
        key: String,
    },
    /// Let it go on
    Resume {
        /// Its key
        key: String,
    },
    /// End it for good; what it has fired goes on
    Archive {
        /// Its key
        key: String,
    },
    /// End it for good, and give up what it has not sent yet
    Cancel {
        /// Its key
        key: String,
    },
}

pub(super) async fn run(common: &Common, command: CampaignsCommand) -> anyhow::Result<()> {
    let client = common.client()?;
    match command {
        CampaignsCommand::Apply { file, dry_run } => apply(common, &client, &file, dry_run).await,
        CampaignsCommand::List { all } => list(common, &client, all).await,
        CampaignsCommand::Show { key } => show(common, &client, &key).await,
        CampaignsCommand::Next { key, count } => next(common, &client, &key, count).await,
        CampaignsCommand::Forecast { key } => {
            let value = client.get(&path(&key, "/forecast")?, &Query::new()).await?;
            forecast::show(common, &value)
        }
        CampaignsCommand::Run { key, name } => {
            let fired = post(&client, &key, "run", Some(&json!({ "name": name }))).await?;
            told(common, &fired, || {
                let row: OccurrenceRow = read(&fired)?;
                output::line(&format!("{key}: {}, as job {}", row.state, row.job_id))
            })
        }
        CampaignsCommand::Test { key, to, params } => {
            let body = json!({ "to": to, "params": values(&params)? });
            let answer = post(&client, &key, "test", Some(&body)).await?;
            told(common, &answer, || {
                output::line(&format!("sent to {} as batch {}", answer["accepted"], text(&answer["batch_id"])))
            })
        }
        CampaignsCommand::Pause { key } => {
            let found = post(&client, &key, "pause", None).await?;
            told(common, &found, || {
                let (batches, calling) = (&found["batches"], &found["calling"]);
                output::line(&format!("{key} is paused: {batches} batches wait, {calling} messages were being called"))
            })
        }
        CampaignsCommand::Resume { key } => {
            let found = post(&client, &key, "resume", None).await?;
            told(common, &found, || output::line(&format!("{key} goes on, and {} batches with it", found["batches"])))
        }
        CampaignsCommand::Archive { key } => {
            post(&client, &key, "archive", None).await?;
            told(common, &json!({ "archived": key }), || output::line(&format!("{key} never fires again")))
        }
        CampaignsCommand::Cancel { key } => {
            let found = post(&client, &key, "cancel", None).await?;
            told(common, &found, || {
                let (batches, calling) = (&found["batches"], &found["calling"]);
                output::line(&format!(
                    "{key} never fires again: {batches} batches are given up, {calling} messages were being called"
                ))
            })
        }
    }
}

fn told(common: &Common, value: &Value, people: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if common.json { output::json(value) } else { people() }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A key is of few characters; whatever else was given is the server's to refuse.
fn path(key: &str, rest: &str) -> anyhow::Result<String> {
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if key.is_empty() || !key.chars().all(is_key) {
        bail!("`{key}` is no key of a campaign: a-z, 0-9, `.`, `_` and `-`");
    }
    Ok(format!("/v1/campaigns/{key}{rest}"))
}

async fn post(client: &Client, key: &str, what: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    client.call(Method::POST, &path(key, &format!("/{what}"))?, &Query::new(), body).await
}

fn values(params: &[String]) -> anyhow::Result<Value> {
    let pair = |param: &String| -> anyhow::Result<(String, Value)> {
        let (slot, value) = param.split_once('=').with_context(|| format!("`{param}` is not slot=text"))?;
        Ok((slot.to_owned(), json!(value)))
    };
    Ok(Value::Object(params.iter().map(pair).collect::<Result<_, _>>()?))
}

async fn apply(common: &Common, client: &Client, file: &std::path::Path, dry_run: bool) -> anyhow::Result<()> {
    let read_file = std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
    let document: Value =
        serde_json::from_str(&read_file).with_context(|| format!("{} is not JSON", file.display()))?;
    let key = document["key"].as_str().with_context(|| format!("{} has no `key`", file.display()))?;
    let query = vec![("dry_run", dry_run.to_string())];
    let answer = client.call(Method::PUT, &path(key, "")?, &query, Some(&document)).await?;
    told(common, &answer, || {
        let changed: Changed = read(&answer)?;
        let rows: Vec<Vec<String>> =
            changed.differences.iter().map(|d| vec![d.field.clone(), short(&d.before), short(&d.after)]).collect();
        if changed.change == Change::Changed {
            output::table(&["FIELD", "BEFORE", "AFTER"], &rows)?;
        }
        let would = if dry_run && changed.change != Change::Unchanged { " (not done: --dry-run)" } else { "" };
        let next = changed.next_fire_at.map(|at| format!("; fires next {}", output::time(at))).unwrap_or_default();
        output::line(&format!("{key}: {}{would}{next}", changed.change))
    })
}

/// A value on one line of a table.
fn short(value: &Value) -> String {
    const WIDTH: usize = 60;
    let text = if value.is_null() { String::new() } else { value.to_string() };
    if text.chars().count() <= WIDTH { text } else { text.chars().take(WIDTH).chain(['…']).collect() }
}

/// The schedule in words.
fn schedule(document: &Value) -> String {
    let schedule = &document["schedule"];
    let zone = text(&document["time_zone"]);
    match (&schedule["cron"], &schedule["once"]) {
        (Value::String(cron), _) => format!("{cron} ({zone})"),
        (_, Value::String(once)) => format!("once {once}"),
        _ => "on demand".to_owned(),
    }
}

/// The canary of its own, in words.
fn canary(canary: &Value) -> String {
    let faults = canary["fault_percent"].as_i64().map(|percent| format!(", {percent} % of faults")).unwrap_or_default();
    match canary {
        Value::Bool(_) => "none: all go at once".to_owned(),
        Value::Object(_) => format!("the first {}, within {}{faults}", canary["messages"], text(&canary["wait"])),
        _ => String::new(),
    }
}

async fn list(common: &Common, client: &Client, all: bool) -> anyhow::Result<()> {
    let value = client.get("/v1/campaigns", &vec![("all", all.to_string())]).await?;
    told(common, &value, || {
        let campaigns: Vec<CampaignInfo> = read(&value)?;
        let row = |c: &CampaignInfo| {
            let next = c.next_fire_at.filter(|_| c.state == CampaignState::Active);
            vec![
                c.key.clone(),
                c.state.to_string(),
                schedule(&c.document),
                next.map(output::time).unwrap_or_default(),
                text(&c.document["template"]["name"]).to_owned(),
                text(&c.document["business_number"]).to_owned(),
            ]
        };
        let heads = ["CAMPAIGN", "STATE", "SCHEDULE", "NEXT", "TEMPLATE", "NUMBER"];
        output::table(&heads, &campaigns.iter().map(row).collect::<Vec<_>>())
    })
}

async fn show(common: &Common, client: &Client, key: &str) -> anyhow::Result<()> {
    let value = client.get(&path(key, "")?, &Query::new()).await?;
    let fired = client.get(&path(key, "/occurrences")?, &vec![("limit", SHOWN.to_string())]).await?;
    if common.json {
        return output::json(&json!({ "campaign": value, "occurrences": fired }));
    }
    let campaign: CampaignInfo = read(&value)?;
    let document = &campaign.document;
    output::fields(&[
        ("campaign", campaign.key),
        ("state", campaign.state.to_string()),
        ("changed", campaign.changed_by.map(|by| format!("by {by}")).unwrap_or_default()),
        ("schedule", schedule(document)),
        ("next", campaign.next_fire_at.map(output::time).unwrap_or_default()),
        ("template", format!("{} {}", text(&document["template"]["name"]), text(&document["template"]["language"]))),
        ("number", text(&document["business_number"]).to_owned()),
        ("producer", campaign.producer),
        ("overlap", text(&document["overlap"]).to_owned()),
        ("late within", text(&document["late_within"]).to_owned()),
        ("expires after", text(&document["expires_after"]).to_owned()),
        ("windows", document["windows"].as_array().map(|w| json!(w).to_string()).unwrap_or_default()),
        ("window zone", text(&document["window_zone"]).to_owned()),
        ("canary", canary(&document["canary"])),
        ("applied", format!("by {} {}", campaign.applied_by, output::time(campaign.applied_at))),
    ])?;
    let rows: Vec<OccurrenceRow> = read(&fired)?;
    let row = |o: &OccurrenceRow| {
        let refused = o.refused.as_ref().and_then(|errors| errors.get(0)).map(output::problem);
        vec![
            output::time(o.fire_at),
            o.state.clone(),
            o.reason.clone().unwrap_or_default(),
            o.run.clone(),
            o.started_by.clone(),
            o.batch_id.map(|id| id.to_string()).unwrap_or_default(),
            refused.map(|why| format!("refused: {why}")).unwrap_or_default(),
        ]
    };
    output::table(&["FIRED", "STATE", "WHY", "RUN", "BY", "BATCH", ""], &rows.iter().map(row).collect::<Vec<_>>())
}

async fn next(common: &Common, client: &Client, key: &str, count: u8) -> anyhow::Result<()> {
    let value = client.get(&path(key, "/next")?, &vec![("count", count.to_string())]).await?;
    told(common, &value, || {
        let firings: Vec<NextFiring> = read(&value)?;
        let row = |f: &NextFiring| {
            let note = match f.daylight_saving {
                Shift::None => String::new(),
                Shift::Gap => format!("{} does not exist that day: the first time after it", f.wall),
                Shift::Fold => format!("{} comes twice that day: the first of the two", f.wall),
            };
            vec![f.local.clone(), output::time(f.utc), note]
        };
        output::table(&["LOCAL", "UTC", "DAYLIGHT SAVING"], &firings.iter().map(row).collect::<Vec<_>>())
    })
}
