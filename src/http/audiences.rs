//! Audience groups: made, looked at, filled, emptied, deleted, exported.

pub(super) mod export;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    checklist::{self, Page},
    domain::{Channel, address::Address, zones},
    http::{
        HttpState,
        changes::small,
        error::{ApiError, Errors},
        extract::{Asked, BodyLimit, json, pieces, read},
        jobs::problem,
        lists::PageQuery,
    },
    intake::{
        job::Recipient,
        members::{self, MembersError, MembersReport, Target, read_country},
    },
    registry::{Problem, tokens::Caller},
    store::{
        audiences::{self, AudienceRow, NewAudience},
        session::commit,
    },
};

/// Longest name.
const NAME_CHARS: usize = 64;
/// A request with as many members as it may have.
const MEMBERS_BYTES: usize = 1 << 20;

/// A group to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AudienceRequest {
    /// Names it within the tenant: 1 to 64 of a-z, 0-9, `.`, `_` and `-`.
    pub name: String,
    /// Which addresses it has: those of numbers on this channel.
    pub channel: Channel,
    /// The zone (IANA) of members that have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// ISO 3166 code of the country whose national numbers are understood, for example `JP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

/// Members to be added.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MembersRequest {
    /// At most 1 000. One whose address is in the group already replaces it.
    #[schema(value_type = Vec<Recipient>)]
    pub members: Vec<Value>,
}

/// How addresses are read.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct CountryQuery {
    /// Country of numbers that are not international, for example JP; the group's own unless told.
    pub country: Option<String>,
}

/// How many members are gone.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Removed {
    /// So many.
    pub removed: i64,
}

fn refused(problems: Vec<Problem>) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, problems)
}

impl From<MembersError> for ApiError {
    fn from(error: MembersError) -> Self {
        match error {
            MembersError::Refused(errors) => refused(errors.into_iter().map(problem).collect()),
            MembersError::Gone => Self::not_found("audience group any more"),
            MembersError::Store(error) => error.into(),
        }
    }
}

async fn find(state: &HttpState, caller: &Caller, name: &str) -> Result<AudienceRow, ApiError> {
    let found = audiences::find(&mut *state.store.acquire().await?, caller.tenant, name).await?;
    found.ok_or_else(|| ApiError::not_found("audience group"))
}

async fn target(state: &HttpState, caller: &Caller, name: &str, country: Option<&str>) -> Result<Target, ApiError> {
    let audience = find(state, caller, name).await?;
    Target::new(&audience, country).map_err(|error| refused(vec![problem(error)]))
}

/// All that is wrong with a group to be made.
fn flaws(request: &AudienceRequest) -> Vec<Problem> {
    let mut flaws = Vec::new();
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let AudienceRequest { name, time_zone, country, .. } = request;
    if name.is_empty() || name.len() > NAME_CHARS || !name.chars().all(is_name) || matches!(name.as_str(), "." | "..") {
        flaws.push(Problem::new("/name", "ill_formed", "must have 1 to 64 of a-z, 0-9, `.`, `_` and `-`"));
    }
    if let Some(unknown) = time_zone.as_deref().and_then(|zone| zones::named(zone).err()) {
        let mut flaw = Problem::new("/time_zone", "unknown_time_zone", unknown.to_string());
        flaw.did_you_mean = unknown.near();
        flaws.push(flaw);
    }
    flaws.extend(country.as_deref().and_then(|code| read_country(code).err()).map(problem));
    flaws
}

#[utoipa::path(post, path = "/v1/audiences", tag = "audiences", request_body = AudienceRequest, responses(
    (status = 201, body = AudienceRow, description = "It is there and has no members"),
    (status = 409, body = Errors, description = "The name is taken"), (status = 422, body = Errors)))]
