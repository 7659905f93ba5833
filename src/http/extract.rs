//! Reading requests so that whatever is wrong is answered in the API's own words.

use std::{io, str::FromStr, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, Query},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use serde::de::DeserializeOwned;

use crate::{http::error::ApiError, registry::Problem};

/// A body above its limit is still read up to here, because a client that is cut off while it writes reads no answer.
const DRAIN_BYTES: usize = 64 << 20;

/// A query string, refused by name.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // Postgres keeps no NUL in text: nothing is called so.
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(ApiError::whole(StatusCode::BAD_REQUEST, "invalid_query", "a value contains NUL"));
        }
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(error) => Err(ApiError::whole(StatusCode::BAD_REQUEST, "invalid_query", error.body_text())),
        }
    }
}

/// Reads an id of the path.
pub(super) fn id<T: FromStr>(text: &str, what: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::not_found(what))
}

/// How much of a body is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimit {
    /// Bytes at most.
    pub(super) bytes: usize,
    /// Time at most.
    pub(super) time: Duration,
    /// What to do with more.
    pub(super) instead: &'static str,
}

/// Reads a whole body.
pub(super) async fn read(headers: &HeaderMap, body: Body, limit: BodyLimit) -> Result<Bytes, ApiError> {
    let told = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let waits = headers.contains_key(header::EXPECT);
    if told.is_some_and(|told| told > limit.bytes && (waits || told > DRAIN_BYTES)) {
        return Err(too_large(limit));
    }
    let slow = |_| {
        let reason = "the body did not arrive within http.body_timeout_s";
        ApiError::whole(StatusCode::REQUEST_TIMEOUT, "body_timeout", reason)
    };
    tokio::time::timeout(limit.time, collect(body, limit)).await.map_err(slow)?
}

async fn collect(body: Body, limit: BodyLimit) -> Result<Bytes, ApiError> {
    let (mut stream, mut kept, mut seen) = (body.into_data_stream(), BytesMut::new(), 0_usize);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ApiError::whole(StatusCode::BAD_REQUEST, "body_cut", "the body ended early"))?;
        seen += chunk.len();
        if seen <= limit.bytes {
            kept.extend_from_slice(&chunk);
        } else {
            kept = BytesMut::new();
            if seen > DRAIN_BYTES {
                break;
            }
        }
    }
    if seen > limit.bytes { Err(too_large(limit)) } else { Ok(kept.freeze()) }
}

fn too_large(limit: BodyLimit) -> ApiError {
    let reason = format!("the body is larger than {} bytes: {}", limit.bytes, limit.instead);
    ApiError::whole(StatusCode::PAYLOAD_TOO_LARGE, "too_large", reason)
}

/// The pieces of an upload, which may take as long as it is large; only a silence is cut.
pub(super) fn pieces(body: Body, silence: Duration) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(body.into_data_stream(), move |mut stream| async move {
        let piece = match tokio::time::timeout(silence, stream.next()).await {
            Ok(piece) => piece?.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        Some((piece, stream))
    })
}

/// Reads a body as JSON of this shape.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let (status, code) = match error.classify() {
            serde_json::error::Category::Data => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            _ => (StatusCode::BAD_REQUEST, "not_json"),
        };
        ApiError::new(status, vec![Problem::new("", code, error.to_string())])
    })
}
