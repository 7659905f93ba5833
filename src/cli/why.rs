//! Why a message or a batch waits, as a list of gates.

use anyhow::bail;
use uuid::Uuid;

use crate::{
    checklist::{WhyBatch, WhyMessage},
    cli::{Common, client::Query, output, read},
    domain::{
        ids::MessageKey,
        why::{Checked, Step, Verdict, Why},
    },
};

/// What `why` takes.
#[derive(Debug, clap::Args)]
pub(super) struct WhyArgs {
    /// A batch, or a message (`<batch id>.<seq>`)
    id: String,
}

pub(super) async fn run(common: &Common, args: WhyArgs) -> anyhow::Result<()> {
    let client = common.client()?;
    let id = args.id.trim();
    if id.parse::<MessageKey>().is_ok() {
        let value = client.get(&format!("/v1/messages/{id}/why"), &Query::new()).await?;
        if common.json {
            return output::json(&value);
        }
        let told: WhyMessage = read(&value)?;
        output::line(&format!("{} is {}: {}", told.message, told.state, told.why.summary))?;
        return show(&told.why);
    }
    if id.parse::<Uuid>().is_err() {
        bail!("`{id}` is neither a batch (`batches list`) nor a message (`messages list`)");
    }
    let value = client.get(&format!("/v1/batches/{id}/why"), &Query::new()).await?;
    if common.json {
        return output::json(&value);
    }
    let told: WhyBatch = read(&value)?;
    let (left, next) = (told.left, told.message.as_deref());
    output::line(&format!(
        "{}: {} ready, {} held, {} being called, {} uncertain",
        told.batch, left.ready, left.parked, left.calling, left.uncertain
    ))?;
    output::line(&format!("{}{}", next.map(|id| format!("next is {id}: ")).unwrap_or_default(), told.why.summary))?;
    show(&told.why)
}

fn show(why: &Why) -> anyhow::Result<()> {
    let time = |at: Option<_>| at.map(output::time).unwrap_or_default();
    output::fields(&[("since", time(why.since)), ("until", time(why.until))])?;
    for step in &why.next {
        output::line(&format!("  → {}", told(step)))?;
    }
    let row = |gate: &Checked| {
        let mark = match gate.verdict {
            Verdict::Open => "open",
            Verdict::Stops => "STOPS",
            Verdict::WillStop => "stops then",
        };
        vec![gate.gate.to_string(), mark.to_owned(), gate.detail.clone(), time(gate.until)]
    };
    if why.gates.len() > 1 {
        output::table(&["GATE", "", "", "UNTIL"], &why.gates.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn told(step: &Step) -> String {
    match &step.command {
        Some(command) => format!("{}: {command}", step.what),
        None => step.what.clone(),
    }
}
