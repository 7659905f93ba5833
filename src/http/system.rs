//! What machines ask: alive, ready, metrics, the contract. No token, and nothing that is anybody's.

use std::borrow::Cow;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};

use crate::http::{HttpState, openapi};

/// One thing a process needs to do its work.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Check {
    /// What.
    #[schema(value_type = String)]
    pub name: Cow<'static, str>,
    /// Whether it is there.
    pub ok: bool,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

pub(super) async fn alive() -> &'static str {
    "ok\n"
}

pub(super) async fn ready(State(state): State<HttpState>) -> impl IntoResponse {
    let checks = (state.readiness)().await;
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": ready, "checks": checks })))
}

pub(super) async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], state.metrics.render())
}

pub(super) async fn contract() -> impl IntoResponse {
    Json(openapi::document())
}
