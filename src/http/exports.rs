//! Whole lists as files, made while they are sent; counts by state.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Query, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    checklist::{self, BatchQuery, Format, MessageQuery, ReceivedQuery, Report, ReportQuery},
    files::FileOut,
    http::{
        HttpState,
        error::{ApiError, Errors},
        extract::Asked,
    },
    registry::tokens::{Caller, Scope},
};

/// What kind of file.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct FormatQuery {
    /// csv or xlsx
    #[param(inline)]
    format: Format,
}

#[utoipa::path(get, path = "/v1/messages/export", tag = "checklist", params(FormatQuery, MessageQuery), responses(
    (status = 200, body = String, content_type = "application/octet-stream",
     description = "The whole list, as it stands while it is read; recipients are masked without the scope pii. A file that is cut is not whole"),
    (status = 422, body = Errors)))]
pub(super) async fn messages(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(FormatQuery { format }): Asked<FormatQuery>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query: MessageQuery = beside_format(&uri)?;
    let whole = caller.may(Scope::Pii);
    Ok(file(&caller, checklist::export_messages(&state.store, caller.tenant, &query, whole, format).await?))
}

#[utoipa::path(get, path = "/v1/batches/export", tag = "checklist", params(FormatQuery, BatchQuery), responses(
    (status = 200, body = String, content_type = "application/octet-stream",
     description = "The whole list, as it stands while it is read. A file that is cut is not whole"),
    (status = 422, body = Errors)))]
pub(super) async fn batches(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(FormatQuery { format }): Asked<FormatQuery>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query: BatchQuery = beside_format(&uri)?;
    Ok(file(&caller, checklist::export_batches(&state.store, caller.tenant, &query, format).await?))
}

#[utoipa::path(get, path = "/v1/received/export", tag = "checklist", params(FormatQuery, ReceivedQuery), responses(
    (status = 200, body = String, content_type = "application/octet-stream",
     description = "The whole list, as it stands while it is read; without the scope pii senders are masked and texts left out. A file that is cut is not whole"),
    (status = 422, body = Errors)))]
pub(super) async fn received(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(FormatQuery { format }): Asked<FormatQuery>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query: ReceivedQuery = beside_format(&uri)?;
    let whole = caller.may(Scope::Pii);
    Ok(file(&caller, checklist::export_received(&state.store, caller.tenant, &query, whole, format).await?))
}

#[utoipa::path(get, path = "/v1/reports", tag = "checklist", params(ReportQuery), responses(
    (status = 200, body = Report, description = "Messages by state, of the batches that are due in the range"),
    (status = 422, body = Errors, description = "Unknown time zone, or since after until")))]
pub(super) async fn report(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<ReportQuery>,
) -> Result<Json<Report>, ApiError> {
    Ok(Json(checklist::report(&state.store, caller.tenant, &query).await?))
}

/// The filter of the list, which knows no format.
fn beside_format<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let invalid = |reason: String| ApiError::whole(StatusCode::BAD_REQUEST, "invalid_query", reason);
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("format="));
    let uri = format!("/?{}", pairs.collect::<Vec<_>>().join("&"));
    let uri: Uri = uri.parse().map_err(|_| invalid("is no query".to_owned()))?;
    Query::try_from_uri(&uri).map(|Query(query)| query).map_err(|error| invalid(error.body_text()))
}

fn file(caller: &Caller, export: FileOut) -> Response {
    tracing::info!(token.name = caller.name, export.name = export.file_name, "a list is exported");
    let mut response = Body::from_stream(export.content).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(export.media_type));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{}\"", export.file_name)) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_asked_for_beside_its_format() {
        let uri = "/v1/messages/export?format=csv&ref=a%26format%3D&limit=5".parse().unwrap();
        let query: MessageQuery = beside_format(&uri).unwrap();
        assert_eq!((query.r#ref.as_deref(), query.limit), (Some("a&format="), Some(5)));
        assert!(beside_format::<MessageQuery>(&"/?format=csv&nmber=1".parse().unwrap()).is_err());
        assert!(beside_format::<MessageQuery>(&"/?format=csv".parse().unwrap()).is_ok());
    }
}
