//! Files of recipients: read as a stream, checked against one template, kept row by row.
//!
//! A blocking thread decodes, parses and checks (12 µs a phone number); this side writes chunks meanwhile. Neither holds
//! more than a few chunks, however large the file is.

use std::{collections::BTreeMap, io, sync::Arc, sync::atomic::Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, pin_mut};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    domain::{
        Channel,
        address::Address,
        ids::TenantId,
        template::{Params, Template},
    },
    intake::{
        check::address_code,
        job::JobError,
        nearest,
        sheet::{Decoded, RowCounter, delimiter},
    },
    store::{
        Store, StoreError,
        imports::{self, BadRow, GoodRow, Progress},
        registry::{Account, RegisteredTemplate, Snapshot},
        session::{Session, commit},
    },
};

/// Rows per transaction.
const CHUNK: usize = 5000;
/// Refused rows a summary shows.
const REJECTIONS_SHOWN: usize = 100;
/// Longest `ref`, in characters.
const REF_CHARS: usize = 256;

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
        let BadRow {
            row,
            field,
            code,
            reason,
        } = bad;
        Self {
            row,
            field,
            code,
            reason,
        }
    }
}

fn refuse<T>(
    pointer: &str,
    code: &'static str,
    reason: String,
    near: Vec<String>,
) -> Result<T, ImportError> {
    Err(ImportError::Refused(vec![
        JobError::new(pointer, code, reason).meant(near),
    ]))
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
    let country = match &request.country {
        None => None,
        Some(code) => match code.to_uppercase().parse() {
            Ok(country) => Some(country),
            Err(_) => {
                return refuse(
                    "/country",
                    "unknown_country",
                    format!("`{code}` is not an ISO 3166 country code"),
                    Vec::new(),
                );
            }
        },
    };
    let checker = Checker {
        channel: account.channel,
        country,
        template: Arc::clone(&template.template),
        ignore_unknown_columns: request.ignore_unknown_columns,
    };
    let mut session = Session::new(store.clone(), "import");
    let id = imports::insert(
        session.connection().await?,
        tenant,
        account.id,
        template.id,
        &request.file_name,
    )
    .await?;
    let (pieces, incoming) = mpsc::channel(8);
    let (chunks, mut checked) = mpsc::channel(2);
    let reading =
        tokio::task::spawn_blocking(move || checker.read(Decoded::new(incoming), &chunks));
    let feeding = async {
        pin_mut!(file);
        while let Some(piece) = file.next().await {
            // The reader has given up: the rest is not wanted.
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
        drop(pieces);
    };
    let writing = async {
        let written = write(&mut session, id, &mut checked).await;
        // A reader whose chunks nobody takes ends, and with it the feeding.
        checked.close();
        written
    };
    let ((), written) = tokio::join!(feeding, writing);
    let read = reading
        .await
        .unwrap_or_else(|_| Err(vec![JobError::new("", "unreadable", "could not be read")]));
    let summary = match (read, written) {
        (Ok(()), Ok(summary)) => summary,
        (Err(problems), Ok(_)) => {
            let reasons: Vec<&str> = problems
                .iter()
                .map(|problem| problem.reason.as_str())
                .collect();
            imports::end(session.connection().await?, id, Some(&reasons.join("; "))).await?;
            return Err(ImportError::Refused(problems));
        }
        (_, Err(error)) => {
            session.failed(&error);
            imports::end(
                session.connection().await?,
                id,
                Some("the database failed while it was read"),
            )
            .await?;
            return Err(error.into());
        }
    };
    imports::end(session.connection().await?, id, None).await?;
    Ok(summary)
}

fn references<'a>(
    snapshot: &'a Snapshot,
    tenant: TenantId,
    request: &'a ImportRequest,
) -> Result<(&'a Arc<Account>, &'a Arc<RegisteredTemplate>), ImportError> {
    let accounts: Vec<&Arc<Account>> = match (&request.account, &request.business_number) {
        (Some(name), None) => snapshot
            .accounts
            .values()
            .filter(|a| a.tenant == tenant && a.name == *name)
            .collect(),
        (None, Some(number)) => snapshot
            .numbers_named(tenant, number)
            .map(|n| &n.account)
            .collect(),
        _ => {
            return refuse(
                "/account",
                "contradiction",
                "give exactly one of `account` and `business_number`".to_owned(),
                Vec::new(),
            );
        }
    };
    if accounts.is_empty() {
        return match (&request.account, &request.business_number) {
            (_, Some(number)) => {
                let names = snapshot
                    .numbers_of(tenant)
                    .map(|n| n.business_number.as_str());
                let near = nearest(number, names);
                refuse(
                    "/business_number",
                    "unknown_number",
                    format!("there is no business number `{number}`"),
                    near,
                )
            }
            (name, None) => {
                let name = name.as_deref().unwrap_or_default();
                let names = snapshot
                    .accounts
                    .values()
                    .filter(|a| a.tenant == tenant)
                    .map(|a| a.name.as_str());
                let near = nearest(name, names);
                refuse(
                    "/account",
                    "unknown_account",
                    format!("there is no account `{name}`"),
                    near,
                )
            }
        };
    }
    let templates = || {
        accounts
            .iter()
            .flat_map(|a| snapshot.templates_of(a.id).map(move |t| (*a, t)))
    };
    let found = templates().find(|(_, t)| {
        t.template.name == request.template && t.template.language == request.language
    });
    if let Some(found) = found {
        return Ok(found);
    }
    let name = &request.template;
    let languages: Vec<String> = templates()
        .filter(|(_, t)| t.template.name == *name)
        .map(|(_, t)| t.template.language.clone())
        .collect();
    if languages.is_empty() {
        let near = nearest(name, templates().map(|(_, t)| t.template.name.as_str()));
        return refuse(
            "/template",
            "unknown_template",
            format!("there is no template `{name}`"),
            near,
        );
    }
    let reason = format!(
        "the template `{name}` exists in {}, not in {}",
        languages.join(", "),
        request.language
    );
    refuse("/language", "unknown_language", reason, languages)
}

