//! What would become of a job or of the next firing of a campaign.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    campaigns::Definition,
    domain::campaign::Decision,
    http::{
        HttpState,
        campaigns::{find, refused_document},
        error::{ApiError, Errors},
        extract::{json, read},
        jobs::{job_limit, problem, submission, unanswered},
    },
    intake::{
        JobAnswer,
        forecast::{Asked, Forecast, forecast_job},
        job::SendJob,
    },
    registry::{Problem, tokens::Caller},
};

/// What of a job decides when it is sent.
#[derive(Deserialize)]
struct Outline {
    business_number: String,
    template: crate::intake::job::TemplateRef,
    audience: Option<AudienceOutline>,
    send_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct AudienceOutline {
    import: Option<Uuid>,
}

#[utoipa::path(post, path = "/v1/forecast", tag = "jobs", request_body = SendJob, responses(
    (status = 200, body = Forecast, description = "What would become of it, published now; nothing is kept"),
    (status = 422, body = Errors, description = "It would be refused")))]
pub(super) async fn of_job(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Forecast>, ApiError> {
    let job: Value = json(&read(&headers, body, job_limit(&state)).await?)?;
    Ok(Json(forecast(&state, &caller, job).await?))
}

#[utoipa::path(get, path = "/v1/campaigns/{key}/forecast", tag = "campaigns", params(("key" = String, Path)), responses(
    (status = 200, body = Forecast, description = "Of its next firing; of one on demand, if it were run now"),
    (status = 404, body = Errors), (status = 409, body = Errors, description = "It will not fire, or no window opens"),
    (status = 422, body = Errors, description = "Its job would be refused")))]
pub(super) async fn of_campaign(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Result<Json<Forecast>, ApiError> {
    let campaign = find(&state, &caller, &key).await?;
    let Definition { document, rules } = Definition::stored(campaign.document).map_err(refused_document)?;
    let at = match &rules.timing {
        crate::domain::campaign::Timing::OnDemand => Some(campaign.now),
        _ => campaign.next_fire_at,
    };
    let Some(at) = at else {
        return Err(ApiError::whole(StatusCode::CONFLICT, "never_fires", "it will not fire again"));
    };
    let Decision::Fire { send_at, expires_at } = rules.begin(at, at, false) else {
        let reason = "no window opens while its messages would live: it would be skipped";
        return Err(ApiError::whole(StatusCode::CONFLICT, "window", reason));
    };
    let send_at = send_at.or((at > campaign.now).then_some(at));
    let job = document.job(&campaign.producer, &format!("forecast:{}", Uuid::new_v4()), send_at, expires_at);
    Ok(Json(forecast(&state, &caller, job).await?))
}

async fn forecast(state: &HttpState, caller: &Caller, job: Value) -> Result<Forecast, ApiError> {
    let (road, submission) = submission(state, caller, job.to_string().into(), true);
    let outlook = state.intake.outlook(road, &submission).await.map_err(unanswered)?;
    let answer = match outlook.answer {
        JobAnswer::Accepted(answer) => answer,
        JobAnswer::Rejected(rejected) => {
            let errors = rejected.errors.into_iter().map(problem).collect();
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, errors));
        }
    };
    let invalid =
        |reason: &str| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, vec![Problem::new("", "invalid", reason)]);
    let outline: Outline = serde_json::from_value(job).map_err(|error| invalid(&error.to_string()))?;
    let snapshot = state.directory.current();
    let route = snapshot.numbers_named(caller.tenant, &outline.business_number).find_map(|number| {
        let template = snapshot
            .templates_of(number.account.id)
            .find(|t| t.template.name == outline.template.name && t.template.language == outline.template.language)?;
        Some((number, template))
    });
    let (number, template) = route.ok_or_else(|| invalid("the registry was changed meanwhile: ask again"))?;
    let import = outline.audience.and_then(|audience| audience.import);
    let (send_at, expires_at) = (outline.send_at, outline.expires_at);
    let (canary, reach) = (outlook.canary, outlook.reach);
    let asked = Asked { answer, canary, number, template, import, send_at, expires_at, reach };
    Ok(forecast_job(&state.store, asked).await?)
}
