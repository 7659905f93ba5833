//! Refusals in the one body of the API: `{"errors":[{"pointer","code","reason","did_you_mean"}]}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::{
    checklist::ChecklistError,
    registry::{Problem, apply::ApplyError, tokens::TokenError},
    store::StoreError,
};

/// The body of every refusal.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Errors {
    /// All that is wrong.
    pub errors: Vec<Problem>,
}

/// A refusal on its way out.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    problems: Vec<Problem>,
    retry_after_s: Option<u64>,
}

impl ApiError {
    /// A refusal with these problems.
    pub fn new(status: StatusCode, problems: Vec<Problem>) -> Self {
        Self { status, problems, retry_after_s: None }
    }

    /// A refusal of the whole request.
    pub fn whole(status: StatusCode, code: &str, reason: impl Into<String>) -> Self {
        Self::new(status, vec![Problem::new("", code, reason)])
    }

    /// No such thing, or not of this tenant: the two look alike.
    pub fn not_found(what: &str) -> Self {
        Self::whole(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// The same, asking to come back later.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(Errors { errors: self.problems })).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        if error.is_transient() {
            tracing::warn!(%error, cause, "a request was answered with 503: the database is not reachable");
            let reason = "the database cannot be reached at the moment: nothing was done, try again";
            return Self::whole(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", reason).retry_after(1);
        }
        tracing::error!(%error, cause, "a request failed");
        internal()
    }
}

/// What is said of a fault of ours.
pub(super) fn internal() -> ApiError {
    let reason = "this is a fault of ours; the log has it under the x-request-id of this answer";
    ApiError::whole(StatusCode::INTERNAL_SERVER_ERROR, "internal", reason)
}

impl From<ChecklistError> for ApiError {
    fn from(error: ChecklistError) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        match error {
            ChecklistError::Store(error) => error.into(),
            ChecklistError::NotACursor => {
                Self::new(status, vec![Problem::new("/after", "invalid_cursor", error.to_string())])
            }
            ChecklistError::NotAnAddress { .. } => {
                Self::new(status, vec![Problem::new("/recipient", "invalid_recipient", error.to_string())])
            }
            ChecklistError::Refused { pointer, code, reason } => {
                Self::new(status, vec![Problem::new(pointer, code, reason)])
            }
            ChecklistError::UnknownNumber { ref given, ref known } => {
                let problem = Problem::new("/number", "unknown_number", error.to_string());
                Self::new(status, vec![problem.near(given, known.iter().map(String::as_str))])
            }
        }
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Refused(problems) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, problems),
            ApplyError::Store(error) => error.into(),
            ApplyError::Vault(error) => {
                tracing::error!(%error, "credentials could not be sealed");
                internal()
            }
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Refused(problems) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, problems),
            TokenError::Store(error) => error.into(),
        }
    }
}