/// Checked rows on their way to the database.
#[derive(Debug, Default)]
struct Chunk {
    good: Vec<GoodRow>,
    bad: Vec<BadRow>,
    rows: i64,
}

async fn write(
    session: &mut Session,
    id: Uuid,
    chunks: &mut mpsc::Receiver<Chunk>,
) -> Result<ImportSummary, StoreError> {
    let mut summary = ImportSummary {
        id,
        rows: 0,
        good: 0,
        bad: 0,
        rejections: Vec::new(),
    };
    while let Some(mut chunk) = chunks.recv().await {
        let mut work = session.begin().await?;
        let duplicates = imports::insert_rows(&mut work, id, &chunk.good).await?;
        let duplicated = i64::try_from(duplicates.len()).unwrap_or_default();
        chunk
            .bad
            .extend(duplicates.into_iter().map(|(row, first)| BadRow {
                row,
                field: "to".to_owned(),
                code: "duplicate_recipient".to_owned(),
                reason: format!("row {row} has the same recipient as row {first}, which is kept"),
            }));
        imports::insert_refused(&mut work, id, &chunk.bad).await?;
        let good = i64::try_from(chunk.good.len()).unwrap_or_default() - duplicated;
        summary.rows += chunk.rows;
        summary.good += good;
        summary.bad += chunk.rows - good;
        let progress = Progress {
            rows: summary.rows,
            good: summary.good,
            bad: summary.bad,
        };
        imports::progress(&mut work, id, progress).await?;
        commit(work, "commit a chunk of an import").await?;
        chunk.bad.sort_by_key(|bad| bad.row);
        let room = REJECTIONS_SHOWN.saturating_sub(summary.rejections.len());
        summary
            .rejections
            .extend(chunk.bad.into_iter().take(room).map(RowRejection::from));
    }
    Ok(summary)
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    To,
    Ref,
    TimeZone,
    Slot(String),
    Ignored,
}

/// Reads and checks, on a thread that may block.
struct Checker {
    channel: Channel,
    country: Option<phonenumber::country::Id>,
    template: Arc<Template>,
    ignore_unknown_columns: bool,
}

impl Checker {
    fn read(&self, mut file: Decoded, chunks: &mpsc::Sender<Chunk>) -> Result<(), Vec<JobError>> {
        let broken = |error: &dyn std::fmt::Display| {
            vec![JobError::new("", "unreadable", error.to_string())]
        };
        let delimiter = delimiter(file.first_line().map_err(|error| broken(&error))?);
        let since_record = file.counter();
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .from_reader(file);
        let (mut counter, mut record) = (RowCounter::default(), csv::StringRecord::new());
        let mut columns: Option<Vec<(String, Column)>> = None;
        let mut chunk = Chunk::default();
        while reader
            .read_record(&mut record)
            .map_err(|error| broken(&error))?
        {
            since_record.store(0, Ordering::Relaxed);
            let row = counter.next(reader.position().line(), &record);
            let Some(columns) = &columns else {
                columns = Some(self.columns(&record)?);
                continue;
            };
            if record.iter().all(|cell| cell.trim().is_empty()) {
                continue;
            }
            chunk.rows += 1;
            match self.row(row, columns, &record) {
                Ok(good) => chunk.good.push(good),
                Err(bad) => chunk.bad.extend(bad),
            }
            if chunk.good.len() + chunk.bad.len() >= CHUNK
                && chunks.blocking_send(std::mem::take(&mut chunk)).is_err()
            {
                // The writer failed and says why.
                return Ok(());
            }
        }
        if columns.is_none() {
            return Err(vec![JobError::new(
                "",
                "missing_column",
                "the file has no header row",
            )]);
        }
        if chunk.rows > 0 {
            let _writer_failed = chunks.blocking_send(chunk);
        }
        Ok(())
    }

