//! `GET`: batches, messages, failures, refusals, holds.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, header},
};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    checklist::{
        self, AdvisedFailure, BatchQuery, Failures, Language, Message, MessageQuery, MessageWithAttempts, Page,
    },
    domain::ids::{BatchId, HoldId, MessageKey},
    http::{
        HttpState,
        error::{ApiError, Errors},
        extract::{Asked, id},
    },
    registry::tokens::{Caller, Scope},
    store::{
        checklist::{
            batches::BatchRow,
            refused::{RejectedJobRow, RejectedRecipientRow},
        },
        holds_list::HoldRow,
    },
};

/// A part of a list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Rows of the page, 50 unless told, at most 500.
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub after: Option<String>,
}

/// Which failures.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct FailureQuery {
    /// Only of this batch.
    pub batch: Option<Uuid>,
    /// Only of this business number.
    pub number: Option<String>,
    /// Also those that somebody has acknowledged.
    #[serde(default)]
    #[param(required = false)]
    pub all: bool,
    /// The language of the advice: en or ja; without it `Accept-Language` decides.
    #[param(inline)]
    pub lang: Option<Language>,
}

/// Which holds.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldQuery {
    /// Only open ones, or only closed ones.
    pub open: Option<bool>,
    /// Rows of the page, 50 unless told, at most 500.
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub after: Option<String>,
}

#[utoipa::path(get, path = "/v1/batches", tag = "checklist", params(BatchQuery), responses(
    (status = 200, body = Page<BatchRow>, description = "Batches with their tallies: the newest first; with `number` the latest due first"),
    (status = 422, body = Errors, description = "Unknown number, or not a cursor")))]
pub(super) async fn batches(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<BatchQuery>,
) -> Result<Json<Page<BatchRow>>, ApiError> {
    Ok(Json(checklist::list_batches(&state.store, caller.tenant, &query).await?))
}

#[utoipa::path(get, path = "/v1/batches/{batch}", tag = "checklist", params(("batch" = Uuid, Path)), responses(
    (status = 200, body = BatchRow), (status = 404, body = Errors)))]
pub(super) async fn batch(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(batch): Path<String>,
) -> Result<Json<BatchRow>, ApiError> {
    let found = checklist::find_batch(&state.store, caller.tenant, id(&batch, "batch")?).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("batch"))
}

#[utoipa::path(get, path = "/v1/batches/{batch}/rejected", tag = "checklist", params(("batch" = Uuid, Path), PageQuery), responses(
    (status = 200, body = Page<RejectedRecipientRow>), (status = 404, body = Errors)))]
pub(super) async fn batch_rejected(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(batch): Path<String>,
    Asked(page): Asked<PageQuery>,
) -> Result<Json<Page<RejectedRecipientRow>>, ApiError> {
    let (store, batch) = (&state.store, id(&batch, "batch")?);
    let found =
        checklist::list_rejected_recipients(store, caller.tenant, batch, page.limit, page.after.as_deref()).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("batch"))
}

#[utoipa::path(get, path = "/v1/messages", tag = "checklist", params(MessageQuery), responses(
    (status = 200, body = Page<Message>, description = "The latest due batch first; recipients are masked without the scope pii"),
    (status = 422, body = Errors, description = "Unknown number, no recipient's address, or not a cursor")))]
pub(super) async fn messages(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<MessageQuery>,
) -> Result<Json<Page<Message>>, ApiError> {
    let whole = caller.may(Scope::Pii);
    Ok(Json(checklist::list_messages(&state.store, caller.tenant, &query, whole).await?))
}

#[utoipa::path(get, path = "/v1/messages/{message}", tag = "checklist",
    params(("message" = String, Path, description = "`<batch id>.<seq>`")), responses(
    (status = 200, body = MessageWithAttempts), (status = 404, body = Errors)))]
pub(super) async fn message(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(message): Path<String>,
) -> Result<Json<MessageWithAttempts>, ApiError> {
    let key: MessageKey = id(&message, "message")?;
    let (store, whole) = (&state.store, caller.may(Scope::Pii));
    let found = checklist::find_message(store, &state.providers, caller.tenant, key, whole).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("message"))
}

#[utoipa::path(get, path = "/v1/failures", tag = "checklist", params(FailureQuery), responses(
    (status = 200, body = Vec<AdvisedFailure>, description = "Failures by code, the most frequent first, with advice"),
    (status = 422, body = Errors, description = "Unknown number")))]
pub(super) async fn failures(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<FailureQuery>,
    headers: HeaderMap,
) -> Result<Json<Vec<AdvisedFailure>>, ApiError> {
    let accepted = || {
        headers
            .get(header::ACCEPT_LANGUAGE)
            .and_then(|v| v.to_str().ok())
            .map_or_else(|| Language::accepted(""), Language::accepted)
    };
    let asked = Failures {
        number: query.number.as_deref(),
        batch: query.batch.map(BatchId),
        all: query.all,
        language: query.lang.unwrap_or_else(accepted),
    };
    Ok(Json(checklist::failures(&state.store, &state.providers, caller.tenant, asked).await?))
}

#[utoipa::path(get, path = "/v1/jobs/rejected", tag = "jobs", params(PageQuery), responses(
    (status = 200, body = Page<RejectedJobRow>, description = "Jobs that were refused whole, the newest first")))]
pub(super) async fn rejected_jobs(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(page): Asked<PageQuery>,
) -> Result<Json<Page<RejectedJobRow>>, ApiError> {
    let list = checklist::list_rejected_jobs(&state.store, caller.tenant, page.limit, page.after.as_deref());
    Ok(Json(list.await?))
}

#[utoipa::path(get, path = "/v1/holds/{hold}", tag = "holds", params(("hold" = i64, Path)), responses(
    (status = 200, body = HoldRow, description = "Why something is not being sent, and who or what ends it"), (status = 404, body = Errors)))]
pub(super) async fn hold(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(hold): Path<String>,
) -> Result<Json<HoldRow>, ApiError> {
    let found = checklist::find_hold(&state.store, caller.tenant, HoldId(id(&hold, "hold")?)).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("hold"))
}

#[utoipa::path(get, path = "/v1/holds", tag = "holds", params(HoldQuery), responses(
    (status = 200, body = Page<HoldRow>, description = "Why something is not being sent, the newest first")))]
pub(super) async fn holds(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<HoldQuery>,
) -> Result<Json<Page<HoldRow>>, ApiError> {
    let list = checklist::list_holds(&state.store, caller.tenant, query.open, query.limit, query.after.as_deref());
    Ok(Json(list.await?))
}
