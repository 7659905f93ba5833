//! The control API under `/_sim/`: what happened, and what shall happen.
//!
//! | call | does |
//! |---|---|
//! | `GET /_sim/healthz` | 200 once it listens |
//! | `GET /_sim/clock` | the ledger's time now, in milliseconds since the start |
//! | `GET /_sim/ledger` | [`crate::simulator::LedgerReport`] |
//! | `GET /_sim/ledger/messages?after=&limit=&accepted=` | accepted calls as NDJSON; `accepted=2` lists doubles only |
//! | `GET /_sim/ledger/arrivals?number=ID` | every arrival of a number as NDJSON |
//! | `GET /_sim/callbacks` | owed, sent, acknowledged by account |
//! | `PUT /_sim/webhooks` | `{"<waba id>": "http://…"}`; `null` clears |
//! | `GET`, `POST`, `DELETE /_sim/faults`, `DELETE /_sim/faults/{id}` | faults in force |
//! | `PUT /_sim/settings` | `{"suffix_faults"?, "delay_ms"?, "read_share"?, "withhold_callbacks"?}` |
//! | `PUT /_sim/numbers` | `{"<id>": {"limit"?: N or 0 for unlimited, "status"?}}` |
//! | `POST /_sim/stalls` | `{"ms": N}`: the network before it stood still for so long until now; not judged |
//! | `POST /_sim/reset` | forgets what happened; webhooks, faults and settings stay |

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use futures_util::stream;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::simulator::{
    Fault, LedgerReport, Simulator, SimulatorError, answer, locked, report,
    stalls::{millis, nanos},
    write_locked,
};

type Shared = State<Arc<Simulator>>;

/// All routes; what is none of them is a call to the provider.
pub(super) fn router(simulator: Arc<Simulator>) -> Router {
    Router::new()
        .route("/_sim/healthz", get(async || "ok\n"))
        .route("/_sim/clock", get(clock))
        .route("/_sim/ledger", get(ledger))
        .route("/_sim/ledger/messages", get(messages))
        .route("/_sim/ledger/arrivals", get(arrivals))
        .route("/_sim/callbacks", get(callbacks))
        .route("/_sim/webhooks", put(set_webhooks))
        .route("/_sim/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/_sim/faults/{id}", delete(remove_fault))
        .route("/_sim/settings", put(set_settings))
        .route("/_sim/numbers", put(set_numbers))
        .route("/_sim/stalls", post(add_stall))
        .route("/_sim/reset", post(reset))
        .route("/_sim/{*rest}", axum::routing::any(async || (StatusCode::NOT_FOUND, "no such control\n")))
        .fallback(answer::call)
        .with_state(simulator)
}

