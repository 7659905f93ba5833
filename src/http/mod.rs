//! The API: routes, tokens, limits, errors. What it answers is made by the stages; this is where the routes, the one
//! body of refusals and the limits are.
//!
//! As the outermost stage it calls intake, registry and checklist; nothing but `app` calls it.

mod audiences;
mod auth;
mod campaigns;
mod changes;
mod control;
mod error;
mod exports;
mod extract;
mod forecast;
mod imports;
mod jobs;
mod lists;
pub mod openapi;
mod operators;
mod status;
mod suppressions;
mod system;
mod trace;
mod uncertain;

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use futures_util::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

pub use audiences::{AudienceRequest, Removed};
pub use campaigns::{CampaignInfo, NextFiring, Resumed, TestRequest};
pub use error::{ApiError, Errors};
pub use status::{Status, Workers};
pub use suppressions::SuppressRequest;
pub use system::Check;

use crate::{
    broker::Broker,
    http::auth::Gate,
    intake::Intake,
    providers,
    registry::tokens::Scope,
    settings,
    store::{Store, messages::Rules, registry::Directory},
    upkeep::Nudge,
};

/// Longer than any list takes; a request that hangs is cut here.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// Says what the process needs and whether it is there.
pub type Readiness = Arc<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>;

/// What the API works on.
#[derive(Clone)]
pub struct HttpState {
    /// The database.
    pub store: Store,
    /// The registry.
    pub directory: Directory,
    /// Takes jobs; its lanes must be run.
    pub intake: Intake,
    /// The adapters.
    pub providers: providers::Registry,
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
    /// What `/readyz` asks.
    pub readiness: Readiness,
    /// Limits.
    pub settings: settings::Http,
    /// The largest job.
    pub inline_bytes: usize,
    /// How campaigns are taken.
    pub campaigns: settings::Campaigns,
    /// How changes of messages are made.
    pub rules: Rules,
    /// Wakes upkeep, where this process has it.
    pub upkeep: Option<Arc<Nudge>>,
    /// What says how full the queues are.
    pub broker: Broker,
}

impl fmt::Debug for HttpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpState").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl HttpState {
    /// What waits is settled or given back at once, where this process does that.
    fn sweep(&self) {
        if let Some(upkeep) = &self.upkeep {
            upkeep.sweep();
        }
    }

    fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.settings.body_timeout_s)
    }
}

/// The whole API but for the callbacks, which `app` adds.
pub fn router(state: HttpState) -> Router {
    let gate = Arc::new(Gate::new(state.store.clone(), state.settings.requests_per_s));
    let guarded = |scope: Scope, routes: Router<HttpState>| {
        routes.route_layer(from_fn_with_state((Arc::clone(&gate), scope), auth::admit))
    };
    let quick = Router::new()
        .merge(guarded(Scope::Read, read_routes()))
        .merge(guarded(Scope::Operate, operate_routes()))
        .merge(guarded(Scope::Admin, admin_routes()))
        .merge(guarded(Scope::Publish, publish_routes()))
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, ANSWER_WITHIN));
    Router::new()
        .merge(quick)
        // A file takes as long as it is large.
        .merge(guarded(Scope::Publish, upload_routes()))
        .merge(guarded(Scope::Read, export_routes()))
        .merge(guarded(Scope::Operate, Router::new().route("/v1/suppressions/import", post(suppressions::import))))
        .route("/healthz", get(system::alive))
        .route("/readyz", get(system::ready))
        .route("/metrics", get(system::metrics))
        .route("/openapi.json", get(system::contract))
        .fallback(async || ApiError::not_found("path; /openapi.json lists them"))
        .method_not_allowed_fallback(async || {
            ApiError::whole(
                StatusCode::METHOD_NOT_ALLOWED,
                "wrong_method",
                "this path takes another method; see /openapi.json",
            )
        })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(trace::trace))
        .with_state(state)
}

fn publish_routes() -> Router<HttpState> {
    Router::new()
        .route("/v1/jobs", post(jobs::submit))
        .route("/v1/forecast", post(forecast::of_job))
        .route("/v1/audiences", post(audiences::create))
        .route("/v1/audiences/{name}", delete(audiences::delete))
        .route("/v1/audiences/{name}/members", post(audiences::add).delete(audiences::empty))
        .route("/v1/audiences/{name}/members/{to}", delete(audiences::remove))
}

fn upload_routes() -> Router<HttpState> {
    Router::new()
        .route("/v1/imports", post(imports::create))
        .route("/v1/audiences/{name}/fill", post(audiences::fill))
        .route("/v1/audiences/{name}/numbers", post(audiences::numbers))
}

