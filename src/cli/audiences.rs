//! Groups of recipients: made, filled, looked at, emptied, exported.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};

use crate::{
    checklist::Page,
    cli::{
        Common, PageArgs,
        client::{Client, Method, Query},
        download, output, read,
    },
    domain::Channel,
    http::{AudienceRequest, Removed},
    intake::members::MembersReport,
    store::audiences::AudienceRow,
};

/// Stands for standard input or output.
const STANDARD: &str = "-";

/// Audience groups.
#[derive(Debug, clap::Subcommand)]
pub(super) enum AudiencesCommand {
    /// Make a group without members
    Create(CreateArgs),
    /// All of them, by name
    List(PageArgs),
    /// One of them
    Show {
        /// Its name
        name: String,
    },
    /// Add members; one that is in it is replaced
    Add(AddArgs),
    /// Add the members of a workbook (.xlsx) or a CSV file: `to`, `ref`, `time_zone`, and a column for each value of a template
    Fill {
        /// Its name
        name: String,
        /// The file
        file: PathBuf,
        #[command(flatten)]
        country: CountryArgs,
    },
    /// Add phone numbers as people paste them: one a line, or parted by commas or spaces
    Numbers {
        /// Its name
        name: String,
        /// The file, or - for standard input
        #[arg(default_value = STANDARD)]
        file: PathBuf,
        #[command(flatten)]
        country: CountryArgs,
    },
    /// Remove a member
    Remove {
        /// Its name
        name: String,
        /// The member's address
        #[arg(allow_hyphen_values = true)]
        to: String,
    },
    /// Remove all members; jobs that were taken keep theirs
    Empty {
        /// Its name
        name: String,
    },
    /// Delete it with its members; refused while a campaign names it
    Delete {
        /// Its name
        name: String,
    },
    /// Write it as CSV; addresses are masked without the scope pii
    Export {
        /// Its name
        name: String,
        /// The file, or - for standard output
        #[arg(default_value = STANDARD)]
        file: PathBuf,
    },
}

/// A group to be made.
#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Its name: a-z, 0-9, `.`, `_` and `-`
    name: String,
    /// Which addresses it has: whatsapp, viber, messenger, instagram or email
    #[arg(long, default_value = "whatsapp")]
    channel: Channel,
    /// The zone of members that have none of their own, for example Asia/Tokyo
    #[arg(long)]
    time_zone: Option<String>,
    /// Country of numbers that are not international, for example JP
    #[arg(long)]
    country: Option<String>,
}

/// Members to be added.
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The group's name
    name: String,
    /// Whom
    #[arg(long, required_unless_present = "file", value_delimiter = ',', allow_hyphen_values = true)]
    to: Vec<String>,
    /// Your own name for them
    #[arg(long = "ref", conflicts_with = "file")]
    reference: Option<String>,
    /// Their zone
    #[arg(long, conflicts_with = "file")]
    time_zone: Option<String>,
    /// A value, as slot=text
    #[arg(long = "param", value_name = "SLOT=TEXT", conflicts_with = "file")]
    params: Vec<String>,
    /// A JSON list of members, as the API takes them
    #[arg(long, conflicts_with = "to")]
    file: Option<PathBuf>,
    #[command(flatten)]
    country: CountryArgs,
}

/// How addresses are read.
#[derive(Debug, clap::Args)]
pub(super) struct CountryArgs {
    /// Country of numbers that are not international, for example JP; the group's own unless given
    #[arg(long)]
    country: Option<String>,
}

impl CountryArgs {
    fn query(self) -> Query {
        self.country.map(|country| ("country", country)).into_iter().collect()
    }
}

pub(super) async fn run(common: &Common, command: AudiencesCommand) -> anyhow::Result<()> {
    let client = common.client()?;
    match command {
        AudiencesCommand::Create(args) => create(common, &client, args).await,
        AudiencesCommand::List(page) => list(common, &client, &page).await,
        AudiencesCommand::Show { name } => {
            let value = client.get(&path(&name, "")?, &Query::new()).await?;
            told(common, &value, || show(&read(&value)?))
        }
        AudiencesCommand::Add(args) => add(common, &client, args).await,
        AudiencesCommand::Fill { name, file, country } => {
            upload(common, &client, &path(&name, "/fill")?, &file, country).await
        }
        AudiencesCommand::Numbers { name, file, country } => {
            upload(common, &client, &path(&name, "/numbers")?, &file, country).await
        }
        AudiencesCommand::Remove { name, to } => {
            let address = path(&name, &format!("/members/{}", escaped(&to)))?;
            client.call(Method::DELETE, &address, &Query::new(), None).await?;
            told(common, &json!({ "removed": 1 }), || output::line(&format!("no member of {name} any more")))
        }
        AudiencesCommand::Empty { name } => {
            let value = client.call(Method::DELETE, &path(&name, "/members")?, &Query::new(), None).await?;
            told(common, &value, || {
                let Removed { removed } = read(&value)?;
                output::line(&format!("{name} is empty: {removed} members were removed"))
            })
        }
        AudiencesCommand::Delete { name } => {
            client.call(Method::DELETE, &path(&name, "")?, &Query::new(), None).await?;
            told(common, &json!({ "deleted": name }), || output::line(&format!("{name} is deleted")))
        }
        AudiencesCommand::Export { name, file } => export(common, &client, &name, &file).await,
    }
}

fn told(common: &Common, value: &Value, people: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if common.json { output::json(value) } else { people() }
}

