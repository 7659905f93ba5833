//! A group as a CSV file, made while it is sent.

use std::io;

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;

use super::find;
use crate::{
    domain::{address::Address, cell},
    http::{
        HttpState,
        error::{ApiError, Errors},
    },
    registry::tokens::{Caller, Scope},
    store::{
        Store, StoreError,
        audiences::{self, NewMember},
    },
};

/// Members read at once.
const PAGE: usize = 2000;

#[utoipa::path(get, path = "/v1/audiences/{name}/export", tag = "audiences", params(("name" = String, Path)), responses(
    (status = 200, content_type = "text/csv", body = String, description = "By address, as it stands while it is read; addresses are masked without the scope pii"),
    (status = 404, body = Errors)))]
pub(in crate::http) async fn export(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let audience = find(&state, &caller, &name).await?;
    let columns = audiences::param_names(&mut *state.store.acquire().await?, audience.id).await?;
    let sheet = Sheet { audience: audience.id, columns, is_whole: caller.may(Scope::Pii) };
    let head = sheet.head().map_err(|_| super::super::error::internal())?;
    let reading = Reading { store: state.store.clone(), sheet, head: Some(head), after: Some(String::new()) };
    let body = Body::from_stream(stream::try_unfold(reading, |mut reading| async move {
        let piece = reading.next().await.map_err(|error| {
            tracing::warn!(%error, "an export broke off");
            io::Error::other(error)
        })?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, reading)))
    }));
    let file = format!("attachment; filename=\"{name}.csv\"");
    let headers = [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, file)];
    tracing::info!(token.name = caller.name, audience.name = name, "an audience group is exported");
    Ok((headers, body).into_response())
}

/// How far an export is.
struct Reading {
    store: Store,
    sheet: Sheet,
    head: Option<Bytes>,
    /// The last address; none at the end.
    after: Option<String>,
}

/// What the rows look like.
struct Sheet {
    audience: i32,
    columns: Vec<String>,
    is_whole: bool,
}

/// Why an export broke off.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("could not write a row")]
    Row(#[from] csv::Error),
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, ExportError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        let Some(after) = self.after.take() else {
            return Ok(None);
        };
        let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
        let mut connection = self.store.acquire().await?;
        let members = audiences::members(&mut connection, self.sheet.audience, &after, limit).await?;
        drop(connection);
        if members.len() == PAGE {
            self.after = members.last().map(|member| member.recipient.clone());
        }
        if members.is_empty() { Ok(None) } else { Ok(Some(self.sheet.rows(&members)?)) }
    }
}

impl Sheet {
    fn head(&self) -> Result<Bytes, csv::Error> {
        let names = self.columns.iter().map(|name| cell::guarded(name).into_owned());
        let fixed = ["to", "ref", "time_zone"].map(str::to_owned);
        written(std::iter::once(fixed.into_iter().chain(names).collect()))
    }

    fn rows(&self, members: &[NewMember]) -> Result<Bytes, csv::Error> {
        written(members.iter().map(|member| self.row(member)))
    }

    fn row(&self, member: &NewMember) -> Vec<String> {
        let to = if self.is_whole {
            member.recipient.clone()
        } else {
            Address::from_store(member.recipient.clone()).masked()
        };
        let text = |text: Option<&String>| text.map(|text| cell::guarded(text).into_owned()).unwrap_or_default();
        let fixed = [cell::address(&to).into_owned(), text(member.reference.as_ref()), text(member.time_zone.as_ref())];
        fixed.into_iter().chain(self.columns.iter().map(|name| text(member.params.get(name)))).collect()
    }
}

/// Every cell in quotation marks, so that a spreadsheet is told that it is text.
fn written(rows: impl Iterator<Item = Vec<String>>) -> Result<Bytes, csv::Error> {
    let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
    for row in rows {
        writer.write_record(row)?;
    }
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_text_and_no_formula() {
        let params = [("body.name".to_owned(), "=HYPERLINK(1)".to_owned())].into();
        let member = NewMember {
            recipient: "+819012345678".to_owned(),
            reference: Some("@crm".to_owned()),
            time_zone: None,
            params,
        };
        let sheet = |is_whole| Sheet { audience: 1, columns: vec!["body.name".to_owned()], is_whole };
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(text(sheet(true).head().unwrap()), "\"to\",\"ref\",\"time_zone\",\"body.name\"\n");
        let row = |is_whole| text(sheet(is_whole).rows(std::slice::from_ref(&member)).unwrap());
        assert_eq!(row(true), "\"+819012345678\",\"'@crm\",\"\",\"'=HYPERLINK(1)\"\n");
        assert_eq!(row(false), "\"+8190*****678\",\"'@crm\",\"\",\"'=HYPERLINK(1)\"\n");
    }
}
