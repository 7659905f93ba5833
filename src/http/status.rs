//! `GET /v1/status`: how it is, on one page.

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    broker::Depth,
    domain::alarm::Alarm,
    http::{
        HttpState,
        error::{ApiError, Errors},
        system::Check,
    },
    registry::tokens::Caller,
    store::{
        alarms,
        holds_list::{self, HoldRow},
        traffic,
    },
};

/// Numbers and holds that one page shows.
const SHOWN: i64 = 50;

/// How it is.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Status {
    /// Whether all that is needed is there and no alarm stands.
    pub healthy: bool,
    /// What this process needs.
    pub checks: Vec<Check>,
    /// What somebody must look at, the oldest first.
    pub alarms: Vec<Alarm>,
    /// Open holds, the newest first, at most 50.
    pub holds: Vec<HoldRow>,
    /// Numbers that send or hear, the busiest first, at most 50.
    pub rates: Vec<traffic::NumberRate>,
    /// Who sends for how many of the numbers.
    pub workers: Workers,
    /// What lies in the broker's queues; empty while it cannot be asked.
    pub queues: Vec<Depth>,
}

/// Who sends.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Workers {
    /// Processes that send.
    pub processes: i64,
    /// Business numbers.
    pub numbers: i64,
    /// Those that a living process sends for.
    pub served: i64,
}

#[utoipa::path(get, path = "/v1/status", tag = "status", responses(
    (status = 200, body = Status, description = "Health, alarms, holds, rates of the last minute and queues; `healthy` is false when something is missing or an alarm stands"),
    (status = 401, body = Errors)))]
pub(super) async fn status(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Status>, ApiError> {
    let mut checks = (state.readiness)().await;
    let depths = if state.broker.is_connected() { state.broker.depths().await.ok() } else { None };
    if let (None, Some(check)) = (&depths, checks.iter_mut().find(|check| check.name == "rabbitmq")) {
        // The process goes on without it; whoever asks how it is must hear of it.
        check.ok = false;
    }
    let mut connection = state.store.acquire().await?;
    let alarms = alarms::standing(&mut connection, Some(caller.tenant)).await?;
    let holds = holds_list::list(&mut connection, caller.tenant, Some(true), None, SHOWN).await?;
    let rates = traffic::rates(&mut connection, caller.tenant, SHOWN).await?;
    let (processes, numbers, served) = traffic::workers(&mut connection, caller.tenant).await?;
    let healthy = alarms.is_empty() && checks.iter().all(|check| check.ok);
    let workers = Workers { processes, numbers, served };
    Ok(Json(Status { healthy, checks, alarms, holds, rates, workers, queues: depths.unwrap_or_default() }))
}
