//! The contracts as files, made from the types that read and write them. Within v1 fields are only added.

use schemars::{JsonSchema, generate::SchemaSettings};

use crate::{
    campaigns::CampaignDocument,
    domain::alarm::Alarm,
    http::openapi,
    intake::job::{CancelJob, JobAnswer, SendJob},
    registry::file::RegistryFile,
};

/// The views, as the migration that makes them has it.
const CHECKLIST: &str = include_str!("../migrations/0004_checklist.sql");
const PROBES: &str = include_str!("../migrations/0006_engine.sql");
const WINDOWS: &str = include_str!("../migrations/0015_windows.sql");
const RECEIVED: &str = include_str!("../migrations/0017_suppressions.sql");
const OPERATORS: &str = include_str!("../migrations/0018_operators.sql");

/// An event on `dispatch.events`, by the routing key `<type>.<producer>`. Its id is also the AMQP `message_id`: the same
/// event may come twice.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "only its schema is used; the outbox writes events as JSON")]
struct Event {
    /// The same when it comes again.
    id: uuid::Uuid,
    /// `job.accepted.v1` or `job.rejected.v1`; more will be added.
    r#type: String,
    /// When it happened.
    time: chrono::DateTime<chrono::Utc>,
    /// Whose it is.
    tenant: String,
    /// Whose job it is about; `unknown` when that could not be read.
    producer: String,
    /// Of a job: the answer.
    data: JobAnswer,
}

/// An alarm on `dispatch.events`: `alarm.raised.v1` when it begins, `alarm.cleared.v1` when it is over, by that routing key
/// alone. Its id is also the AMQP `message_id`: the same event may come twice.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "only its schema is used; the outbox writes events as JSON")]
struct AlarmEvent {
    /// The same when it comes again.
    id: uuid::Uuid,
    /// `alarm.raised.v1` or `alarm.cleared.v1`.
    r#type: String,
    /// When it happened.
    time: chrono::DateTime<chrono::Utc>,
    /// Whose it is; null when it concerns everybody.
    tenant: Option<String>,
    /// The alarm.
    data: Alarm,
}

/// Every contract by its file name.
pub fn all() -> Result<Vec<(&'static str, String)>, serde_json::Error> {
    let mut openapi = serde_json::to_string_pretty(&openapi::document())?;
    openapi.push('\n');
    Ok(vec![
        ("send-job.schema.json", schema::<SendJob>()?),
        ("cancel-job.schema.json", schema::<CancelJob>()?),
        ("campaign.schema.json", schema::<CampaignDocument>()?),
        ("job-answer.schema.json", schema::<JobAnswer>()?),
        ("event.schema.json", schema::<Event>()?),
        ("alarm-event.schema.json", schema::<AlarmEvent>()?),
        ("registry.schema.json", schema::<RegistryFile>()?),
        ("openapi.json", openapi),
        ("checklist.sql", checklist()),
    ])
}

fn schema<T: JsonSchema>() -> Result<String, serde_json::Error> {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let mut text = serde_json::to_string_pretty(&schema)?;
    text.push('\n');
    Ok(text)
}

/// From the schema on, without the header that says why the migration is so; then what later migrations added.
fn checklist() -> String {
    let from = |text: &'static str, start: &str| text.find(start).and_then(|at| text.get(at..)).unwrap_or(text);
    let later = [PROBES, WINDOWS, RECEIVED, OPERATORS].map(|text| from(text, "CREATE OR REPLACE VIEW"));
    [&[from(CHECKLIST, "CREATE SCHEMA")], &later[..]].concat().join("\n")
}
