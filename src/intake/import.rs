//! Files of recipients: read as a stream, checked against one template, kept row by row.
//!
//! A blocking thread decodes, parses and checks, phone numbers above all; this side writes chunks meanwhile. Neither holds
//! more than a few chunks, however large the file is.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, pin_mut};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    domain::{ids::TenantId, nearest::nearest},
    intake::{
        columns::{Checker, Chunk},
        fields::storable,
        job::JobError,
        sheet::Decoded,
    },
    store::{
        Store, StoreError,
        imports::{self, BadRow, Progress},
        registry::{Account, RegisteredTemplate, Snapshot},
        session::{Session, commit},
    },
};

/// Refused rows a summary shows.
const REJECTIONS_SHOWN: usize = 100;

/// What a file is imported for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The account, by name. Either this or `business_number`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// A number of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business_number: Option<String>,
    /// The template's name.
    pub template: String,
    /// Its language.
    pub language: String,
    /// What the file is called, for people.
    pub file_name: String,
    /// ISO 3166 code of the country whose national numbers are understood, for example `JP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Whether columns that mean nothing here are passed over instead of refused.
    #[serde(default)]
    pub ignore_unknown_columns: bool,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct ImportSummary {
    /// To be named by jobs as `audience.import`.
    pub id: Uuid,
    /// Rows read, without the header.
    pub rows: i64,
    /// Usable.
    pub good: i64,
    /// Refused.
    pub bad: i64,
    /// Why, of the first of them.
    pub rejections: Vec<RowRejection>,
}

/// Why a row was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct RowRejection {
    /// As a spreadsheet counts: the header is row 1.
    pub row: i64,
    /// The column.
    pub field: String,
    /// For machines.
    pub code: String,
    /// For people.
    pub reason: String,
}

/// Why a file was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// What the request names does not exist, or the file is not what it should be. Nothing is kept.
    #[error("the import is refused: {}", .0.iter().map(|e| e.reason.as_str()).collect::<Vec<_>>().join("; "))]
    Refused(Vec<JobError>),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<BadRow> for RowRejection {
    fn from(bad: BadRow) -> Self {
        let BadRow { row, field, code, reason } = bad;
        Self { row, field, code, reason }
    }
}

fn refuse<T>(pointer: &str, code: &'static str, reason: String, near: Vec<String>) -> Result<T, ImportError> {
    Err(ImportError::Refused(vec![JobError::new(pointer, code, reason).meant(near)]))
}

/// Imports a CSV file: UTF-8, UTF-16 or Shift_JIS, by comma, semicolon or tab, columns by the names in its first row.
pub async fn import(
    store: &Store,
    snapshot: &Snapshot,
    tenant: TenantId,
    request: &ImportRequest,
    file: impl Stream<Item = io::Result<Bytes>> + Send,
) -> Result<ImportSummary, ImportError> {
    let (account, template) = references(snapshot, tenant, request)?;
    let country = request.country.as_deref().map(country).transpose()?;
    let checker = Checker {
        channel: account.channel,
        country,
        template: Arc::clone(&template.template),
        ignore_unknown_columns: request.ignore_unknown_columns,
    };
    let mut session = Session::new(store.clone(), "import");
    let name = storable(&request.file_name);
    let id = imports::insert(session.connection().await?, tenant, account.id, template.id, &name).await?;
    let (pieces, incoming) = mpsc::channel(8);
    let (chunks, mut rows) = mpsc::channel(2);
    let reading = tokio::task::spawn_blocking(move || checker.read(Decoded::new(incoming), &chunks));
    let writing = async {
        let written = write(&mut session, id, &mut rows).await;
        // A reader whose chunks nobody takes ends, and with it the feeding.
        rows.close();
        written
    };
    let ((), written) = tokio::join!(feed(file, pieces), writing);
    let read = reading.await.unwrap_or_else(|_| Err(vec![JobError::new("", "unreadable", "could not be read")]));
    let (problem, result) = match (read, written) {
        (Ok(()), Ok(summary)) => (None, Ok(summary)),
        (Err(problems), Ok(_)) => {
            let reasons: Vec<&str> = problems.iter().map(|p| p.reason.as_str()).collect();
            (Some(storable(&reasons.join("; "))), Err(ImportError::Refused(problems)))
        }
        (_, Err(error)) => {
            session.failed(&error);
            let problem = "the database failed while the file was read";
            (Some(problem.to_owned()), Err(error.into()))
        }
    };
    imports::end(session.connection().await?, id, problem.as_deref()).await?;
    result
}

