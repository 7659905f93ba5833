//! The contracts as files, made from the types that read and write them. Within v1 fields are only added.

mod asyncapi;
mod events;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Serialize;

use crate::{
    campaigns::CampaignDocument,
    http::openapi,
    intake::job::{CancelJob, JobAnswer, SendJob},
    registry::file::RegistryFile,
};

/// The views, as the migration that makes them has it.
const CHECKLIST: &str = include_str!("../../migrations/0004_checklist.sql");
const PROBES: &str = include_str!("../../migrations/0006_engine.sql");
const WINDOWS: &str = include_str!("../../migrations/0015_windows.sql");
const RECEIVED: &str = include_str!("../../migrations/0017_suppressions.sql");
const OPERATORS: &str = include_str!("../../migrations/0018_operators.sql");

/// Every contract by its file name.
pub fn all() -> Result<Vec<(&'static str, String)>, serde_json::Error> {
    Ok(vec![
        ("send-job.schema.json", schema::<SendJob>()?),
        ("cancel-job.schema.json", schema::<CancelJob>()?),
        ("campaign.schema.json", schema::<CampaignDocument>()?),
        ("job-answer.schema.json", schema::<JobAnswer>()?),
        ("event.schema.json", events::document()?),
        ("registry.schema.json", schema::<RegistryFile>()?),
        ("openapi.json", pretty(&openapi::document())?),
        ("asyncapi.json", asyncapi::document()?),
        ("checklist.sql", checklist()),
    ])
}

fn schema<T: JsonSchema>() -> Result<String, serde_json::Error> {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    pretty(&schema)
}

fn pretty(document: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    Ok(text)
}

/// From the schema on, without the header that says why the migration is so; then what later migrations added.
fn checklist() -> String {
    let from = |text: &'static str, start: &str| text.find(start).and_then(|at| text.get(at..)).unwrap_or(text);
    let later = [PROBES, WINDOWS, RECEIVED, OPERATORS].map(|text| from(text, "CREATE OR REPLACE VIEW"));
    [&[from(CHECKLIST, "CREATE SCHEMA")], &later[..]].concat().join("\n")
}
