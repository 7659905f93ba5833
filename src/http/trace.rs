//! One span and one id a request; never its body, its query or its token.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::Instrument as _;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id is not one, but somebody filling our log.
const ID_MAX: usize = 64;

/// Runs the request under its id: the caller's, when it is one, else a new one.
pub(super) async fn trace(request: Request, next: Next) -> Response {
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "unmatched".to_owned(), |p| p.as_str().to_owned());
    let method = request.method().as_str().to_owned();
    let id = request.headers().get(REQUEST_ID).filter(|id| is_id(id)).cloned().or_else(new_id);
    let shown = id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
    let span = tracing::info_span!("http.request", request.id = shown, http.method = method, http.route = route);
    let started = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.in_scope(|| {
        let duration_ms = started.elapsed().as_millis();
        if status.is_server_error() {
            tracing::warn!(http.status = status.as_u16(), duration_ms, "answered");
        } else {
            tracing::debug!(http.status = status.as_u16(), duration_ms, "answered");
        }
    });
    let labels = [("route", route), ("method", method), ("status", status.as_u16().to_string())];
    metrics::counter!("http_requests_total", &labels).increment(1);
    metrics::histogram!("http_request_seconds", &labels[..2]).record(started.elapsed().as_secs_f64());
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn is_id(id: &HeaderValue) -> bool {
    id.len() <= ID_MAX && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_')
}

fn new_id() -> Option<HeaderValue> {
    HeaderValue::try_from(uuid::Uuid::new_v4().to_string()).ok()
}