async fn feed(file: impl Stream<Item = io::Result<Bytes>> + Send, pieces: mpsc::Sender<io::Result<Bytes>>) {
    pin_mut!(file);
    while let Some(piece) = file.next().await {
        // The reader has given up: the rest is not wanted.
        if pieces.send(piece).await.is_err() {
            return;
        }
    }
}

fn country(code: &str) -> Result<phonenumber::country::Id, ImportError> {
    let Ok(country) = code.to_uppercase().parse() else {
        let reason = format!("`{code}` is not an ISO 3166 country code");
        return refuse("/country", "unknown_country", reason, Vec::new());
    };
    Ok(country)
}

/// The account and the template an import is for.
fn references<'a>(
    snapshot: &'a Snapshot,
    tenant: TenantId,
    request: &'a ImportRequest,
) -> Result<(&'a Arc<Account>, &'a Arc<RegisteredTemplate>), ImportError> {
    let accounts = accounts(snapshot, tenant, request)?;
    let templates: Vec<_> = accounts.iter().flat_map(|a| snapshot.templates_of(a.id).map(move |t| (*a, t))).collect();
    let (name, language) = (&request.template, &request.language);
    let mut languages = Vec::new();
    for (account, registered) in &templates {
        let template = &registered.template;
        if template.name == *name && template.language == *language {
            return Ok((*account, *registered));
        }
        if template.name == *name {
            languages.push(template.language.clone());
        }
    }
    if languages.is_empty() {
        let near = nearest(name, templates.iter().map(|(_, t)| t.template.name.as_str()));
        let reason = format!("there is no template `{name}`");
        return refuse("/template", "unknown_template", reason, near);
    }
    let known = languages.join(", ");
    let reason = format!("the template `{name}` exists in {known}, not in {language}");
    refuse("/language", "unknown_language", reason, languages)
}

/// The accounts a request may mean: one by its name, or those that have the number.
fn accounts<'a>(
    snapshot: &'a Snapshot,
    tenant: TenantId,
    request: &'a ImportRequest,
) -> Result<Vec<&'a Arc<Account>>, ImportError> {
    match (&request.account, &request.business_number) {
        (Some(name), None) => {
            let own = || snapshot.accounts.values().filter(|a| a.tenant == tenant);
            if let Some(account) = own().find(|account| account.name == *name) {
                return Ok(vec![account]);
            }
            let near = nearest(name, own().map(|account| account.name.as_str()));
            let reason = format!("there is no account `{name}`");
            refuse("/account", "unknown_account", reason, near)
        }
        (None, Some(number)) => {
            let found: Vec<_> = snapshot.numbers_named(tenant, number).map(|number| &number.account).collect();
            if !found.is_empty() {
                return Ok(found);
            }
            let known = snapshot.numbers_of(tenant).map(|n| n.business_number.as_str());
            let reason = format!("there is no business number `{number}`");
            refuse("/business_number", "unknown_number", reason, nearest(number, known))
        }
        _ => {
            let reason = "give exactly one of `account` and `business_number`".to_owned();
            refuse("/account", "contradiction", reason, Vec::new())
        }
    }
}

async fn write(
    session: &mut Session,
    id: Uuid,
    chunks: &mut mpsc::Receiver<Chunk>,
) -> Result<ImportSummary, StoreError> {
    let mut summary = ImportSummary { id, rows: 0, good: 0, bad: 0, rejections: Vec::new() };
    while let Some(mut chunk) = chunks.recv().await {
        let mut work = session.begin().await?;
        let duplicates = imports::insert_rows(&mut work, id, &chunk.good).await?;
        let repeated = i64::try_from(duplicates.len()).unwrap_or_default();
        chunk.bad.extend(duplicates.into_iter().map(|(row, first)| BadRow {
            row,
            field: "to".to_owned(),
            code: "duplicate_recipient".to_owned(),
            reason: format!("row {row} has the same recipient as row {first}, which is kept"),
        }));
        imports::insert_refused(&mut work, id, &chunk.bad).await?;
        let good = i64::try_from(chunk.good.len()).unwrap_or_default() - repeated;
        summary.rows += chunk.rows;
        summary.good += good;
        summary.bad += chunk.rows - good;
        let progress = Progress { rows: summary.rows, good: summary.good, bad: summary.bad };
        imports::progress(&mut work, id, progress).await?;
        commit(work, "commit a chunk of an import").await?;
        chunk.bad.sort_by_key(|bad| bad.row);
        let room = REJECTIONS_SHOWN.saturating_sub(summary.rejections.len());
        summary.rejections.extend(chunk.bad.into_iter().take(room).map(RowRejection::from));
    }
    Ok(summary)
}
