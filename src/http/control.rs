//! Batches and messages that a person stops: paused, resumed, cancelled.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};

use crate::{
    domain::ids::{BatchId, MessageKey},
    http::{
        HttpState,
        campaigns::person,
        changes::{given, small},
        error::{ApiError, Errors},
        extract::{id, json, read},
    },
    registry::tokens::Caller,
    store::control::{self, Cancelled, Released, Stopped},
};

/// Why somebody stops something or lets it go on.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Because {
    /// For whoever asks later.
    pub reason: String,
}

async fn because(state: &HttpState, headers: &HeaderMap, body: Body) -> Result<String, ApiError> {
    let Because { reason } = json(&read(headers, body, small(state)).await?)?;
    Ok(given(&reason)?.to_owned())
}

#[utoipa::path(post, path = "/v1/batches/{batch}/pause", tag = "batches", params(("batch" = Uuid, Path)), request_body = Because, responses(
    (status = 200, body = Stopped, description = "Nothing of it is called from within a second on; `calling` were being called already"),
    (status = 404, body = Errors), (status = 422, body = Errors)))]
pub(super) async fn pause(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(batch): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Stopped>, ApiError> {
    let (batch, reason): (BatchId, _) = (id(&batch, "batch")?, because(&state, &headers, body).await?);
    let mut connection = state.store.acquire().await?;
    let stopped = control::pause(&mut connection, caller.tenant, batch, &person(&caller), &reason).await?;
    let stopped = stopped.ok_or_else(|| ApiError::not_found("batch"))?;
    tracing::warn!(token.name = caller.name, batch.id = %batch, reason, "a person paused a batch");
    Ok(Json(stopped))
}

#[utoipa::path(post, path = "/v1/batches/{batch}/resume", tag = "batches", params(("batch" = Uuid, Path)), request_body = Because, responses(
    (status = 200, body = Released, description = "It goes on, unless `holds` names others that are open on it"),
    (status = 404, body = Errors), (status = 422, body = Errors)))]
pub(super) async fn resume(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(batch): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Released>, ApiError> {
    let (batch, reason): (BatchId, _) = (id(&batch, "batch")?, because(&state, &headers, body).await?);
    let mut connection = state.store.acquire().await?;
    let released = control::resume(&mut connection, caller.tenant, batch, &person(&caller), &reason).await?;
    let released = released.ok_or_else(|| ApiError::not_found("batch"))?;
    state.sweep();
    tracing::info!(token.name = caller.name, batch.id = %batch, reason, "a person resumed a batch");
    Ok(Json(released))
}

#[utoipa::path(post, path = "/v1/batches/{batch}/cancel", tag = "batches", params(("batch" = Uuid, Path)), request_body = Because, responses(
    (status = 200, body = Stopped, description = "Given up for good: `waiting` are not sent, `calling` were being called already"),
    (status = 404, body = Errors), (status = 422, body = Errors)))]
pub(super) async fn cancel_batch(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(batch): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Stopped>, ApiError> {
    let (batch, reason): (BatchId, _) = (id(&batch, "batch")?, because(&state, &headers, body).await?);
    let mut connection = state.store.acquire().await?;
    let stopped = control::cancel_batch(&mut connection, caller.tenant, batch, &person(&caller), &reason).await?;
    let stopped = stopped.ok_or_else(|| ApiError::not_found("batch"))?;
    state.sweep();
    tracing::warn!(token.name = caller.name, batch.id = %batch, reason, "a person cancelled a batch");
    Ok(Json(stopped))
}

#[utoipa::path(post, path = "/v1/messages/{message}/cancel", tag = "batches",
    params(("message" = String, Path, description = "`<batch id>.<seq>`")), request_body = Because, responses(
    (status = 204, description = "It is not sent"), (status = 404, body = Errors),
    (status = 409, body = Errors, description = "It is being called, may have arrived, or has ended")))]
pub(super) async fn cancel_message(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(message): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let (key, reason): (MessageKey, _) = (id(&message, "message")?, because(&state, &headers, body).await?);
    let mut connection = state.store.acquire().await?;
    let conflict = |code: &str, reason: &str| Err(ApiError::whole(StatusCode::CONFLICT, code, reason));
    let by = person(&caller);
    match control::cancel_message(&mut connection, caller.tenant, key, (&by, &reason), state.rules).await? {
        Cancelled::Now => {
            tracing::warn!(token.name = caller.name, message.id = %key, reason, "a person cancelled a message");
            Ok(StatusCode::NO_CONTENT)
        }
        Cancelled::TooLate => conflict("too_late", "it is being called, or was called and may have arrived"),
        Cancelled::Ended => conflict("ended", "nothing is left to do for it: `messages show` says what became of it"),
        Cancelled::Unknown => Err(ApiError::not_found("message")),
    }
}
