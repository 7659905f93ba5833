//! Uncertain messages: listed, decided about by a person, and made when the database went back in time.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json as object;
use uuid::Uuid;

use crate::{
    checklist::{self, MessageQuery, Page, ResolveRequest, Resolved, UncertainMessage},
    domain::{act::Act, ids::MessageKey},
    http::{
        HttpState,
        campaigns::person,
        changes::{current, record, speaks_for_everybody},
        error::{ApiError, Errors},
        extract::{Asked, BodyLimit, json, read},
    },
    registry::{
        Problem,
        tokens::{Caller, Scope},
    },
    store::acts::{self, NewAct},
    upkeep::recover::{self, Recovered, Wish},
};

/// Five thousand ids and a reason.
const RESOLVE_BYTES: usize = 1 << 20;

/// Messages by name that the record of a decision lists.
const LISTED: usize = 100;

/// Which uncertain messages.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct UncertainQuery {
    /// Only of this batch.
    pub batch: Option<Uuid>,
    /// Only of this business number.
    pub number: Option<String>,
    /// Rows of the page, 50 unless told, at most 500.
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub after: Option<String>,
}

/// From when on the database may have lost what was done.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RecoverRequest {
    /// The last instant of which it surely knows everything; the hold names it.
    pub since: DateTime<Utc>,
    /// Only counts.
    #[serde(default)]
    pub dry_run: bool,
    /// `next` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

fn limit(state: &HttpState) -> BodyLimit {
    BodyLimit { bytes: RESOLVE_BYTES, time: state.body_timeout(), instead: "name fewer messages at once" }
}

#[utoipa::path(get, path = "/v1/uncertain", tag = "uncertain", params(UncertainQuery), responses(
    (status = 200, body = Page<UncertainMessage>, description = "Messages whose call nobody knows the outcome of; `due_at` is when the policy decides"),
    (status = 422, body = Errors, description = "Unknown number, or not a cursor")))]
pub(super) async fn list(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<UncertainQuery>,
) -> Result<Json<Page<UncertainMessage>>, ApiError> {
    let UncertainQuery { batch, number, limit, after } = query;
    let query = MessageQuery { batch, number, limit, after, ..MessageQuery::default() };
    Ok(Json(checklist::list_uncertain(&state.store, caller.tenant, query, caller.may(Scope::Pii)).await?))
}

#[utoipa::path(post, path = "/v1/uncertain/resolve", tag = "uncertain", request_body = ResolveRequest, responses(
    (status = 200, body = Resolved, description = "At most 20 000 messages a request; with `next` there are more"),
    (status = 422, body = Errors, description = "No filter, no reason, or an unknown number")))]
pub(super) async fn resolve(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Resolved>, ApiError> {
    let request: ResolveRequest = json(&read(&headers, body, limit(&state)).await?)?;
    let done = checklist::resolve(&state.store, caller.tenant, &caller.name, &request, state.rules).await?;
    if done.resolved > 0 {
        let by = person(&caller);
        let filter = object!({ "as": request.r#as, "batch": request.batch, "number": request.number, "evidence": request.evidence,
                             "messages": request.messages.as_ref().map(|named| named.iter().take(LISTED).collect::<Vec<_>>()) });
        let count = i64::try_from(done.resolved).unwrap_or(i64::MAX);
        let subject = "uncertain".to_owned();
        let act =
            NewAct { filter, count, ..NewAct::on(caller.tenant, &by, Act::Resolve, subject, request.reason.trim()) };
        acts::record(&mut *state.store.acquire().await?, &act).await?;
        tracing::info!(token.name = caller.name, decision = %request.r#as, messages = done.resolved, reason = request.reason,
            "uncertain messages were resolved");
    }
    Ok(Json(done))
}

#[utoipa::path(post, path = "/v1/recover", tag = "uncertain", request_body = RecoverRequest, responses(
    (status = 200, body = Recovered, description = "At most 20 000 messages a request; with `next` there are more"),
    (status = 403, body = Errors, description = "Not a token of the tenant that runs the installation"),
    (status = 422, body = Errors, description = "`since` lies ahead")))]
pub(super) async fn recover(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Recovered>, ApiError> {
    let request: RecoverRequest = json(&read(&headers, body, limit(&state)).await?)?;
    if !speaks_for_everybody(&*current(&state).await?, caller.tenant) {
        let reason = "this concerns all tenants: it needs a token of the tenant `default`";
        return Err(ApiError::whole(StatusCode::FORBIDDEN, "other_tenant", reason));
    }
    let refused = |field: &str, code: &str, reason: &str| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, vec![Problem::new(field, code, reason)])
    };
    if request.since > Utc::now() {
        return Err(refused("/since", "future", "nothing is lost that was not done yet: `since` lies ahead"));
    }
    let after = request.after.as_deref().map(str::parse::<MessageKey>).transpose();
    let after = after.map_err(|_| refused("/after", "invalid_cursor", "this is not `next` of an answer"))?;
    let wish = Wish { since: request.since, is_rehearsal: request.dry_run, after };
    let done = recover::recover(&state.store, state.rules, wish).await?;
    if done.marked > 0 {
        let subject = format!("since:{}", request.since.to_rfc3339());
        record(&state, &caller, Act::Recover, subject, ("", done.marked)).await?;
        tracing::warn!(token.name = caller.name, since = %request.since, messages = done.marked,
            "messages that may have been called on a lost timeline are uncertain now");
    }
    Ok(Json(done))
}
