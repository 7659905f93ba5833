//! Who must not be messaged, and what recipients wrote.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};

use crate::{
    checklist::{self, Page, ReceivedQuery, SuppressionQuery},
    domain::{Channel, act::Act, suppression::SuppressionScope},
    http::{
        HttpState,
        changes::{current, given, record},
        error::{ApiError, Errors},
        extract::{Asked, BodyLimit, id, json, pieces, read},
        jobs::problem,
    },
    intake::{
        members::read_country,
        suppressions::{self, SuppressionError, SuppressionReport, Terms},
    },
    registry::{
        Problem,
        tokens::{Caller, Scope},
    },
    store::{
        received::ReceivedRow,
        registry::Snapshot,
        suppressions::{Cover, Lifted, SuppressionRow, lift},
    },
};

/// A request with as many addresses as it may have.
const ADDRESSES_BYTES: usize = 1 << 20;

/// What of us recipients are spared.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct CoverRequest {
    /// marketing or account, of `account`; tenant: everything of all accounts. An opt-out from marketing stops no
    /// authentication and no utility message.
    #[param(inline)]
    pub scope: SuppressionScope,
    /// The account; none with the scope tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What the addresses are; that of the account unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub channel: Option<Channel>,
    /// ISO 3166 code of the country whose national numbers are understood, for example `JP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// For whoever asks later.
    pub reason: String,
}

/// Recipients who must not be messaged.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SuppressRequest {
    /// Their addresses, at most 1 000.
    pub to: Vec<String>,
    /// marketing or account, of `account`; tenant: everything of all accounts.
    pub scope: SuppressionScope,
    /// The account; none with the scope tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What the addresses are; that of the account unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// ISO 3166 code of the country whose national numbers are understood, for example `JP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// For whoever asks later.
    pub reason: String,
}

/// Why one is lifted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct LiftQuery {
    /// For whoever asks later.
    #[serde(default)]
    pub reason: String,
}

impl From<SuppressionError> for ApiError {
    fn from(error: SuppressionError) -> Self {
        match error {
            SuppressionError::Refused(errors) => refused(errors.into_iter().map(problem).collect()),
            SuppressionError::Store(error) => error.into(),
        }
    }
}

fn refused(problems: Vec<Problem>) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, problems)
}

fn wrong(pointer: &str, code: &str, reason: impl Into<String>) -> ApiError {
    refused(vec![Problem::new(pointer, code, reason)])
}

/// What is asked for, as far as the tenant has it.
fn terms(snapshot: &Snapshot, caller: &Caller, request: &CoverRequest) -> Result<Terms, ApiError> {
    let CoverRequest { scope, account, channel, country, reason } = request;
    let mine = || snapshot.accounts.values().filter(|known| known.tenant == caller.tenant);
    let (account, known) = match (scope, account) {
        (SuppressionScope::Tenant, None) => {
            let mut channels: Vec<Channel> = mine().map(|account| account.channel).collect();
            channels.sort_unstable();
            channels.dedup();
            (None, if channels.len() == 1 { channels.first().copied() } else { None })
        }
        (SuppressionScope::Tenant, Some(_)) => {
            return Err(wrong("/account", "not_with_tenant", "the scope tenant is about all accounts: name none"));
        }
        (SuppressionScope::Marketing | SuppressionScope::Account, None) => {
            return Err(wrong("/account", "missing_account", format!("the scope {scope} needs an account")));
        }
        (SuppressionScope::Marketing | SuppressionScope::Account, Some(name)) => {
            let found = mine().find(|account| account.name == *name).ok_or_else(|| {
                let problem = Problem::new("/account", "unknown_account", format!("there is no account `{name}`"));
                refused(vec![problem.near(name, mine().map(|account| account.name.as_str()))])
            })?;
            (Some(found.id), Some(found.channel))
        }
    };
    let channel = channel.or(known).ok_or_else(|| {
        wrong("/channel", "missing_channel", "the accounts are of several channels: say which the addresses are of")
    })?;
    let country = country.as_deref().map(read_country).transpose().map_err(|error| refused(vec![problem(error)]))?;
    let detail = format!("{}: {}", caller.name, given(reason)?);
    Ok(Terms { cover: Cover { tenant: caller.tenant, account, scope: *scope }, channel, country, detail })
}

async fn tell(
    state: &HttpState,
    caller: &Caller,
    request: &CoverRequest,
    report: &SuppressionReport,
) -> Result<(), ApiError> {
    let (SuppressionReport { added, bad, .. }, scope) = (report, request.scope);
    tracing::info!(token.name = caller.name, scope = %scope, added, bad, "recipients were suppressed");
    if *added == 0 {
        return Ok(());
    }
    let subject = request.account.as_ref().map_or_else(|| scope.to_string(), |account| format!("{scope}:{account}"));
    let count = usize::try_from(*added).unwrap_or(usize::MAX);
    record(state, caller, Act::Suppress, subject, (request.reason.trim(), count)).await
}

