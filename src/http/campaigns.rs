//! Campaigns: applied, looked at, run, tested, paused, resumed, archived, cancelled.

mod shown;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use chrono::Utc;
use uuid::Uuid;

use self::shown::{ApplyQuery, ListQuery, NextQuery, OccurrenceQuery};
pub use self::shown::{CampaignInfo, NextFiring, Resumed, TestRequest};

use crate::{
    campaigns::{
        self, Audience, CampaignDocument, CampaignError, Change, Changed, Definition, Flaw, Means, RunRequest,
    },
    domain::{act::Act, campaign::CampaignState},
    http::{
        HttpState,
        changes::{current, record, small},
        error::{ApiError, Errors},
        extract::{Asked, json, read},
        jobs::{give, job_limit, problem},
    },
    intake::JobAnswer,
    registry::{Problem, tokens::Caller},
    store::{
        self,
        campaigns::{
            Campaign, Person,
            batches::UnderWay,
            occurrences::{self as rows, OccurrenceRow},
        },
        registry::Snapshot,
    },
};

/// Firings that `next` tells unless asked, and at most.
const NEXT: usize = 10;
const NEXT_MOST: usize = 100;
/// Occurrences of a page, and at most.
const ROWS: i64 = 50;
const ROWS_MOST: i64 = 500;
/// Numbers that a test may go to.
const TEST_NUMBERS: usize = 5;

/// Whoever holds the token.
pub(super) fn person(caller: &Caller) -> Person {
    Person { name: caller.name.clone(), token: caller.id }
}

impl From<CampaignError> for ApiError {
    fn from(error: CampaignError) -> Self {
        match error {
            CampaignError::Refused(flaws) => refused(flaws.into_iter().map(told)),
            CampaignError::Unknown => Self::not_found("campaign"),
            CampaignError::Conflict { code, reason } => Self::whole(StatusCode::CONFLICT, code, reason),
            CampaignError::Store(error) => error.into(),
        }
    }
}

fn refused(problems: impl IntoIterator<Item = Problem>) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, problems.into_iter().collect())
}

/// A stored document that this version does not understand.
pub(super) fn refused_document(flaws: Vec<Flaw>) -> ApiError {
    refused(flaws.into_iter().map(told))
}

fn told(flaw: Flaw) -> Problem {
    let Flaw { pointer, code, reason, did_you_mean } = flaw;
    Problem { pointer, code: code.to_owned(), reason, did_you_mean }
}

#[utoipa::path(put, path = "/v1/campaigns/{key}", tag = "campaigns", params(("key" = String, Path), ApplyQuery),
    request_body = CampaignDocument, responses(
    (status = 200, body = Changed, description = "It is so now; applying it again changes nothing"),
    (status = 409, body = Errors, description = "It is archived"),
    (status = 422, body = Errors, description = "Nothing was changed; every reason")))]
