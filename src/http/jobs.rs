//! `POST /v1/jobs` and `POST /v1/imports`: what intake takes by HTTP.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use futures_util::StreamExt as _;
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    checklist::{self, Page},
    http::{
        HttpState,
        error::{ApiError, Errors},
        extract::{Asked, BodyLimit, id, read},
        lists::PageQuery,
    },
    intake::{
        Claim, JobAnswer, Submission, SubmitError,
        import::{self, ImportError, ImportRequest, ImportSummary},
        job::{JobError, SendJob},
    },
    registry::{Problem, tokens::Caller},
    store::checklist::refused::{ImportRow, RejectedImportRow},
};

/// Room for white space around a job of the largest size, which intake measures itself.
const MARGIN_BYTES: usize = 64 << 10;

/// How a job is taken.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct JobQuery {
    /// Check only; store nothing.
    #[serde(default)]
    #[param(required = false)]
    dry_run: bool,
}

#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", params(JobQuery), request_body = SendJob, responses(
    (status = 202, body = JobAnswer, description = "Kept and will be sent; the same answer for a repeat"),
    (status = 400, body = JobAnswer, description = "Not JSON"),
    (status = 403, body = JobAnswer, description = "Another producer than the token's"),
    (status = 409, body = JobAnswer, description = "The job id was used with another body"),
    (status = 413, body = JobAnswer, description = "Too large: use an import"),
    (status = 422, body = JobAnswer, description = "Refused; the job id is still free")))]
pub(super) async fn submit(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<JobQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<JobAnswer>), ApiError> {
    let body = read(&headers, body, job_limit(&state)).await?;
    let answer = give(&state, &caller, body, query.dry_run).await?;
    let status = StatusCode::from_u16(answer.http_status()).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
    Ok((status, Json(answer)))
}

/// What a body may have that carries a job's recipients.
pub(super) fn job_limit(state: &HttpState) -> BodyLimit {
    BodyLimit {
        bytes: state.inline_bytes + MARGIN_BYTES,
        time: state.body_timeout(),
        instead: "import the recipients (POST /v1/imports) and name the import in `audience`",
    }
}

/// Gives a job of the caller to intake.
pub(super) async fn give(
    state: &HttpState,
    caller: &Caller,
    body: bytes::Bytes,
    is_dry_run: bool,
) -> Result<JobAnswer, ApiError> {
    let claim = Claim::Token { tenant: caller.tenant, producer: caller.producer.clone() };
    let road = state.intake.road_of(&claim, &body);
    state.intake.submit(road, Submission { claim, body, is_dry_run }).await.map_err(unanswered)
}

pub(super) fn unanswered(error: SubmitError) -> ApiError {
    let code = match error {
        SubmitError::Stopping => "stopping",
        SubmitError::Late => "database_unavailable",
    };
    let reason = format!("{error}: publish the same job again, it is sent once");
    ApiError::whole(StatusCode::SERVICE_UNAVAILABLE, code, reason).retry_after(1)
}

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
    request_body(content = String, content_type = "text/csv", description = "Streamed; of any size"), responses(
    (status = 201, body = ImportSummary, description = "Kept; name it in `audience` of a job"),
    (status = 422, body = Errors, description = "Nothing is kept")))]
pub(super) async fn import(
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
    // A file may take as long as it is large; only a silence is cut.
    let silence = state.body_timeout();
    let chunks = futures_util::stream::unfold(body.into_data_stream(), move |mut stream| async move {
        let chunk = match tokio::time::timeout(silence, stream.next()).await {
            Ok(chunk) => chunk?.map_err(std::io::Error::other),
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        Some((chunk, stream))
    });
    let snapshot = state.directory.current();
    match import::import(&state.store, &snapshot, caller.tenant, &request, chunks).await {
        Ok(summary) => Ok((StatusCode::CREATED, Json(summary))),
        Err(ImportError::Store(error)) => Err(error.into()),
        Err(ImportError::Refused(errors)) => {
            Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, errors.into_iter().map(problem).collect()))
        }
    }
}

pub(super) fn problem(error: JobError) -> Problem {
    let JobError { pointer, code, reason, did_you_mean } = error;
    Problem { pointer, code: code.into_owned(), reason, did_you_mean }
}

#[utoipa::path(get, path = "/v1/imports", tag = "imports", params(PageQuery), responses(
    (status = 200, body = Page<ImportRow>, description = "The newest first")))]
pub(super) async fn imports(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(page): Asked<PageQuery>,
) -> Result<Json<Page<ImportRow>>, ApiError> {
    let list = checklist::list_imports(&state.store, caller.tenant, page.limit, page.after.as_deref());
    Ok(Json(list.await?))
}

#[utoipa::path(get, path = "/v1/imports/{import}", tag = "imports", params(("import" = Uuid, Path)), responses(
    (status = 200, body = ImportRow), (status = 404, body = Errors)))]
pub(super) async fn find_import(
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
