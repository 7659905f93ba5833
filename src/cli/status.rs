//! `status`: how it is, on one screen.

use crate::{
    cli::{Common, client::Query, output, read},
    domain::alarm::Alarm,
    http::Status,
    store::{holds_list::HoldRow, traffic::NumberRate},
};

/// Something is missing or an alarm stands: the process ends with the exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("somebody must look")]
pub struct MustLook;

pub(super) async fn run(common: &Common) -> anyhow::Result<()> {
    let value = common.client()?.get("/v1/status", &Query::new()).await?;
    let status: Status = read(&value)?;
    if common.json {
        output::json(&value)?;
    } else {
        show(&status)?;
    }
    if status.healthy { Ok(()) } else { Err(MustLook.into()) }
}

fn show(status: &Status) -> anyhow::Result<()> {
    output::line(if status.healthy { "healthy" } else { "somebody must look" })?;
    for check in &status.checks {
        let word = if check.ok { "ok" } else { "NOT OK" };
        output::line(format!("  {}: {word} {}", check.name, check.detail).trim_end())?;
    }
    let workers = status.workers;
    output::line(&format!(
        "  {} of {} numbers are sent for by {} processes",
        workers.served, workers.numbers, workers.processes
    ))?;
    section("ALARMS", &["KIND", "SCOPE", "COUNT", "SINCE", "WHY", "NEXT"], status.alarms.iter().map(alarm))?;
    section("HOLDS", &["HOLD", "SCOPE", "CAUSE", "SINCE", "ENDED BY", "PARKED"], status.holds.iter().map(hold))?;
    section(
        "RATES",
        &["NUMBER", "SENT/S", "LIMIT/S", "SLOWED TO", "CALLBACKS/S", "WORKER"],
        status.rates.iter().map(rate),
    )?;
    let queues = status.queues.iter().map(|q| vec![q.name.clone(), q.messages.to_string(), q.consumers.to_string()]);
    section("QUEUES", &["QUEUE", "MESSAGES", "CONSUMERS"], queues)
}

/// A table under its name; `none` where there is nothing.
fn section(name: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return output::line(&format!("\n{name}: none"));
    }
    output::line(&format!("\n{name}"))?;
    output::table(heads, &rows)
}

fn alarm(a: &Alarm) -> Vec<String> {
    vec![a.kind.to_string(), a.place(), a.count.to_string(), output::time(a.since), a.detail.clone(), a.next.clone()]
}

fn hold(h: &HoldRow) -> Vec<String> {
    let (id, parked) = (h.id.to_string(), h.parked.to_string());
    vec![id, h.scope.clone(), h.cause.clone(), output::time(h.since), h.resume.clone(), parked]
}

fn rate(r: &NumberRate) -> Vec<String> {
    vec![
        r.business_number.clone(),
        format!("{:.1}", r.accepted_per_s),
        r.limit_per_s.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string()),
        output::maybe(r.slowed_to_per_s.as_ref()),
        format!("{:.1}", r.callbacks_per_s),
        if r.has_worker { "yes" } else { "none" }.to_owned(),
    ]
}