pub(super) async fn apply(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    Asked(query): Asked<ApplyQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Changed>, ApiError> {
    let document: CampaignDocument = json(&read(&headers, body, job_limit(&state)).await?)?;
    if document.key != key {
        let reason = format!("is `{}`, and the path says `{key}`", document.key);
        return Err(refused([Problem::new("/key", "contradiction", reason)]));
    }
    let snapshot = current(&state).await?;
    let definition = campaigns::read(document).map_err(|flaws| refused(flaws.into_iter().map(told)))?;
    let producer = producer(&snapshot, &caller, &definition.document)?;
    check(&state, &caller, &definition, &producer).await?;
    let by = person(&caller);
    let changed = campaigns::apply(means(&state, &caller, &by), &definition, &producer, query.dry_run).await?;
    if !query.dry_run && changed.change != Change::Unchanged {
        record(&state, &caller, Act::CampaignApply, format!("campaign:{key}"), ("", 1)).await?;
    }
    tracing::info!(token.name = caller.name, campaign.key = key, change = %changed.change, "a campaign was applied");
    Ok(Json(changed))
}

fn means<'a>(state: &'a HttpState, caller: &Caller, by: &'a Person) -> Means<'a> {
    let approval_over = state.campaigns.approval_over;
    Means { store: &state.store, tenant: caller.tenant, by, approval_over }
}

/// Who the jobs are published for. It must be registered: firings take the road of the broker.
fn producer(snapshot: &Snapshot, caller: &Caller, document: &CampaignDocument) -> Result<String, ApiError> {
    let mut mine: Vec<&str> = snapshot
        .producers
        .iter()
        .filter(|(_, tenant)| **tenant == caller.tenant)
        .map(|(name, _)| name.as_str())
        .collect();
    mine.sort_unstable();
    let named = document.producer.as_deref().or(caller.producer.as_deref());
    let refuse = |problem| Err(refused([problem]));
    match (named, mine.as_slice()) {
        (Some(name), _) if mine.contains(&name) => Ok(name.to_owned()),
        (Some(name), _) => {
            let reason = format!("no producer `{name}` is registered");
            refuse(Problem::new("/producer", "unknown_producer", reason).near(name, mine))
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, []) => {
            let reason = "no producer is registered: `tokens create --producer NAME` registers one";
            refuse(Problem::new("/producer", "no_producer", reason))
        }
        (None, several) => {
            let reason = format!("is missing, and there are several: {}", several.join(", "));
            refuse(Problem::new("/producer", "missing_field", reason))
        }
    }
}

/// Lets intake check what a firing would publish. A document is written by people: one bad recipient refuses it. The
/// members of an audience group are another matter: who they are is decided at each firing, and it may be filled until then.
async fn check(state: &HttpState, caller: &Caller, definition: &Definition, producer: &str) -> Result<(), ApiError> {
    let document = &definition.document;
    let expires_at = Utc::now() + definition.rules.expires_after;
    let job = document.job(producer, &format!("dry-run:{}", Uuid::new_v4()), None, expires_at);
    let answer = give(state, caller, job.to_string().into(), true).await?;
    let place = |mut problem: Problem| {
        if problem.pointer.starts_with("/recipients") {
            problem.pointer.insert_str(0, "/audience");
        }
        problem
    };
    let is_group = matches!(document.audience, Audience::Group(_));
    let problems: Vec<Problem> = match answer {
        JobAnswer::Accepted(_) if is_group => Vec::new(),
        JobAnswer::Rejected(rejected) if rejected.errors.iter().any(|error| error.code == "empty_audience") => {
            Vec::new()
        }
        JobAnswer::Accepted(accepted) => {
            accepted.rejections.into_iter().map(|rejection| place(problem(rejection.into()))).collect()
        }
        JobAnswer::Rejected(rejected) => rejected.errors.into_iter().map(|error| place(problem(error))).collect(),
    };
    if problems.is_empty() { Ok(()) } else { Err(refused(problems)) }
}

#[utoipa::path(get, path = "/v1/campaigns", tag = "campaigns", params(ListQuery), responses(
    (status = 200, body = Vec<CampaignInfo>, description = "By key")))]
pub(super) async fn list(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<Vec<CampaignInfo>>, ApiError> {
    let rows = store::campaigns::list(&mut *state.store.acquire().await?, caller.tenant, query.all).await?;
    Ok(Json(rows.into_iter().map(info).collect()))
}

fn info(campaign: Campaign) -> CampaignInfo {
    CampaignInfo {
        key: campaign.key,
        state: campaign.state,
        producer: campaign.producer,
        next_fire_at: campaign.next_fire_at,
        applied_by: campaign.applied_by.name,
        applied_at: campaign.applied_at,
        changed_by: campaign.changed_by,
        changed_at: campaign.changed_at,
        document: campaign.document,
    }
}

pub(super) async fn find(state: &HttpState, caller: &Caller, key: &str) -> Result<Campaign, ApiError> {
    let found = store::campaigns::find(&mut *state.store.acquire().await?, caller.tenant, key).await?;
    found.ok_or_else(|| ApiError::not_found("campaign"))
}

#[utoipa::path(get, path = "/v1/campaigns/{key}", tag = "campaigns", params(("key" = String, Path)), responses(
    (status = 200, body = CampaignInfo), (status = 404, body = Errors)))]