#[utoipa::path(post, path = "/v1/suppressions", tag = "suppressions", request_body = SuppressRequest, responses(
    (status = 200, body = SuppressionReport, description = "The good addresses are suppressed from the next claim on; of the bad ones place and reason"),
    (status = 413, body = Errors), (status = 422, body = Errors)))]
pub(super) async fn add(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SuppressionReport>, ApiError> {
    let instead = "send a file (POST /v1/suppressions/import)";
    let limit = BodyLimit { bytes: ADDRESSES_BYTES, time: state.body_timeout(), instead };
    let SuppressRequest { to, scope, account, channel, country, reason } = json(&read(&headers, body, limit).await?)?;
    let request = CoverRequest { scope, account, channel, country, reason };
    let snapshot = current(&state).await?;
    let terms = terms(&snapshot, &caller, &request)?;
    let report = suppressions::add(&state.store, &terms, &to).await?;
    tell(&state, &caller, &request, &report).await?;
    Ok(Json(report))
}

#[utoipa::path(post, path = "/v1/suppressions/import", tag = "suppressions", params(CoverRequest),
    request_body(content = String, content_type = "text/csv", description = "CSV or .xlsx, told apart by content: the column `to`, others are passed over; streamed, of any size"),
    responses(
    (status = 200, body = SuppressionReport, description = "The good rows are suppressed from the next claim on; of the bad ones row and reason"),
    (status = 422, body = Errors, description = "Not such a file, or it broke off: it may be sent again")))]
pub(super) async fn import(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(request): Asked<CoverRequest>,
    body: Body,
) -> Result<Json<SuppressionReport>, ApiError> {
    let snapshot = current(&state).await?;
    let terms = terms(&snapshot, &caller, &request)?;
    let report = suppressions::import(&state.store, &terms, pieces(body, state.body_timeout())).await?;
    tell(&state, &caller, &request, &report).await?;
    Ok(Json(report))
}

#[utoipa::path(get, path = "/v1/suppressions", tag = "suppressions", params(SuppressionQuery), responses(
    (status = 200, body = Page<SuppressionRow>, description = "The newest first, those in force unless `all`; recipients are masked without the scope pii"),
    (status = 422, body = Errors, description = "No recipient's address, or not a cursor")))]
pub(super) async fn list(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<SuppressionQuery>,
) -> Result<Json<Page<SuppressionRow>>, ApiError> {
    let whole = caller.may(Scope::Pii);
    Ok(Json(checklist::list_suppressions(&state.store, caller.tenant, &query, whole).await?))
}

#[utoipa::path(delete, path = "/v1/suppressions/{suppression}", tag = "suppressions",
    params(("suppression" = i64, Path), LiftQuery), responses(
    (status = 204, description = "Lifted; the row stays and says by whom and why. What was settled as suppressed stays so"),
    (status = 404, body = Errors), (status = 409, body = Errors, description = "Lifted before"),
    (status = 422, body = Errors, description = "No reason")))]
pub(super) async fn remove(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(suppression): Path<String>,
    Asked(query): Asked<LiftQuery>,
) -> Result<StatusCode, ApiError> {
    let (suppression, reason): (i64, _) = (id(&suppression, "suppression")?, given(&query.reason)?);
    let mut connection = state.store.acquire().await?;
    match lift(&mut connection, caller.tenant, suppression, &caller.name, reason).await? {
        Lifted::Unknown => Err(ApiError::not_found("suppression")),
        Lifted::Before => Err(ApiError::whole(StatusCode::CONFLICT, "lifted_before", "it was lifted before")),
        Lifted::Now => {
            tracing::warn!(
                suppression.id = suppression,
                token.name = caller.name,
                reason,
                "a person lifted a suppression"
            );
            record(&state, &caller, Act::Unsuppress, format!("suppression:{suppression}"), (reason, 1)).await?;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}

#[utoipa::path(get, path = "/v1/received", tag = "checklist", params(ReceivedQuery), responses(
    (status = 200, body = Page<ReceivedRow>, description = "What recipients wrote, the latest first; without the scope pii senders are masked and texts left out"),
    (status = 422, body = Errors, description = "Unknown number, no sender's address, or not a cursor")))]
pub(super) async fn received(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<ReceivedQuery>,
) -> Result<Json<Page<ReceivedRow>>, ApiError> {
    Ok(Json(checklist::list_received(&state.store, caller.tenant, &query, caller.may(Scope::Pii)).await?))
}