pub(super) async fn create(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<AudienceRow>), ApiError> {
    let request: AudienceRequest = json(&read(&headers, body, small(&state)).await?)?;
    let flaws = flaws(&request);
    if !flaws.is_empty() {
        return Err(refused(flaws));
    }
    let country = request.country.map(|code| code.to_uppercase());
    let new = NewAudience {
        name: &request.name,
        channel: request.channel.as_str(),
        time_zone: request.time_zone.as_deref(),
        country: country.as_deref(),
    };
    let made = audiences::insert(&mut *state.store.acquire().await?, caller.tenant, &new).await?;
    let Some(made) = made else {
        let problem = Problem::new("/name", "taken", format!("there is an audience group `{}` already", request.name));
        return Err(ApiError::new(StatusCode::CONFLICT, vec![problem]));
    };
    tracing::info!(token.name = caller.name, audience.name = made.name, "an audience group was made");
    Ok((StatusCode::CREATED, Json(made)))
}

#[utoipa::path(get, path = "/v1/audiences", tag = "audiences", params(PageQuery), responses(
    (status = 200, body = Page<AudienceRow>, description = "By name")))]
pub(super) async fn list(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(page): Asked<PageQuery>,
) -> Result<Json<Page<AudienceRow>>, ApiError> {
    let list = checklist::list_audiences(&state.store, caller.tenant, page.limit, page.after.as_deref());
    Ok(Json(list.await?))
}

#[utoipa::path(get, path = "/v1/audiences/{name}", tag = "audiences", params(("name" = String, Path)), responses(
    (status = 200, body = AudienceRow), (status = 404, body = Errors)))]
pub(super) async fn show(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<AudienceRow>, ApiError> {
    Ok(Json(find(&state, &caller, &name).await?))
}

#[utoipa::path(post, path = "/v1/audiences/{name}/members", tag = "audiences", params(("name" = String, Path), CountryQuery),
    request_body = MembersRequest, responses(
    (status = 200, body = MembersReport, description = "The good ones are in; of the bad ones row, field and reason"),
    (status = 404, body = Errors), (status = 413, body = Errors), (status = 422, body = Errors)))]
pub(super) async fn add(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Asked(query): Asked<CountryQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<MembersReport>, ApiError> {
    let limit = BodyLimit {
        bytes: MEMBERS_BYTES,
        time: state.body_timeout(),
        instead: "fill the group from a file (POST /v1/audiences/{name}/fill)",
    };
    let request: MembersRequest = json(&read(&headers, body, limit).await?)?;
    let target = target(&state, &caller, &name, query.country.as_deref()).await?;
    let report = members::add(&state.store, target, &request.members).await?;
    tell(&caller, &name, &report);
    Ok(Json(report))
}

#[utoipa::path(post, path = "/v1/audiences/{name}/fill", tag = "audiences", params(("name" = String, Path), CountryQuery),
    request_body(content = String, content_type = "text/csv", description = "CSV or .xlsx, told apart by content: columns `to`, `ref`, `time_zone`, and one for each value; streamed, of any size"),
    responses(
    (status = 200, body = MembersReport, description = "The good rows are in; of the bad ones row, column and reason"),
    (status = 404, body = Errors), (status = 422, body = Errors, description = "Not such a file, or it broke off: it may be sent again")))]
pub(super) async fn fill(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Asked(query): Asked<CountryQuery>,
    body: Body,
) -> Result<Json<MembersReport>, ApiError> {
    let target = target(&state, &caller, &name, query.country.as_deref()).await?;
    let report = members::fill(&state.store, target, pieces(body, state.body_timeout())).await?;
    tell(&caller, &name, &report);
    Ok(Json(report))
}

#[utoipa::path(post, path = "/v1/audiences/{name}/numbers", tag = "audiences", params(("name" = String, Path), CountryQuery),
    request_body(content = String, content_type = "text/plain", description = "One number a line, or parted by commas or spaces; streamed, of any size"),
    responses(
    (status = 200, body = MembersReport, description = "The good numbers are in, and those that were stay as they are; of the bad ones line and reason"),
    (status = 404, body = Errors), (status = 422, body = Errors)))]
pub(super) async fn numbers(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Asked(query): Asked<CountryQuery>,
    body: Body,
) -> Result<Json<MembersReport>, ApiError> {
    let target = target(&state, &caller, &name, query.country.as_deref()).await?;
    let report = members::add_numbers(&state.store, target, pieces(body, state.body_timeout())).await?;
    tell(&caller, &name, &report);
    Ok(Json(report))
}

