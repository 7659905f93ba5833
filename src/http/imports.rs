//! `/v1/imports`: files of recipients, what became of them, and the form to fill.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    checklist::{self, Page},
    files,
    http::{
        HttpState,
        error::{ApiError, Errors},
        extract::{Asked, id, pieces},
        jobs::problem,
        lists::PageQuery,
    },
    intake::{
        form,
        import::{self, ImportError, ImportRequest, ImportSummary},
        report,
    },
    registry::tokens::{Caller, Scope},
    store::checklist::imports::{ChangedCellRow, ImportRow, RejectedImportRow},
};

/// What a file is imported for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportQuery {
    /// Names the import: a file whose sending broke off is sent again with the same id, and goes on where it was.
    id: Option<Uuid>,
    /// The number it will be sent from. Either this or `account`.
    business_number: Option<String>,
    /// The account it will be sent from.
    account: Option<String>,
    /// The template it will be sent with.
    template: String,
    /// The template's language.
    language: String,
    /// What the file is called, for people.
    file_name: Option<String>,
    /// Country of numbers that are not international, for example JP.
    country: Option<String>,
    /// Pass over columns that are no slot.
    #[serde(default)]
    #[param(required = false)]
    ignore_unknown_columns: bool,
}

#[utoipa::path(post, path = "/v1/imports", tag = "imports", params(ImportQuery),
    request_body(content = String, content_type = "text/csv", description = "CSV or .xlsx, told apart by content; streamed, of any size"), responses(
    (status = 201, body = ImportSummary, description = "Kept; name it in `audience` of a job"),
    (status = 422, body = Errors, description = "Nothing is kept")))]
pub(super) async fn create(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<ImportQuery>,
    body: Body,
) -> Result<(StatusCode, Json<ImportSummary>), ApiError> {
    state.directory.refresh().await?;
    let request = ImportRequest {
        id: query.id,
        account: query.account,
        business_number: query.business_number.as_deref().map(checklist::with_plus),
        template: query.template,
        language: query.language,
        file_name: query.file_name.unwrap_or_else(|| "upload.csv".to_owned()),
        country: query.country,
        ignore_unknown_columns: query.ignore_unknown_columns,
    };
    let snapshot = state.directory.current();
    let made =
        import::import(&state.store, &snapshot, caller.tenant, &request, pieces(body, state.body_timeout())).await;
    made.map(|summary| (StatusCode::CREATED, Json(summary))).map_err(refused)
}

#[utoipa::path(get, path = "/v1/imports", tag = "imports", params(PageQuery), responses(
    (status = 200, body = Page<ImportRow>, description = "The newest first")))]
pub(super) async fn list(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(page): Asked<PageQuery>,
) -> Result<Json<Page<ImportRow>>, ApiError> {
    let list = checklist::list_imports(&state.store, caller.tenant, page.limit, page.after.as_deref());
    Ok(Json(list.await?))
}

#[utoipa::path(get, path = "/v1/imports/{import}", tag = "imports", params(("import" = Uuid, Path)), responses(
    (status = 200, body = ImportRow), (status = 404, body = Errors)))]
pub(super) async fn find(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(import): Path<String>,
) -> Result<Json<ImportRow>, ApiError> {
    let found = checklist::find_import(&state.store, caller.tenant, id(&import, "import")?).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("import"))
}

#[utoipa::path(get, path = "/v1/imports/{import}/rejected", tag = "imports", params(("import" = Uuid, Path), PageQuery), responses(
    (status = 200, body = Page<RejectedImportRow>), (status = 404, body = Errors)))]
pub(super) async fn rejected_rows(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(import): Path<String>,
    Asked(page): Asked<PageQuery>,
) -> Result<Json<Page<RejectedImportRow>>, ApiError> {
    let (store, import) = (&state.store, id(&import, "import")?);
    let found = checklist::list_rejected_rows(store, caller.tenant, import, page.limit, page.after.as_deref()).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("import"))
}

#[utoipa::path(get, path = "/v1/imports/{import}/changed", tag = "imports", params(("import" = Uuid, Path), PageQuery), responses(
    (status = 200, body = Page<ChangedCellRow>, description = "Cells that a spreadsheet took for numbers, and what is used for them; addresses are masked without the scope pii"),
    (status = 404, body = Errors)))]
pub(super) async fn changed_cells(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(import): Path<String>,
    Asked(page): Asked<PageQuery>,
) -> Result<Json<Page<ChangedCellRow>>, ApiError> {
    let (import, sees) = (id(&import, "import")?, caller.may(Scope::Pii));
    let after = page.after.as_deref();
    let found = checklist::list_changed_cells(&state.store, caller.tenant, import, sees, page.limit, after).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("import"))
}

#[utoipa::path(get, path = "/v1/imports/{import}/report", tag = "imports", params(("import" = Uuid, Path)), responses(
    (status = 200, body = String, content_type = "application/octet-stream",
     description = "The same file with only its bad rows and a column `reason`: CSV for CSV, .xlsx for .xlsx; needs the scope pii"),
    (status = 403, body = Errors), (status = 404, body = Errors)))]
pub(super) async fn report(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(import): Path<String>,
) -> Result<Response, ApiError> {
    let import = id(&import, "import")?;
    if !caller.may(Scope::Pii) {
        let reason = "the report has whole addresses: it needs the scope pii";
        return Err(ApiError::whole(StatusCode::FORBIDDEN, "missing_scope", reason));
    }
    let report = report::report(&state.store, caller.tenant, import).await?;
    let report = report.ok_or_else(|| ApiError::not_found("import"))?;
    Ok(file(&report.file_name, report.media_type, Body::from_stream(report.content)))
}

/// Which template's form.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct FormQuery {
    /// A number it will be sent from. Either this or `account`.
    business_number: Option<String>,
    /// The account it will be sent from.
    account: Option<String>,
    /// The template's name.
    template: String,
    /// Its language.
    language: String,
}

#[utoipa::path(get, path = "/v1/imports/form", tag = "imports", params(FormQuery), responses(
    (status = 200, body = String, content_type = "application/octet-stream",
     description = "An empty workbook with the template's columns"),
    (status = 422, body = Errors)))]
pub(super) async fn empty_form(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<FormQuery>,
) -> Result<Response, ApiError> {
    state.directory.refresh().await?;
    let file_name = format!("{}.{}.xlsx", query.template, query.language);
    let request = ImportRequest {
        id: None,
        account: query.account,
        business_number: query.business_number.as_deref().map(checklist::with_plus),
        template: query.template,
        language: query.language,
        file_name,
        country: None,
        ignore_unknown_columns: false,
    };
    let snapshot = state.directory.current();
    let template = import::template(&snapshot, caller.tenant, &request).map_err(refused)?;
    // A template has at most some dozens of slots, and Excel takes all their names.
    let form = form::form(&template.template).map_err(|error| {
        tracing::error!(%error, "a form could not be made");
        ApiError::whole(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the form could not be made")
    })?;
    Ok(file(&request.file_name, files::XLSX, Body::from(form)))
}

fn file(name: &str, media_type: &'static str, body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    // RFC 6266: a name that is not ASCII is percent-encoded.
    let name: String = name.bytes().map(percent).collect();
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename*=UTF-8''{name}")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

fn percent(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        return char::from(byte).to_string();
    }
    format!("%{byte:02X}")
}

fn refused(error: ImportError) -> ApiError {
    match error {
        ImportError::Store(error) => error.into(),
        ImportError::Refused(errors) => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, errors.into_iter().map(problem).collect())
        }
    }
}