impl IntoResponse for SimulatorError {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

async fn clock(State(simulator): Shared) -> String {
    format!("{:.3}\n", millis(simulator.clock.now()))
}

async fn ledger(State(simulator): Shared) -> Result<Json<LedgerReport>, StatusCode> {
    // Reading millions of arrivals must not delay the stamp of the next one.
    let read = tokio::task::spawn_blocking(move || report::ledger(&simulator)).await;
    read.map(Json).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paging {
    /// The first index to list.
    #[serde(default)]
    after: usize,
    /// Lines at most.
    limit: Option<usize>,
    /// Only messages accepted at least so often.
    #[serde(default)]
    accepted: u32,
}

/// A page is formatted in steps, each short enough not to hold up the calls.
async fn messages(State(simulator): Shared, Query(paging): Query<Paging>) -> Response {
    const STEP: usize = 1024;
    let start = (paging.after, paging.limit.unwrap_or(usize::MAX));
    let lines = stream::unfold((simulator, start), move |(simulator, (mut next, mut left))| async move {
        let records = simulator.ledger.page(next, STEP);
        if records.is_empty() || left == 0 {
            return None;
        }
        let mut text = String::with_capacity(records.len() * 240);
        for record in &records {
            if left > 0 && simulator.ledger.times_accepted(record.key) >= paging.accepted {
                left -= 1;
                text.push_str(&serde_json::to_string(&report::line(&simulator, next, record)).unwrap_or_default());
                text.push('\n');
            }
            next += 1;
        }
        Some((Ok::<_, Infallible>(text), (simulator, (next, left))))
    });
    ndjson(Body::from_stream(lines))
}

#[derive(Debug, Deserialize)]
struct OfNumber {
    number: String,
}

async fn arrivals(State(simulator): Shared, Query(of): Query<OfNumber>) -> Result<Response, SimulatorError> {
    let Some(number) = simulator.world.number(&of.number) else {
        return Err(SimulatorError::UnknownNumber(of.number));
    };
    let lines = stream::unfold((report::arrivals(number), 0), |(times, next)| async move {
        let step = times.get(next..(next + 4096).min(times.len())).filter(|step| !step.is_empty())?;
        let mut text = String::with_capacity(step.len() * 24);
        for &at in step {
            // Writing to a String cannot fail.
            writeln!(text, r#"{{"at_ms":{}}}"#, millis(at)).ok();
        }
        let next = next + step.len();
        Some((Ok::<_, Infallible>(text), (times, next)))
    });
    Ok(ndjson(Body::from_stream(lines)))
}

fn ndjson(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

async fn callbacks(State(simulator): Shared) -> Json<Value> {
    let accounts: BTreeMap<_, _> = simulator
        .world
        .accounts
        .iter()
        .map(|account| (&account.waba_id, json!({ "url": account.outbox.url(), "counts": account.outbox.counts() })))
        .collect();
    Json(json!({ "all": report::callbacks(&simulator), "accounts": accounts }))
}

async fn set_webhooks(
    State(simulator): Shared,
    Json(urls): Json<BTreeMap<String, Option<String>>>,
) -> Result<StatusCode, SimulatorError> {
    for (waba_id, url) in &urls {
        simulator.set_webhook(waba_id, url.as_deref())?;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn faults(State(simulator): Shared) -> Json<Value> {
    let rule = |(id, fault, done): (u64, Fault, u64)| json!({ "id": id, "done": done, "fault": fault });
    Json(simulator.faults.list().into_iter().map(rule).collect())
}

async fn add_fault(State(simulator): Shared, Json(fault): Json<Fault>) -> (StatusCode, Json<Value>) {
    (StatusCode::CREATED, Json(json!({ "id": simulator.faults.add(fault) })))
}

async fn clear_faults(State(simulator): Shared) -> Json<Value> {
    Json(json!({ "removed": simulator.faults.remove(None) }))
}

async fn remove_fault(State(simulator): Shared, Path(id): Path<u64>) -> Json<Value> {
    Json(json!({ "removed": simulator.faults.remove(Some(id)) }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    suffix_faults: Option<bool>,
    delay_ms: Option<u64>,
    read_share: Option<f64>,
    withhold_callbacks: Option<bool>,
}

async fn set_settings(State(simulator): Shared, Json(changes): Json<Changes>) -> StatusCode {
    if let Some(on) = changes.suffix_faults {
        simulator.suffix_faults.store(on, Ordering::Relaxed);
    }
    if let Some(withheld) = changes.withhold_callbacks {
        for account in &simulator.world.accounts {
            account.outbox.withhold(withheld);
        }
    }
    let mut telling = write_locked(&simulator.telling);
    telling.delay_ms = changes.delay_ms.unwrap_or(telling.delay_ms);
    telling.read_share = changes.read_share.unwrap_or(telling.read_share);
    StatusCode::NO_CONTENT
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NumberChanges {
    limit: Option<u32>,
    status: Option<String>,
}

async fn set_numbers(
    State(simulator): Shared,
    Json(numbers): Json<BTreeMap<String, NumberChanges>>,
) -> Result<StatusCode, SimulatorError> {
    for (id, changes) in numbers {
        let Some(number) = simulator.world.number(&id) else {
            return Err(SimulatorError::UnknownNumber(id));
        };
        let mut state = locked(&number.state);
        if let Some(limit) = changes.limit {
            state.limit = (limit > 0).then_some(limit);
        }
        if let Some(status) = changes.status {
            state.status = status.to_lowercase();
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stall {
    ms: u64,
}

/// A relay before the simulator bends what it sees as much as its own stalls do.
async fn add_stall(State(simulator): Shared, Json(stall): Json<Stall>) -> StatusCode {
    let now = simulator.clock.now();
    simulator.stalls.add(now.saturating_sub(nanos(Duration::from_millis(stall.ms))), now);
    StatusCode::NO_CONTENT
}

async fn reset(State(simulator): Shared) -> StatusCode {
    simulator.reset();
    StatusCode::NO_CONTENT
}
