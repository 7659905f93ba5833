//! Files of recipients: read as a stream, checked against one template, kept row by row.
//!
//! A blocking thread decodes, parses and checks, phone numbers above all; this side writes chunks meanwhile. Neither holds
//! more than a few chunks, however large the file is.

use std::{collections::HashSet, io, sync::Arc};

use bytes::Bytes;
use fastbloom::BloomFilter;
use futures_util::{Stream, StreamExt as _, pin_mut};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    domain::{ids::TenantId, nearest::nearest},
    intake::{
        columns::{Checker, Chunk},
        fields::storable,
        job::JobError,
        lines::CUT_OFF,
        members::read_country,
        sheet::Decoded,
        trail::OTHER_FILE,
    },
    store::{
        Store, StoreError, checklist,
        import_rows::{self, RowsToSend},
        imports::{self, BadRow, Begun, GoodRow, NewImport, Progress},
        registry::{Account, RegisteredTemplate, Snapshot},
        session::{Session, commit_unflushed},
    },
};

/// Refused rows a summary shows.
const REJECTIONS_SHOWN: i64 = 100;

/// What a file is imported for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// Names the import, so that a file whose sending broke off can be sent again: it goes on where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
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
    /// Cells of usable rows that a spreadsheet took for numbers, and what is used for them: see them before you send.
    #[serde(default)]
    pub changed: i64,
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

fn refuse<T>(pointer: &str, code: &'static str, reason: String, near: Vec<String>) -> Result<T, ImportError> {
    Err(ImportError::Refused(vec![JobError::new(pointer, code, reason).meant(near)]))
}