    fn columns(&self, header: &csv::StringRecord) -> Result<Vec<(String, Column)>, Vec<JobError>> {
        let mut errors = Vec::new();
        let mut columns: Vec<(String, Column)> = Vec::with_capacity(header.len());
        for name in header.iter().map(str::trim) {
            let column = match name {
                "to" => Column::To,
                "ref" => Column::Ref,
                "time_zone" => Column::TimeZone,
                "" => Column::Ignored,
                slot if self.template.slot(slot).is_some() => Column::Slot(slot.to_owned()),
                _ if self.ignore_unknown_columns => Column::Ignored,
                unknown => {
                    let known = ["to", "ref", "time_zone"]
                        .into_iter()
                        .chain(self.template.slots.iter().map(|s| s.name.as_str()));
                    let near = nearest(unknown, known);
                    let reason = format!(
                        "the column `{unknown}` is neither to, ref, time_zone nor a slot of the template"
                    );
                    errors.push(
                        JobError::new(format!("/{unknown}"), "unknown_column", reason).meant(near),
                    );
                    Column::Ignored
                }
            };
            if column != Column::Ignored && columns.iter().any(|(_, other)| *other == column) {
                errors.push(JobError::new(
                    format!("/{name}"),
                    "duplicate_column",
                    format!("the column `{name}` stands twice"),
                ));
            }
            columns.push((name.to_owned(), column));
        }
        if !columns.iter().any(|(_, column)| *column == Column::To) {
            errors.push(JobError::new(
                "/to",
                "missing_column",
                "the column `to` is missing",
            ));
        }
        if errors.is_empty() {
            Ok(columns)
        } else {
            Err(errors)
        }
    }

    fn row(
        &self,
        row: i64,
        columns: &[(String, Column)],
        record: &csv::StringRecord,
    ) -> Result<GoodRow, Vec<BadRow>> {
        let mut bad: BTreeMap<String, BadRow> = BTreeMap::new();
        let mut refuse = |field: &str, code: &str, reason: String| {
            let fault = BadRow {
                row,
                field: field.to_owned(),
                code: code.to_owned(),
                reason,
            };
            bad.entry(field.to_owned()).or_insert(fault);
        };
        let (mut to, mut reference, mut time_zone, mut params) = ("", None, None, Params::new());
        for ((name, column), cell) in columns.iter().zip(record.iter()) {
            if *column != Column::Ignored && cell.contains(['\u{fffd}', '\0']) {
                refuse(
                    name,
                    "unreadable_text",
                    "contains characters that are no text in the file's encoding".to_owned(),
                );
            }
            match column {
                Column::To => to = cell,
                Column::Ref => reference = Some(cell.trim()).filter(|text| !text.is_empty()),
                Column::TimeZone => time_zone = Some(cell.trim()).filter(|text| !text.is_empty()),
                Column::Slot(slot) if !cell.is_empty() => {
                    params.insert(slot.clone(), cell.to_owned());
                }
                Column::Slot(_) | Column::Ignored => {}
            }
            if let Column::Slot(slot) = column
                && cell.trim().is_empty()
                && self.template.slot(slot).is_some_and(|slot| slot.required)
            {
                refuse(name, "missing_slot", "is missing or empty".to_owned());
            }
        }
        if record.len() > columns.len() {
            refuse(
                "",
                "too_many_cells",
                format!(
                    "has {} cells, the header has {}",
                    record.len(),
                    columns.len()
                ),
            );
        }
        let address = match Address::parse_in(self.channel, to, self.country) {
            Ok(address) => Some(address),
            Err(error) => {
                refuse("to", address_code(self.channel), error.to_string());
                None
            }
        };
        if reference.is_some_and(|text| text.chars().count() > REF_CHARS) {
            refuse(
                "ref",
                "too_long",
                format!("has more than {REF_CHARS} characters"),
            );
        }
        if let Some(zone) = time_zone.filter(|zone| zone.parse::<chrono_tz::Tz>().is_err()) {
            refuse(
                "time_zone",
                "unknown_time_zone",
                format!("`{zone}` is not an IANA time zone"),
            );
        }
        // A slot without a column has its value in the job, which is checked when that comes.
        for problem in self.template.check_names(&params) {
            refuse(&problem.slot, problem.code, problem.reason);
        }
        match address {
            Some(address) if bad.is_empty() => Ok(GoodRow {
                row,
                recipient: address.as_str().to_owned(),
                reference: reference.map(str::to_owned),
                time_zone: time_zone.map(str::to_owned),
                params: serde_json::json!(params),
            }),
            _ => Err(bad.into_values().collect()),
        }
    }
}