/// A name is of few characters; whatever else was given is the server's to refuse.
fn path(name: &str, rest: &str) -> anyhow::Result<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || !name.chars().all(is_name) {
        bail!("`{name}` is no name of an audience group: a-z, 0-9, `.`, `_` and `-`");
    }
    Ok(format!("/v1/audiences/{name}{rest}"))
}

/// A text as a part of a path.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

async fn create(common: &Common, client: &Client, args: CreateArgs) -> anyhow::Result<()> {
    let CreateArgs { name, channel, time_zone, country } = args;
    let request = json!(AudienceRequest { name, channel, time_zone, country });
    let value = client.call(Method::POST, "/v1/audiences", &Query::new(), Some(&request)).await?;
    told(common, &value, || {
        let made: AudienceRow = read(&value)?;
        output::line(&format!("{} is there: fill it, and name it as `audience.group` of a job", made.name))
    })
}

async fn list(common: &Common, client: &Client, page: &PageArgs) -> anyhow::Result<()> {
    let value = client.get("/v1/audiences", &page.query()).await?;
    told(common, &value, || {
        let page: Page<AudienceRow> = read(&value)?;
        let row = |a: &AudienceRow| {
            let first = [a.name.clone(), a.channel.clone(), a.members.to_string()];
            let maybe = [output::maybe(a.time_zone.as_ref()), output::maybe(a.country.as_ref())];
            first.into_iter().chain(maybe).chain([output::time(a.changed_at)]).collect::<Vec<_>>()
        };
        let heads = ["AUDIENCE", "CHANNEL", "MEMBERS", "TIME ZONE", "COUNTRY", "CHANGED"];
        output::table(&heads, &page.items.iter().map(row).collect::<Vec<_>>())?;
        output::more(page.next.as_deref())
    })
}

fn show(audience: &AudienceRow) -> anyhow::Result<()> {
    output::fields(&[
        ("audience", audience.name.clone()),
        ("channel", audience.channel.clone()),
        ("members", audience.members.to_string()),
        ("time zone", output::maybe(audience.time_zone.as_ref())),
        ("country", output::maybe(audience.country.as_ref())),
        ("created", output::time(audience.created_at)),
        ("changed", output::time(audience.changed_at)),
    ])
}

async fn add(common: &Common, client: &Client, args: AddArgs) -> anyhow::Result<()> {
    let AddArgs { name, to, reference, time_zone, params, file, country } = args;
    let members = if let Some(file) = file {
        let text = std::fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?
    } else {
        let pair = |param: &String| -> anyhow::Result<(String, Value)> {
            let (slot, value) = param.split_once('=').with_context(|| format!("`{param}` is not slot=text"))?;
            Ok((slot.to_owned(), json!(value)))
        };
        let params: Map<String, Value> = params.iter().map(pair).collect::<Result<_, _>>()?;
        let member = |to: &String| json!({ "to": to, "ref": reference, "time_zone": time_zone, "params": params });
        Value::Array(to.iter().map(member).collect())
    };
    let (address, body) = (path(&name, "/members")?, json!({ "members": members }));
    let value = client.call(Method::POST, &address, &country.query(), Some(&body)).await?;
    report(common, &value)
}

/// Sends a file, with a bar on a terminal.
async fn upload(common: &Common, client: &Client, path: &str, file: &Path, country: CountryArgs) -> anyhow::Result<()> {
    let file = if file == Path::new(STANDARD) { Path::new("/dev/stdin") } else { file };
    // Draws nothing when standard error is no terminal.
    let bar = ProgressBar::new(tokio::fs::metadata(file).await.map_or(0, |m| m.len()));
    let counted = bar.clone();
    let value = client.upload(path, &country.query(), file, move |bytes| counted.inc(bytes)).await;
    bar.finish_and_clear();
    report(common, &value?)
}

/// Says what became of members. That none was taken is a failure.
fn report(common: &Common, value: &Value) -> anyhow::Result<()> {
    let report: MembersReport = read(value)?;
    told(common, value, || {
        let MembersReport { rows, good, bad, added, replaced, unchanged, .. } = report;
        let taken = format!("{added} added, {replaced} replaced, {unchanged} unchanged");
        output::line(&format!("{rows} rows = {good} good ({taken}) + {bad} bad"))?;
        if report.changed > 0 {
            output::line(&format!(
                "{} addresses were numbers, not text, and are recovered: see the export",
                report.changed
            ))?;
        }
        for bad in &report.rejections {
            output::line(&format!("    row {}, {}: {} ({})", bad.row, bad.field, bad.reason, bad.code))?;
        }
        Ok(())
    })?;
    if report.good == 0 && report.bad > 0 {
        bail!("none of the members was taken");
    }
    Ok(())
}

async fn export(common: &Common, client: &Client, name: &str, file: &Path) -> anyhow::Result<()> {
    let address = path(name, "/export")?;
    if file == Path::new(STANDARD) {
        if common.json {
            bail!("an export is CSV: with --json, name a file to write it to");
        }
        return download::to_output(client, &address, &Query::new()).await;
    }
    let bytes = download::to_file(client, &address, &Query::new(), file).await?;
    told(common, &json!({ "file": file, "bytes": bytes }), || {
        output::line(&format!("{name}: {bytes} bytes in {}", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_part_of_a_path() {
        assert_eq!(escaped("+81/90 a@b"), "%2B81%2F90%20a%40b");
        assert!(path("../x", "").is_err() && path("", "").is_err());
    }
}