/// Imports a workbook (.xlsx), or a CSV file in UTF-8, UTF-16 or Shift_JIS by comma, semicolon or tab; columns by the names
/// in its first row.
pub async fn import(
    store: &Store,
    snapshot: &Snapshot,
    tenant: TenantId,
    request: &ImportRequest,
    file: impl Stream<Item = io::Result<Bytes>> + Send,
) -> Result<ImportSummary, ImportError> {
    let (account, template) = references(snapshot, tenant, request)?;
    let country = request.country.as_deref().map(read_country).transpose();
    let country = country.map_err(|error| ImportError::Refused(vec![error]))?;
    let checker = Checker {
        channel: account.channel,
        country,
        template: Arc::clone(&template.template),
        ignore_unknown_columns: request.ignore_unknown_columns,
    };
    let mut session = Session::new(store.clone(), "import");
    let name = storable(&request.file_name);
    let id = request.id.unwrap_or_else(Uuid::now_v7);
    let new = NewImport { id, tenant, account: account.id, template: template.id, file_name: &name };
    let from = match imports::begin(session.connection().await?, &new).await? {
        Begun::Reading(from) => from,
        Begun::Ready(progress) => return summary(&mut session, id, progress).await,
        Begun::Failed => {
            return refused_id("failed", "the import of this id failed: correct the file and use a new id");
        }
        Begun::Busy => {
            return refused_id("busy", "the file is being read under this id this moment: try again shortly");
        }
        Begun::Taken => return refused_id("taken", "the id belongs to another import: use a new one"),
    };
    let (pieces, incoming) = mpsc::channel(8);
    let (chunks, mut rows) = mpsc::channel(2);
    let reading = tokio::task::spawn_blocking(move || {
        let mut met = Met::new(from.place.row == 0);
        checker.read(Decoded::new(incoming), from.place, &mut |mut chunk| {
            let (doubtful, fresh) =
                std::mem::take(&mut chunk.good).into_iter().partition::<Vec<_>, _>(|row| met.may_have(row));
            chunks.blocking_send((RowsToSend::new(id, &fresh, doubtful), chunk)).is_ok()
        })
    });
    let writing = async {
        let written = write(&mut session, id, from, &mut rows).await;
        // A reader whose chunks nobody takes ends, and with it the feeding.
        rows.close();
        written
    };
    let ((), written) = tokio::join!(feed(file, pieces), writing);
    let read = reading.await.unwrap_or_else(|_| Err(vec![JobError::new("", "unreadable", "could not be read")]));
    let (problem, result) = match (read, written) {
        (Ok(()), Ok(progress)) => (None, Ok(progress)),
        // Kept as far as it came: sent again with its id, it goes on.
        (Err(problems), Ok(_)) if problems.iter().all(|problem| [CUT_OFF, OTHER_FILE].contains(&&*problem.code)) => {
            return Err(ImportError::Refused(problems));
        }
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
    summary(&mut session, id, result?).await
}

async fn summary(session: &mut Session, id: Uuid, progress: Progress) -> Result<ImportSummary, ImportError> {
    let Progress { rows, good, bad, changed, .. } = progress;
    let rejections =
        checklist::imports::rejected_rows(session.connection().await?, id, (0, ""), REJECTIONS_SHOWN).await?;
    let rejections = rejections.into_iter().map(|row| RowRejection {
        row: row.row,
        field: row.field,
        code: row.code,
        reason: row.reason,
    });
    Ok(ImportSummary { id, rows, good, bad, changed, rejections: rejections.collect() })
}

fn refused_id<T>(code: &'static str, reason: &str) -> Result<T, ImportError> {
    refuse("/id", code, reason.to_owned(), Vec::new())
}

/// Gives the pieces of a file to the thread that reads it.
pub(super) async fn feed(file: impl Stream<Item = io::Result<Bytes>> + Send, pieces: mpsc::Sender<io::Result<Bytes>>) {
    pin_mut!(file);
    while let Some(piece) = file.next().await {
        // The reader has given up: the rest is not wanted.
        if pieces.send(piece).await.is_err() {
            return;
        }
    }
}

/// The template that a request names; the rest of it is not looked at.
pub fn template<'a>(
    snapshot: &'a Snapshot,
    tenant: TenantId,
    request: &'a ImportRequest,
) -> Result<&'a Arc<RegisteredTemplate>, ImportError> {
    references(snapshot, tenant, request).map(|(_, template)| template)
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
    from: Progress,
    chunks: &mut mpsc::Receiver<(RowsToSend, Chunk)>,
) -> Result<Progress, StoreError> {
    let mut progress = from;
    while let Some((good, mut chunk)) = chunks.recv().await {
        let mut work = session.begin().await?;
        if let Some((format, header)) = &chunk.head {
            imports::describe(&mut work, id, &json!(format), &cells(header)).await?;
        }
        let duplicates = import_rows::insert(&mut work, good).await?;
        chunk.bad.extend(duplicates.into_iter().map(|(row, first)| BadRow {
            row,
            field: "to".to_owned(),
            code: "duplicate_recipient".to_owned(),
            reason: format!("row {row} has the same recipient as row {first}, which is kept"),
        }));
        let bad: HashSet<i64> = chunk.bad.iter().map(|bad| bad.row).collect();
        let lines = chunk.lines.iter().filter(|(row, _)| bad.contains(row));
        let lines: Vec<_> = lines.map(|(row, line)| (*row, cells(line))).collect();
        imports::insert_refused(&mut work, id, &chunk.bad, &lines).await?;
        chunk.changed.retain(|changed| !bad.contains(&changed.row));
        imports::insert_changed(&mut work, id, &chunk.changed).await?;
        let rows = i64::try_from(chunk.lines.len()).unwrap_or_default();
        let refused = i64::try_from(bad.len()).unwrap_or_default();
        progress.rows += rows;
        progress.good += rows - refused;
        progress.bad += refused;
        progress.changed += i64::try_from(chunk.changed.len()).unwrap_or_default();
        progress.place = chunk.place;
        imports::progress(&mut work, id, progress).await?;
        commit_unflushed(work, "commit a chunk of an import").await?;
    }
    Ok(progress)
}

/// The recipients that were met in a file, in 2 MiB however long it is: of a million rows less than one in 500 is in doubt
/// without need, of five million a tenth.
struct Met(Option<BloomFilter>);

impl Met {
    /// Of a file that was read in part before, all recipients are in doubt.
    fn new(is_at_start: bool) -> Self {
        Self(is_at_start.then(|| BloomFilter::with_num_bits(1 << 24).hashes(4)))
    }

    /// Whether the recipient of a row may have been met before. Now it was.
    fn may_have(&mut self, row: &GoodRow) -> bool {
        self.0.as_mut().is_none_or(|met| met.insert(&row.recipient))
    }
}

fn cells(line: &csv::StringRecord) -> Value {
    line.iter().map(storable_cell).collect()
}

/// What a cell says, as the database takes it; its lines stay.
fn storable_cell(cell: &str) -> String {
    cell.replace('\0', "\u{fffd}")
}
