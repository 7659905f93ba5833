//! Who calls, what they may, and how often.
//!
//! Tokens are found by their SHA-256, so the comparison takes the same time whatever was sent. A token that was found
//! is remembered for a second: that is how long a revoked one may still work. Tokens that were not found are not
//! remembered, so that guesses cannot fill the memory.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};
use uuid::Uuid;

use crate::{
    http::error::ApiError,
    registry::tokens::{self, Caller, Scope},
    store::{Store, StoreError},
};

const REMEMBERED: Duration = Duration::from_secs(1);
/// More tokens than an installation has; above it the memory is emptied.
const REMEMBERED_MAX: usize = 10_000;

/// The gate of the API.
#[derive(Debug)]
pub(super) struct Gate {
    store: Store,
    known: Mutex<HashMap<[u8; 32], (Instant, Caller)>>,
    limiter: DefaultKeyedRateLimiter<Uuid>,
}

impl Gate {
    pub(super) fn new(store: Store, requests_per_s: u32) -> Self {
        let quota = Quota::per_second(NonZeroU32::new(requests_per_s).unwrap_or(NonZeroU32::MIN));
        Self { store, known: Mutex::default(), limiter: RateLimiter::keyed(quota) }
    }

    async fn caller(&self, token: &str) -> Result<Option<Caller>, StoreError> {
        let hash = tokens::hash(token);
        if let Some(caller) = self.remembered(&hash) {
            return Ok(Some(caller));
        }
        let found = tokens::authenticate(&self.store, &hash).await?;
        if let Some(caller) = &found {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED_MAX {
                known.clear();
                self.limiter.retain_recent();
            }
            known.insert(hash, (Instant::now(), caller.clone()));
        }
        Ok(found)
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Caller> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, caller) = known.get(hash)?;
        (since.elapsed() < REMEMBERED).then(|| caller.clone())
    }

    async fn admit(&self, headers: &HeaderMap, scope: Scope) -> Result<Caller, ApiError> {
        let unauthorized = |code: &str, reason: &str| ApiError::whole(StatusCode::UNAUTHORIZED, code, reason);
        let Some(token) = bearer(headers) else {
            let reason = "send `Authorization: Bearer <token>`; `campaign-dispatch tokens create` makes one";
            return Err(unauthorized("no_token", reason));
        };
        let Some(caller) = self.caller(token).await? else {
            return Err(unauthorized("unknown_token", "this token does not exist or was revoked"));
        };
        if let Err(early) = self.limiter.check_key(&caller.id) {
            let wait = early.wait_time_from(governor::clock::DefaultClock::default().now());
            let reason = "this token asks more often than http.requests_per_s allows: wait as long as Retry-After says";
            let error = ApiError::whole(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", reason);
            return Err(error.retry_after(wait.as_secs().max(1)));
        }
        if !caller.may(scope) {
            let reason = format!("this needs a token with the scope `{scope}`");
            return Err(ApiError::whole(StatusCode::FORBIDDEN, "missing_scope", reason));
        }
        Ok(caller)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// Lets in who may do `scope`; handlers find them as `Extension<Caller>`.
pub(super) async fn admit(
    State((gate, scope)): State<(Arc<Gate>, Scope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = gate.admit(request.headers(), scope).await?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}
