//! The contracts as files, made from the types that read and write them. Within v1 fields are only added.

use schemars::{JsonSchema, generate::SchemaSettings};

use crate::{http::openapi, registry::file::RegistryFile};

/// The views, as the migration that makes them has it.
const CHECKLIST: &str = include_str!("../migrations/0004_checklist.sql");

/// Every contract by its file name.
pub fn all() -> Result<Vec<(&'static str, String)>, serde_json::Error> {
    let mut openapi = serde_json::to_string_pretty(&openapi::document())?;
    openapi.push('\n');
    Ok(vec![
        ("registry.schema.json", schema::<RegistryFile>()?),
        ("openapi.json", openapi),
        ("checklist.sql", checklist()),
    ])
}

fn schema<T: JsonSchema>() -> Result<String, serde_json::Error> {
    let schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>();
    let mut text = serde_json::to_string_pretty(&schema)?;
    text.push('\n');
    Ok(text)
}

/// From the schema on, without the header that says why the migration is so.
fn checklist() -> String {
    CHECKLIST
        .find("CREATE SCHEMA")
        .and_then(|start| CHECKLIST.get(start..))
        .unwrap_or(CHECKLIST)
        .to_owned()
}
