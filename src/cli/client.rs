//! The API as the command line calls it. The one place outside providers and the simulator that speaks HTTP out.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use futures_util::stream;
pub(super) use reqwest::Method;
use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use crate::{cli::output, http::Errors};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longer than the server takes for any answer but an upload's.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
const CHUNK_BYTES: usize = 64 << 10;

/// Query pairs.
pub(super) type Query = Vec<(&'static str, String)>;

/// A client of one server.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<SecretString>,
}

impl Client {
    pub(super) fn new(url: &str, token: Option<SecretString>) -> anyhow::Result<Self> {
        Ok(Self { http: http()?, url: url.trim_end_matches('/').to_owned(), token })
    }

    pub(super) async fn get(&self, path: &str, query: &Query) -> anyhow::Result<Value> {
        let (_, body) = self.answered(self.request(Method::GET, path)?.query(query).timeout(ANSWER_WITHIN)).await?;
        Ok(body)
    }

    /// As [`Client::get`], ending the process's wish with the server's reasons when it refuses.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let (_, answer) = self.answered(self.prepared(method, path, query, body)?).await?;
        Ok(answer)
    }

    /// The status and body, whatever they are: for answers that are not `Errors` when refused.
    pub(super) async fn raw(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        self.sent(self.prepared(method, path, query, body)?).await
    }

    /// Sends a file, telling how many bytes went out.
    pub(super) async fn upload(
        &self,
        path: &str,
        query: &Query,
        file: &Path,
        told: impl Fn(u64) + Send + Sync + 'static,
    ) -> anyhow::Result<Value> {
        let opened = tokio::fs::File::open(file).await.with_context(|| format!("could not read {}", file.display()))?;
        let chunks = stream::try_unfold((opened, told), |(mut file, told)| async move {
            let mut chunk = vec![0; CHUNK_BYTES];
            let read = file.read(&mut chunk).await?;
            chunk.truncate(read);
            told(read as u64);
            Ok::<_, std::io::Error>((read > 0).then_some((chunk, (file, told))))
        });
        let request = self.request(Method::POST, path)?.query(query).header("content-type", "text/csv");
        let (_, body) = self.answered(request.body(reqwest::Body::wrap_stream(chunks))).await?;
        Ok(body)
    }

    /// Reads an answer that is no JSON, piece by piece.
    pub(super) async fn download(
        &self,
        path: &str,
        query: &Query,
        mut piece: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let request = self.request(Method::GET, path)?.query(query);
        let mut response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        if !status.is_success() {
            let body = response.json().await.unwrap_or_default();
            return Err(refusal(status, &body));
        }
        while let Some(bytes) = response.chunk().await.context("the answer was cut: what came is not the whole")? {
            piece(&bytes)?;
        }
        Ok(())
    }

    fn prepared(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&Value>,
    ) -> anyhow::Result<RequestBuilder> {
        let request = self.request(method, path)?.query(query).timeout(ANSWER_WITHIN);
        Ok(match body {
            Some(body) => request.json(body),
            None => request,
        })
    }

    fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let Some(token) = &self.token else {
            bail!(
                "no token: set DISPATCH__CLIENT__TOKEN or --token. Make the first one where DATABASE_URL is set:\n  \
                 campaign-dispatch tokens create --name operator --scope admin"
            );
        };
        Ok(self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token.expose_secret()))
    }

    async fn sent(&self, request: RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let body = response.bytes().await.context("the answer was cut")?;
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).with_context(|| {
                format!("{} answered {status} with something that is not JSON: is it campaign-dispatch?", self.url)
            })?
        };
        Ok((status, body))
    }

    async fn answered(&self, request: RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
        let (status, body) = self.sent(request).await?;
        if status.is_success() {
            return Ok((status, body));
        }
        Err(refusal(status, &body))
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let advice = format!(
            "cannot reach {}: is `campaign-dispatch serve` running? Another address: --url or DISPATCH__CLIENT__URL",
            self.url
        );
        anyhow::Error::new(error.without_url()).context(advice)
    }
}

fn http() -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder().connect_timeout(CONNECT_WITHIN).no_proxy();
    builder.build().context("could not make the HTTP client")
}

fn refusal(status: StatusCode, body: &Value) -> anyhow::Error {
    let told =
        serde_json::from_value::<Errors>(body.clone()).map_or_else(|_| body.to_string(), |errors| listed(&errors));
    anyhow::anyhow!("refused ({status}):{told}{}", advice(status))
}

fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "\n  make a token where DATABASE_URL is set: campaign-dispatch tokens create --name operator --scope admin"
        }
        StatusCode::FORBIDDEN => "\n  make a token that may: campaign-dispatch tokens create --name NAME --scope SCOPE",
        _ => "",
    }
}

fn listed(errors: &Errors) -> String {
    let lines = errors.errors.iter().map(|problem| format!("\n  {}", output::problem(&serde_json::json!(problem))));
    lines.collect()
}

/// Whether something answers HTTP there, whatever it says.
pub(super) async fn reach(url: &str) -> anyhow::Result<()> {
    let request = http()?.head(url).timeout(CONNECT_WITHIN);
    request.send().await.map_err(reqwest::Error::without_url)?;
    Ok(())
}