pub(super) async fn show(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Result<Json<CampaignInfo>, ApiError> {
    Ok(Json(info(find(&state, &caller, &key).await?)))
}

#[utoipa::path(get, path = "/v1/campaigns/{key}/next", tag = "campaigns", params(("key" = String, Path), NextQuery), responses(
    (status = 200, body = Vec<NextFiring>, description = "By the schedule, as if it were not paused"), (status = 404, body = Errors)))]
pub(super) async fn next(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    Asked(query): Asked<NextQuery>,
) -> Result<Json<Vec<NextFiring>>, ApiError> {
    let campaign = find(&state, &caller, &key).await?;
    let count = query.count.unwrap_or(NEXT).min(NEXT_MOST);
    if campaign.state == CampaignState::Archived {
        return Ok(Json(Vec::new()));
    }
    let rules = Definition::stored(campaign.document).map_err(refused_document)?.rules;
    let mut after = campaign.now;
    let firings = std::iter::from_fn(|| {
        let firing = rules.next(after)?;
        after = firing.at;
        Some(NextFiring {
            utc: firing.at,
            local: firing.at.with_timezone(&rules.zone).to_rfc3339(),
            wall: firing.wall,
            daylight_saving: firing.shift,
        })
    });
    Ok(Json(firings.take(count).collect()))
}

#[utoipa::path(get, path = "/v1/campaigns/{key}/occurrences", tag = "campaigns",
    params(("key" = String, Path), OccurrenceQuery), responses(
    (status = 200, body = Vec<OccurrenceRow>, description = "The newest first, also those that were skipped"),
    (status = 404, body = Errors)))]
pub(super) async fn occurrences(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    Asked(query): Asked<OccurrenceQuery>,
) -> Result<Json<Vec<OccurrenceRow>>, ApiError> {
    let campaign = find(&state, &caller, &key).await?;
    let limit = query.limit.unwrap_or(ROWS).clamp(1, ROWS_MOST);
    Ok(Json(rows::list(&mut *state.store.acquire().await?, campaign.id, query.before, limit).await?))
}

#[utoipa::path(post, path = "/v1/campaigns/{key}/run", tag = "campaigns", params(("key" = String, Path)),
    request_body = RunRequest, responses(
    (status = 202, body = OccurrenceRow, description = "It fires now, or waits for an earlier firing (`overlap`)"),
    (status = 404, body = Errors), (status = 409, body = Errors, description = "Paused, archived, or an earlier firing still sends")))]
pub(super) async fn run(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<OccurrenceRow>), ApiError> {
    let body = read(&headers, body, small(&state)).await?;
    let request: RunRequest = if body.is_empty() { RunRequest::default() } else { json(&body)? };
    let by = person(&caller);
    let row = campaigns::run(means(&state, &caller, &by), &key, &request).await?;
    state.intake.outbox_nudge().notify_one();
    let subject = format!("campaign:{key}");
    record(&state, &caller, Act::CampaignRun, subject, ("", 1)).await?;
    tracing::info!(token.name = caller.name, campaign.key = key, run = row.run, "a campaign was run");
    Ok((StatusCode::ACCEPTED, Json(row)))
}

#[utoipa::path(post, path = "/v1/campaigns/{key}/test", tag = "campaigns", params(("key" = String, Path)),
    request_body = TestRequest, responses(
    (status = 202, body = JobAnswer, description = "Sent like any job, at most to five; counts for no campaign"),
    (status = 404, body = Errors), (status = 422, body = Errors)))]
