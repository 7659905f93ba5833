//! `POST /v1/jobs`: what intake takes by HTTP.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;

use crate::{
    http::{
        HttpState,
        error::ApiError,
        extract::{Asked, BodyLimit, read},
    },
    intake::{
        Claim, JobAnswer, Road, Submission, SubmitError,
        job::{JobError, SendJob},
    },
    registry::{Problem, tokens::Caller},
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
    let (road, submission) = submission(state, caller, body, is_dry_run);
    state.intake.submit(road, submission).await.map_err(unanswered)
}

/// A job of the caller and its road.
pub(super) fn submission(
    state: &HttpState,
    caller: &Caller,
    body: bytes::Bytes,
    is_dry_run: bool,
) -> (Road, Submission) {
    let claim = Claim::Token { tenant: caller.tenant, producer: caller.producer.clone() };
    let road = state.intake.road_of(&claim, &body);
    (road, Submission { claim, body, is_dry_run })
}

pub(super) fn unanswered(error: SubmitError) -> ApiError {
    let code = match error {
        SubmitError::Stopping => "stopping",
        SubmitError::Late => "database_unavailable",
    };
    let reason = format!("{error}: publish the same job again, it is sent once");
    ApiError::whole(StatusCode::SERVICE_UNAVAILABLE, code, reason).retry_after(1)
}

pub(super) fn problem(error: JobError) -> Problem {
    let JobError { pointer, code, reason, did_you_mean } = error;
    Problem { pointer, code: code.into_owned(), reason, did_you_mean }
}