fn tell(caller: &Caller, name: &str, report: &MembersReport) {
    let MembersReport { added, replaced, bad, .. } = report;
    tracing::info!(
        token.name = caller.name,
        audience.name = name,
        added,
        replaced,
        bad,
        "an audience group was filled"
    );
}

#[utoipa::path(delete, path = "/v1/audiences/{name}/members/{to}", tag = "audiences",
    params(("name" = String, Path), ("to" = String, Path, description = "The address")), responses(
    (status = 204, description = "It is no member any more"),
    (status = 404, body = Errors, description = "No such group, or no such member")))]
pub(super) async fn remove(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path((name, to)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let audience = find(&state, &caller, &name).await?;
    let country = audience.country.as_deref().and_then(|code| read_country(code).ok());
    let parsed = audience.channel.parse().ok().and_then(|channel| Address::parse_in(channel, &to, country).ok());
    let Some(address) = parsed else {
        return Err(ApiError::not_found("member"));
    };
    let mut work = state.store.begin().await?;
    let is_removed = audiences::lock(&mut work, audience.id).await?
        && audiences::remove(&mut work, audience.id, address.as_str()).await?;
    if !is_removed {
        return Err(ApiError::not_found("member"));
    }
    commit(work, "remove a member of an audience").await?;
    tracing::info!(token.name = caller.name, audience.name = name, "a member was removed from an audience group");
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(delete, path = "/v1/audiences/{name}/members", tag = "audiences", params(("name" = String, Path)), responses(
    (status = 200, body = Removed, description = "It has no members any more; jobs that were taken keep theirs"),
    (status = 404, body = Errors)))]
pub(super) async fn empty(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Removed>, ApiError> {
    let audience = find(&state, &caller, &name).await?;
    let mut work = state.store.begin().await?;
    if !audiences::lock(&mut work, audience.id).await? {
        return Err(ApiError::not_found("audience group"));
    }
    let removed = audiences::empty(&mut work, audience.id).await?;
    commit(work, "empty an audience").await?;
    tracing::warn!(token.name = caller.name, audience.name = name, removed, "an audience group was emptied");
    Ok(Json(Removed { removed }))
}

#[utoipa::path(delete, path = "/v1/audiences/{name}", tag = "audiences", params(("name" = String, Path)), responses(
    (status = 204, description = "It is gone; jobs that were taken keep their recipients"),
    (status = 404, body = Errors), (status = 409, body = Errors, description = "A campaign that may still fire names it")))]
pub(super) async fn delete(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let audience = find(&state, &caller, &name).await?;
    let mut work = state.store.begin().await?;
    if !audiences::lock(&mut work, audience.id).await? {
        return Err(ApiError::not_found("audience group"));
    }
    // One that is applied at this moment is not seen: its firing is then refused and says why.
    let campaigns = audiences::campaigns_of(&mut work, caller.tenant, &name).await?;
    if !campaigns.is_empty() {
        let reason = format!("campaigns name it: {}; change or archive them first", campaigns.join(", "));
        return Err(ApiError::whole(StatusCode::CONFLICT, "in_use", reason));
    }
    let removed = audiences::empty(&mut work, audience.id).await?;
    audiences::delete(&mut work, audience.id).await?;
    commit(work, "delete an audience").await?;
    tracing::warn!(token.name = caller.name, audience.name = name, removed, "an audience group was deleted");
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_with_a_group_is_told_at_once() {
        let request = AudienceRequest {
            name: "VIP customers".to_owned(),
            channel: Channel::Whatsapp,
            time_zone: Some("Asia/Tokio".to_owned()),
            country: Some("XX".to_owned()),
        };
        let told = flaws(&request);
        let told: Vec<_> = told.iter().map(|flaw| (flaw.pointer.as_str(), flaw.code.as_str())).collect();
        let expected = [("/name", "ill_formed"), ("/time_zone", "unknown_time_zone"), ("/country", "unknown_country")];
        assert_eq!(told, expected);
        let good =
            AudienceRequest { name: "vip".to_owned(), time_zone: None, country: Some("jp".to_owned()), ..request };
        assert!(flaws(&good).is_empty());
    }
}