fn export_routes() -> Router<HttpState> {
    Router::new()
        .route("/v1/messages/export", get(exports::messages))
        .route("/v1/batches/export", get(exports::batches))
        .route("/v1/received/export", get(exports::received))
}

fn read_routes() -> Router<HttpState> {
    let routes: [(&str, MethodRouter<HttpState>); 36] = [
        ("/v1/status", get(status::status)),
        ("/v1/batches", get(lists::batches)),
        ("/v1/batches/{batch}", get(lists::batch)),
        ("/v1/batches/{batch}/rejected", get(lists::batch_rejected)),
        ("/v1/batches/{batch}/why", get(operators::why_batch)),
        ("/v1/messages", get(lists::messages)),
        ("/v1/messages/{message}", get(lists::message)),
        ("/v1/received", get(suppressions::received)),
        ("/v1/suppressions", get(suppressions::list)),
        ("/v1/messages/{message}/why", get(operators::why_message)),
        ("/v1/audit", get(operators::audit)),
        ("/v1/uncertain", get(uncertain::list)),
        ("/v1/failures", get(lists::failures)),
        ("/v1/reports", get(exports::report)),
        ("/v1/jobs/rejected", get(lists::rejected_jobs)),
        ("/v1/imports", get(imports::list)),
        ("/v1/imports/form", get(imports::empty_form)),
        ("/v1/imports/{import}", get(imports::find)),
        ("/v1/imports/{import}/rejected", get(imports::rejected_rows)),
        ("/v1/imports/{import}/changed", get(imports::changed_cells)),
        ("/v1/imports/{import}/report", get(imports::report)),
        ("/v1/holds", get(lists::holds)),
        ("/v1/holds/{hold}", get(lists::hold)),
        ("/v1/audiences", get(audiences::list)),
        ("/v1/audiences/{name}", get(audiences::show)),
        ("/v1/audiences/{name}/export", get(audiences::export::export)),
        ("/v1/campaigns", get(campaigns::list)),
        ("/v1/campaigns/{key}", get(campaigns::show)),
        ("/v1/campaigns/{key}/next", get(campaigns::next)),
        ("/v1/campaigns/{key}/forecast", get(forecast::of_campaign)),
        ("/v1/campaigns/{key}/occurrences", get(campaigns::occurrences)),
        ("/v1/accounts", get(changes::accounts)),
        ("/v1/accounts/{name}", get(changes::account)),
        ("/v1/numbers", get(changes::numbers)),
        ("/v1/templates", get(changes::templates)),
        ("/v1/templates/{id}", get(changes::template)),
    ];
    routes.into_iter().fold(Router::new(), |router, (path, method)| router.route(path, method))
}

fn operate_routes() -> Router<HttpState> {
    Router::new()
        .route("/v1/holds", post(changes::open_hold))
        .route("/v1/holds/{hold}/close", post(changes::close_hold))
        .route("/v1/batches/{batch}/pause", post(control::pause))
        .route("/v1/batches/{batch}/resume", post(control::resume))
        .route("/v1/batches/{batch}/cancel", post(control::cancel_batch))
        .route("/v1/messages/{message}/cancel", post(control::cancel_message))
        .route("/v1/failures/acknowledge", post(operators::acknowledge))
        .route("/v1/resends", post(operators::resend))
        .route("/v1/uncertain/resolve", post(uncertain::resolve))
        .route("/v1/suppressions", post(suppressions::add))
        .route("/v1/suppressions/{suppression}", delete(suppressions::remove))
        .route("/v1/campaigns/{key}", put(campaigns::apply))
        .route("/v1/campaigns/{key}/run", post(campaigns::run))
        .route("/v1/campaigns/{key}/test", post(campaigns::test))
        .route("/v1/campaigns/{key}/pause", post(campaigns::pause))
        .route("/v1/campaigns/{key}/resume", post(campaigns::resume))
        .route("/v1/campaigns/{key}/archive", post(campaigns::archive))
        .route("/v1/campaigns/{key}/cancel", post(campaigns::cancel))
}

fn admin_routes() -> Router<HttpState> {
    Router::new()
        .route("/v1/registry", put(changes::put_registry))
        .route("/v1/recover", post(uncertain::recover))
        .route("/v1/upkeep", post(changes::nudge_upkeep))
        .route("/v1/tokens", get(changes::list_tokens).post(changes::create_token))
        .route("/v1/tokens/{token}", delete(changes::revoke_token))
}

/// A panic is one request's misfortune; the hook has logged it.
fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    error::internal().into_response()
}
