//! What a person changes: holds, the registry, tokens. And the registry as it stands.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::{
    checklist,
    domain::{
        act::Act,
        hold::HoldScope,
        ids::{HoldId, TenantId},
    },
    http::{
        HttpState, campaigns,
        error::{ApiError, Errors},
        extract::{BodyLimit, id, json, read},
    },
    registry::{
        Problem,
        apply::{self, Applied, Became, RegistryUpdate},
        file::DEFAULT_TENANT,
        shown::{self, AccountInfo, NumberInfo, TemplateInfo},
        tokens::{self, Caller, NewlyMade, TokenInfo, TokenRequest},
    },
    store::{
        self,
        acts::{self, NewAct},
        holds_list::Closed,
        registry::Snapshot,
    },
};

const SMALL_BYTES: usize = 64 << 10;
const REGISTRY_BYTES: usize = 16 << 20;

/// Why a hold is closed.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CloseHold {
    /// For whoever asks later.
    pub reason: String,
}

/// What a person stops.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenHold {
    /// `everything`, `provider:<name>`, `portfolio:<tenant>/<name>`, `account:<id>`, `number:<id>`, `number:<id>:<lane>`,
    /// `template:<id>` or `batch:<id>`.
    pub scope: String,
    /// For whoever asks later.
    pub reason: String,
}

/// The hold that is open now.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub(super) struct OpenedHold {
    /// Its id, for closing it.
    pub id: i64,
}

#[utoipa::path(post, path = "/v1/holds", tag = "holds", request_body = OpenHold, responses(
    (status = 201, body = OpenedHold, description = "Open; nothing of the scope is sent from within a second on"),
    (status = 422, body = Errors)))]
pub(super) async fn open_hold(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<OpenedHold>), ApiError> {
    let OpenHold { scope, reason } = json(&read(&headers, body, small(&state)).await?)?;
    let refuse = |problem| Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, vec![problem]));
    let reason = given(&reason)?;
    let scope: HoldScope = match scope.trim().parse() {
        Ok(scope) => scope,
        Err(error) => return refuse(Problem::new("/scope", "no_scope", format!("`{scope}` {error}"))),
    };
    let snapshot = current(&state).await?;
    let everybody = speaks_for_everybody(&snapshot, caller.tenant);
    let by = campaigns::person(&caller);
    let why = (&by, reason);
    let Some(id) = checklist::open_hold(&state.store, &snapshot, caller.tenant, everybody, &scope, why).await? else {
        return refuse(Problem::new("/scope", "unknown", "there is no such thing that this token may hold"));
    };
    tracing::warn!(hold.id = id.0, hold.scope = %scope, token.name = caller.name, "a person opened a hold");
    Ok((StatusCode::CREATED, Json(OpenedHold { id: id.0 })))
}

/// Records what the caller did, after it was done.
pub(super) async fn record(
    state: &HttpState,
    caller: &Caller,
    act: Act,
    subject: String,
    (reason, count): (&str, usize),
) -> Result<(), ApiError> {
    let by = campaigns::person(caller);
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let act = NewAct { count, ..NewAct::on(caller.tenant, &by, act, subject, reason) };
    acts::record(&mut *state.store.acquire().await?, &act).await?;
    Ok(())
}

/// A reason that says something.
pub(super) fn given(reason: &str) -> Result<&str, ApiError> {
    let reason = reason.trim();
    if reason.is_empty() {
        let problem = Problem::new("/reason", "empty", "say why, for whoever asks later");
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, vec![problem]));
    }
    if reason.contains('\0') {
        let problem = Problem::new("/reason", "ill_formed", "must have no NUL");
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, vec![problem]));
    }
    Ok(reason)
}

pub(super) fn small(state: &HttpState) -> BodyLimit {
    BodyLimit { bytes: SMALL_BYTES, time: state.body_timeout(), instead: "such a request is small" }
}

#[utoipa::path(post, path = "/v1/holds/{hold}/close", tag = "holds", params(("hold" = i64, Path)), request_body = CloseHold, responses(
    (status = 204, description = "Closed; what waits is given back within seconds"),
    (status = 403, body = Errors, description = "An approval is another person's"),
    (status = 404, body = Errors), (status = 409, body = Errors, description = "Closed before")))]
pub(super) async fn close_hold(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(hold): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let hold = HoldId(id(&hold, "hold")?);
    let CloseHold { reason } = json(&read(&headers, body, small(&state)).await?)?;
    let reason = given(&reason)?;
    let everybody = speaks_for_everybody(&*current(&state).await?, caller.tenant);
    let by = campaigns::person(&caller);
    match checklist::close_hold(&state.store, caller.tenant, everybody, hold, &by, reason).await? {
        Closed::Now => {
            tracing::info!(hold.id = hold.0, token.name = caller.name, "a hold was closed");
            // What waits under it is given back at once.
            state.sweep();
            Ok(StatusCode::NO_CONTENT)
        }
        Closed::Before => Err(ApiError::whole(StatusCode::CONFLICT, "closed_before", "this hold is closed already")),
        Closed::Unknown => Err(ApiError::not_found("hold")),
        Closed::NotByYou => {
            let reason = "the token that started this may not let it through: another person's has to";
            Err(ApiError::whole(StatusCode::FORBIDDEN, "not_by_you", reason))
        }
    }
}

#[utoipa::path(post, path = "/v1/upkeep", tag = "system", responses(
    (status = 202, description = "Every repair is begun now: sweep, audit of the tallies, retention"),
    (status = 409, body = Errors, description = "This process does not have the role upkeep")))]
