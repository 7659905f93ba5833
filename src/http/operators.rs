//! Why something waits, and what operators do about failures: sent again, acknowledged. And what was done, by whom.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
};
use serde::Deserialize;

use crate::{
    checklist::{
        self, AcknowledgeRequest, Acknowledged, Page, ResendDone, ResendMeans, ResendRequest, WhyBatch, WhyMessage,
    },
    domain::act::Act,
    http::{
        HttpState,
        campaigns::person,
        changes::current,
        error::{ApiError, Errors},
        extract::{Asked, BodyLimit, id, json, read},
    },
    registry::tokens::Caller,
    store::acts::ActRow,
};

/// Five thousand ids and a reason.
const NAMED_BYTES: usize = 1 << 20;

/// Which acts.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ActQuery {
    /// Only such acts.
    #[param(inline)]
    pub act: Option<Act>,
    /// Only on this: `batch:<id>`, `message:<id>`, `campaign:<key>`, a hold's scope, `failures`, `uncertain`, `registry`, …
    pub subject: Option<String>,
    /// Rows of the page, 50 unless told, at most 500.
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub after: Option<String>,
}

fn limit(state: &HttpState) -> BodyLimit {
    BodyLimit { bytes: NAMED_BYTES, time: state.body_timeout(), instead: "name fewer messages at once" }
}

#[utoipa::path(get, path = "/v1/messages/{message}/why", tag = "checklist",
    params(("message" = String, Path, description = "`<batch id>.<seq>`")), responses(
    (status = 200, body = WhyMessage, description = "The gates in the order in which they are asked, which one stops it, since when, until when, and what a person can do"),
    (status = 404, body = Errors)))]
pub(super) async fn why_message(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(message): Path<String>,
) -> Result<Json<WhyMessage>, ApiError> {
    let key = id(&message, "message")?;
    let found = checklist::why_message(&state.store, &state.providers, caller.tenant, key).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("message"))
}

#[utoipa::path(get, path = "/v1/batches/{batch}/why", tag = "checklist", params(("batch" = Uuid, Path)), responses(
    (status = 200, body = WhyBatch, description = "The same of the batch's next message, with what is left of the batch"),
    (status = 404, body = Errors)))]
pub(super) async fn why_batch(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(batch): Path<String>,
) -> Result<Json<WhyBatch>, ApiError> {
    let batch = id(&batch, "batch")?;
    let found = checklist::why_batch(&state.store, &state.providers, caller.tenant, batch).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("batch"))
}

#[utoipa::path(post, path = "/v1/resends", tag = "failures", request_body = ResendRequest, responses(
    (status = 200, body = ResendDone, description = "What is sent again as new messages, when, and what is not and why; with `dry_run` what would be"),
    (status = 422, body = Errors, description = "No filter, no reason, an unknown number, or a cap out of range")))]
pub(super) async fn resend(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ResendDone>, ApiError> {
    let request: ResendRequest = json(&read(&headers, body, limit(&state)).await?)?;
    let snapshot = current(&state).await?;
    let (small_batch, canary) = state.intake.sizes();
    let (store, providers) = (&state.store, &state.providers);
    let means = ResendMeans { store, providers, snapshot: &snapshot, small_batch, canary };
    let done = checklist::resend(means, caller.tenant, &person(&caller), &request).await?;
    if done.id.is_some() {
        state.intake.woken(done.numbers.iter().copied().collect());
        tracing::warn!(
            token.name = caller.name,
            messages = done.resent,
            reason = request.reason,
            "failed messages are sent again"
        );
    }
    Ok(Json(done))
}

#[utoipa::path(post, path = "/v1/failures/acknowledge", tag = "failures", request_body = AcknowledgeRequest, responses(
    (status = 200, body = Acknowledged, description = "They leave the list of failures unless `all` is asked for"),
    (status = 422, body = Errors, description = "No filter, no note, or an unknown number")))]
pub(super) async fn acknowledge(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Acknowledged>, ApiError> {
    let request: AcknowledgeRequest = json(&read(&headers, body, limit(&state)).await?)?;
    let done = checklist::acknowledge(&state.store, caller.tenant, &person(&caller), &request).await?;
    tracing::info!(
        token.name = caller.name,
        messages = done.acknowledged,
        note = request.note,
        "failures were acknowledged"
    );
    Ok(Json(done))
}

#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(ActQuery), responses(
    (status = 200, body = Page<ActRow>, description = "What people did, the latest first: token, when, reason, filter, count"),
    (status = 422, body = Errors, description = "Not a cursor")))]
pub(super) async fn audit(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<ActQuery>,
) -> Result<Json<Page<ActRow>>, ApiError> {
    let which = (query.act, query.subject);
    let list = checklist::list_acts(&state.store, caller.tenant, which, query.limit, query.after.as_deref());
    Ok(Json(list.await?))
}