pub(super) async fn test(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<JobAnswer>), ApiError> {
    let request: TestRequest = json(&read(&headers, body, small(&state)).await?)?;
    if request.to.is_empty() || request.to.len() > TEST_NUMBERS {
        let reason = format!("a test goes to 1 to {TEST_NUMBERS} recipients");
        return Err(refused([Problem::new("/to", "too_many_recipients", reason)]));
    }
    let campaign = find(&state, &caller, &key).await?;
    let document: CampaignDocument = serde_json::from_value(campaign.document)
        .map_err(|error| refused([Problem::new("", "invalid", error.to_string())]))?;
    let job_id = format!("test:{key}:{}", Uuid::new_v4().simple());
    let job = document.test_job(&campaign.producer, &job_id, &request.to, &request.params);
    match give(&state, &caller, job.to_string().into(), false).await? {
        JobAnswer::Rejected(rejected) => Err(refused(rejected.errors.into_iter().map(problem))),
        accepted @ JobAnswer::Accepted(_) => {
            let subject = format!("campaign:{key}");
            record(&state, &caller, Act::CampaignTest, subject, ("", request.to.len())).await?;
            Ok((StatusCode::ACCEPTED, Json(accepted)))
        }
    }
}

#[utoipa::path(post, path = "/v1/campaigns/{key}/pause", tag = "campaigns", params(("key" = String, Path)), responses(
    (status = 200, body = UnderWay, description = "It fires no more, and its batches wait within a second"),
    (status = 404, body = Errors), (status = 409, body = Errors)))]
pub(super) async fn pause(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Result<Json<UnderWay>, ApiError> {
    let by = person(&caller);
    let under_way = campaigns::pause(means(&state, &caller, &by), &key).await?;
    let subject = format!("campaign:{key}");
    record(&state, &caller, Act::CampaignPause, subject, ("", usize::try_from(under_way.batches).unwrap_or_default()))
        .await?;
    tracing::warn!(token.name = caller.name, campaign.key = key, "a person paused a campaign");
    Ok(Json(under_way))
}

#[utoipa::path(post, path = "/v1/campaigns/{key}/resume", tag = "campaigns", params(("key" = String, Path)), responses(
    (status = 200, body = Resumed, description = "It fires again, and what waited goes on; what it would have fired meanwhile is not made up for"),
    (status = 404, body = Errors), (status = 409, body = Errors)))]
pub(super) async fn resume(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Result<Json<Resumed>, ApiError> {
    let by = person(&caller);
    let batches = campaigns::resume(means(&state, &caller, &by), &key).await?;
    state.sweep();
    let subject = format!("campaign:{key}");
    record(&state, &caller, Act::CampaignResume, subject, ("", usize::try_from(batches).unwrap_or_default())).await?;
    tracing::info!(token.name = caller.name, campaign.key = key, "a person resumed a campaign");
    Ok(Json(Resumed { batches }))
}

#[utoipa::path(post, path = "/v1/campaigns/{key}/archive", tag = "campaigns", params(("key" = String, Path)), responses(
    (status = 204, description = "It never fires again; what it has fired stays as it is"),
    (status = 404, body = Errors)))]
pub(super) async fn archive(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    let by = person(&caller);
    campaigns::archive(means(&state, &caller, &by), &key).await?;
    let subject = format!("campaign:{key}");
    record(&state, &caller, Act::CampaignArchive, subject, ("", 1)).await?;
    tracing::warn!(token.name = caller.name, campaign.key = key, "a person archived a campaign");
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/v1/campaigns/{key}/cancel", tag = "campaigns", params(("key" = String, Path)), responses(
    (status = 200, body = UnderWay, description = "It never fires again, and what it has fired and not sent is given up"),
    (status = 404, body = Errors)))]
pub(super) async fn cancel(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Result<Json<UnderWay>, ApiError> {
    let by = person(&caller);
    let under_way = campaigns::cancel(means(&state, &caller, &by), &key).await?;
    state.sweep();
    let subject = format!("campaign:{key}");
    record(&state, &caller, Act::CampaignCancel, subject, ("", usize::try_from(under_way.batches).unwrap_or_default()))
        .await?;
    tracing::warn!(token.name = caller.name, campaign.key = key, "a person cancelled a campaign");
    Ok(Json(under_way))
}