pub(super) async fn nudge_upkeep(State(state): State<HttpState>) -> Result<StatusCode, ApiError> {
    let Some(upkeep) = &state.upkeep else {
        let reason = "this process does not have the role upkeep: ask one that has";
        return Err(ApiError::whole(StatusCode::CONFLICT, "no_upkeep", reason));
    };
    upkeep.everything();
    Ok(StatusCode::ACCEPTED)
}

/// Holds on all tenants are closed by the tenant that runs the installation.
pub(super) fn speaks_for_everybody(snapshot: &Snapshot, tenant: TenantId) -> bool {
    snapshot.tenants.get(&tenant).is_some_and(|name| name == DEFAULT_TENANT)
}

/// The registry as it is now: another process may have changed it a moment ago.
pub(super) async fn current(state: &HttpState) -> Result<Arc<Snapshot>, ApiError> {
    state.directory.refresh().await?;
    Ok(state.directory.current())
}

#[utoipa::path(put, path = "/v1/registry", tag = "registry",
    request_body(content = Object, description = "`registry`: a registry file (registry.schema.json); `secrets`: values by name, by `<tenant>/<account>`"), responses(
    (status = 200, body = Applied, description = "What became of each object; applying twice changes nothing"),
    (status = 422, body = Errors, description = "Nothing was applied; every reason")))]
pub(super) async fn put_registry(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Applied>, ApiError> {
    let limit = BodyLimit { bytes: REGISTRY_BYTES, time: state.body_timeout(), instead: "apply it in parts" };
    let update: RegistryUpdate = json(&read(&headers, body, limit).await?)?;
    let means = apply::Means { store: &state.store, vault: state.directory.vault(), providers: &state.providers };
    let applied = apply::apply(means, caller.tenant, &update).await?;
    state.directory.refresh().await?;
    let count = applied.changes.len() - applied.count(Became::Unchanged);
    record(&state, &caller, Act::RegistryApply, "registry".to_owned(), ("", count)).await?;
    tracing::info!(token.name = caller.name, objects = applied.changes.len(), "the registry was applied");
    Ok(Json(applied))
}

#[utoipa::path(get, path = "/v1/accounts", tag = "registry", responses((status = 200, body = Vec<AccountInfo>)))]
pub(super) async fn accounts(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<AccountInfo>>, ApiError> {
    Ok(Json(shown::accounts(&*current(&state).await?, caller.tenant)))
}

#[utoipa::path(get, path = "/v1/accounts/{name}", tag = "registry", params(("name" = String, Path)), responses(
    (status = 200, body = AccountInfo), (status = 404, body = Errors)))]
pub(super) async fn account(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<AccountInfo>, ApiError> {
    let found = shown::account(&*current(&state).await?, caller.tenant, &name);
    found.map(Json).ok_or_else(|| ApiError::not_found("account"))
}

#[utoipa::path(get, path = "/v1/numbers", tag = "registry", responses((status = 200, body = Vec<NumberInfo>)))]
pub(super) async fn numbers(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<NumberInfo>>, ApiError> {
    let rates = store::leases::rates(&state.store).await?;
    Ok(Json(shown::numbers(&*current(&state).await?, caller.tenant, &rates)))
}

#[utoipa::path(get, path = "/v1/templates", tag = "registry", responses((status = 200, body = Vec<TemplateInfo>)))]
pub(super) async fn templates(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<TemplateInfo>>, ApiError> {
    Ok(Json(shown::templates(&*current(&state).await?, caller.tenant)))
}

#[utoipa::path(get, path = "/v1/templates/{id}", tag = "registry", params(("id" = i32, Path)), responses(
    (status = 200, body = TemplateInfo), (status = 404, body = Errors)))]
pub(super) async fn template(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(template): Path<String>,
) -> Result<Json<TemplateInfo>, ApiError> {
    let found = shown::template(&*current(&state).await?, caller.tenant, id(&template, "template")?);
    found.map(Json).ok_or_else(|| ApiError::not_found("template"))
}

#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenRequest, responses(
    (status = 201, body = NewlyMade, description = "The token is shown here and never again"),
    (status = 422, body = Errors)))]
pub(super) async fn create_token(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<NewlyMade>), ApiError> {
    let request: TokenRequest = json(&read(&headers, body, small(&state)).await?)?;
    let made = tokens::create(&state.store, Some(caller.tenant), &request).await?;
    record(&state, &caller, Act::TokenCreate, format!("token:{}", made.id), (request.name.trim(), 1)).await?;
    tracing::info!(token.name = caller.name, made = request.name, "a token was made");
    Ok((StatusCode::CREATED, Json(made)))
}

#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", responses((status = 200, body = Vec<TokenInfo>)))]
pub(super) async fn list_tokens(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<TokenInfo>>, ApiError> {
    Ok(Json(tokens::list(&state.store, caller.tenant).await?))
}

#[utoipa::path(delete, path = "/v1/tokens/{token}", tag = "tokens", params(("token" = Uuid, Path, description = "Its id")), responses(
    (status = 204, description = "Revoked; works nowhere after a second"), (status = 404, body = Errors)))]
pub(super) async fn revoke_token(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(token): Path<String>,
) -> Result<StatusCode, ApiError> {
    if tokens::revoke(&state.store, caller.tenant, id(&token, "token")?).await? {
        record(&state, &caller, Act::TokenRevoke, format!("token:{token}"), ("", 1)).await?;
        tracing::info!(token.name = caller.name, revoked = token, "a token was revoked");
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("token"))
    }
}
