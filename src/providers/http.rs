//! The one HTTP client of the process: a call is written once, and what happened to it is said exactly.
//!
//! The client never retries, never follows a redirect and reads no proxy from the environment. It speaks HTTP/1.1: over
//! HTTP/2 all calls would share one connection and wait for its streams. What was never given to a connection is a
//! refusal that may be tried again; everything else without an answer is uncertain.
//! A pooled connection that died before anything was written is replaced by the pool itself, which proves the same.
//! The gate is asked before a connection is looked for and again in the instant the call is written ([`Guarded`]).

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Body, Client, Request, Response, Url, redirect, retry};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    domain::failure::{FailureClass, Outcome, Refusal},
    providers::{
        Gate,
        guarded::{Guarded, Reached},
    },
};

/// An answer is a few hundred bytes; more than this is not one.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The longest `Retry-After` believed.
const MAX_RETRY_AFTER_S: u64 = 3600;
/// How long written bytes may stay unacknowledged: a cut network is known while the claim still stands.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses kept as parsed, one for each number that sends; beyond this many they are parsed anew.
const MAX_ADDRESSES: usize = 10_000;

/// Calls to one host that look for a connection at the same time. A burst that connected all at once would leave many
/// times the connections its host's answers need, of 40 kB each.
const CONNECTING_MOST: usize = 64;

/// How providers are called.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// The longest a connection may take to stand, in milliseconds; a call that fails here was never written.
    pub connect_timeout_ms: u64,
    /// The longest a call may take from its start to the end of its answer, in milliseconds; then it is uncertain.
    pub timeout_ms: u64,
    /// How long an unused connection is kept, in milliseconds; less than the provider keeps it.
    pub pool_idle_ms: u64,
    /// What we call ourselves.
    pub user_agent: String,
}

impl Default for HttpSettings {
    fn default() -> Self {
        let user_agent = concat!("campaign-dispatch/", env!("CARGO_PKG_VERSION")).to_owned();
        Self { connect_timeout_ms: 3_000, timeout_ms: 15_000, pool_idle_ms: 50_000, user_agent }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("could not make the HTTP client (are the system's CA certificates installed?)")]
pub struct NoHttpClient(#[from] reqwest::Error);

/// The shared client; a clone is another handle of the same connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client,
    connect_timeout: Duration,
    addresses: Arc<RwLock<HashMap<String, Address>>>,
}

/// Where calls go.
#[derive(Debug, Clone)]
struct Address {
    url: Url,
    /// Of its host, so that one that cannot be reached holds up no other.
    connecting: Arc<Semaphore>,
}

impl Address {
    /// A place among the calls that look for a connection, if one comes free in time.
    async fn place(&self, within: Duration) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(within, Arc::clone(&self.connecting).acquire_owned()).await.ok()?.ok()
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// How long the answer asks to wait, when it says so in seconds.
    pub retry_after: Option<Duration>,
    /// Its body; of a failure perhaps only the part that arrived.
    pub body: Vec<u8>,
}

impl HttpClient {
    /// Makes the client. TLS is rustls with ring, installed for the whole process unless it already has a provider.
    pub fn new(settings: &HttpSettings) -> Result<Self, NoHttpClient> {
        // An error says that another part of the process was first, which is the same provider.
        drop(rustls::crypto::ring::default_provider().install_default());
        let connect_timeout = Duration::from_millis(settings.connect_timeout_ms);
        let builder = Client::builder()
            .user_agent(settings.user_agent.as_str())
            .connect_timeout(connect_timeout)
            .timeout(Duration::from_millis(settings.timeout_ms))
            .pool_idle_timeout(Duration::from_millis(settings.pool_idle_ms))
            .pool_max_idle_per_host(usize::MAX)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true);
        #[cfg(target_os = "linux")]
        let builder = builder.tcp_user_timeout(TCP_USER_TIMEOUT);
        Ok(Self { client: builder.build()?, connect_timeout, addresses: Arc::default() })
    }

    /// Posts JSON once. Without a whole answer, the outcome says whether anything can have been taken.
    pub async fn post_json(
        &self,
        url: &str,
        bearer: &HeaderValue,
        body: Vec<u8>,
        gate: &Arc<dyn Gate>,
    ) -> Result<Answer, Outcome> {
        let Some(address) = self.address(url) else {
            return Err(without_answer(
                "address_unusable",
                FailureClass::Account,
                "the account's base_url is no web address",
            ));
        };
        let Some(place) = address.place(self.connect_timeout).await else {
            return Err(Outcome::NotCalled);
        };
        let mut request = Request::new(Method::POST, address.url);
        request.headers_mut().insert(header::AUTHORIZATION, bearer.clone());
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !gate.is_open() {
            return Err(Outcome::NotCalled);
        }
        let body = Guarded::new(body.into(), Arc::clone(gate), place);
        let fate = body.fate();
        *request.body_mut() = Some(Body::wrap(body));
        let response = self.client.execute(request).await.map_err(|error| match fate.give_up() {
            Reached::Given => triage(&error),
            // The gate may have closed while there was no connection: then that is why, and not the provider.
            Reached::Waiting if gate.is_open() => unwritten(&error),
            Reached::Waiting | Reached::Stopped => Outcome::NotCalled,
        })?;
        read(response).await
    }

    /// The parsed form of an address: a copy costs a tenth of parsing it again.
    fn address(&self, url: &str) -> Option<Address> {
        let known = self.addresses.read().unwrap_or_else(PoisonError::into_inner).get(url).cloned();
        if known.is_some() {
            return known;
        }
        let parsed = Url::parse(url).ok()?;
        let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= MAX_ADDRESSES {
            addresses.clear();
        }
        let of_host = addresses.values().find(|known| known.url.origin() == parsed.origin());
        let connecting =
            of_host.map_or_else(|| Arc::new(Semaphore::new(CONNECTING_MOST)), |known| Arc::clone(&known.connecting));
        let address = Address { url: parsed, connecting };
        addresses.insert(url.to_owned(), address.clone());
        Some(address)
    }
}

/// Reads the answer to its end, or its connection could not be used again.
async fn read(mut response: Response) -> Result<Answer, Outcome> {
    let (status, retry_after) = (response.status(), retry_after(response.headers()));
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_ANSWER_BYTES => {
                body.extend_from_slice(&chunk);
            }
            Err(error) if status.is_success() => return Err(triage(&error)),
            // The end; or too long to be an answer; or cut off, where the status already says that it was refused.
            Ok(_) | Err(_) => break,
        }
    }
    Ok(Answer { status, retry_after, body })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(MAX_RETRY_AFTER_S)))
}

/// Why a call was not written though it could have been: resolving, connecting and the TLS handshake come before it.
fn unwritten(error: &reqwest::Error) -> Outcome {
    if error.is_builder() {
        return without_answer("address_unusable", FailureClass::Account, "the request could not be made");
    }
    let reason = if error.is_timeout() { "no connection in time" } else { "no connection" };
    without_answer("connect_failed", FailureClass::Transient, reason)
}

/// What an error after the write, and without an answer, proves.
fn triage(error: &reqwest::Error) -> Outcome {
    if error.is_timeout() {
        without_answer("timeout", FailureClass::Uncertain, "no answer in time")
    } else {
        without_answer("connection_lost", FailureClass::Uncertain, "the connection ended before the answer")
    }
}

fn without_answer(code: &str, class: FailureClass, reason: &str) -> Outcome {
    Outcome::Refused(Refusal { code: code.to_owned(), class, reason: reason.to_owned(), wait: None })
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    const OPEN: fn() -> Arc<dyn Gate> = || Arc::new(|| true);

    async fn post(url: &str, gate: &Arc<dyn Gate>) -> Result<Answer, Outcome> {
        let settings = HttpSettings { timeout_ms: 300, connect_timeout_ms: 200, ..HttpSettings::default() };
        let client = HttpClient::new(&settings).unwrap();
        client.post_json(url, &HeaderValue::from_static("Bearer t"), b"{}".to_vec(), gate).await
    }

    /// A server that reads each request and answers with these bytes; without any it says nothing and closes or waits.
    async fn server(answer: &'static str, close: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2048];
                let read = stream.read(&mut request).await.unwrap();
                assert!(String::from_utf8_lossy(&request[..read]).contains("authorization: Bearer t"));
                stream.write_all(answer.as_bytes()).await.unwrap();
                if !close {
                    kept.push(stream);
                }
            }
        });
        url
    }

    async fn code(url: &str) -> (String, FailureClass) {
        match post(url, &OPEN()).await {
            Err(Outcome::Refused(refusal)) => (refusal.code, refusal.class),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_was_never_written_is_told_from_what_may_have_been() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = format!("http://{}/", closed.local_addr().unwrap());
        drop(closed);
        assert_eq!(code(&refused).await, ("connect_failed".to_owned(), FailureClass::Transient));
        // Nobody routes this network: the connection never stands.
        assert_eq!(code("http://192.0.2.1:9/").await.0, "connect_failed");
        assert_eq!(code("not a url").await, ("address_unusable".to_owned(), FailureClass::Account));
        assert_eq!(code(&server("", true).await).await, ("connection_lost".to_owned(), FailureClass::Uncertain));
        assert_eq!(code(&server("", false).await).await, ("timeout".to_owned(), FailureClass::Uncertain));
        let cut = server("HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{", true).await;
        assert_eq!(code(&cut).await, ("connection_lost".to_owned(), FailureClass::Uncertain));
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_with_its_wait() {
        let url = server("HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\nno", false).await;
        let answer = post(&url, &OPEN()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.retry_after), (429, Some(Duration::from_secs(7))));
        assert_eq!(answer.body, b"no");
        let moved = server("HTTP/1.1 302 Found\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n", false).await;
        assert_eq!(post(&moved, &OPEN()).await.unwrap().status, 302);
    }

    /// A gate that says yes so often, then no.
    fn closes_after(times: usize) -> Arc<dyn Gate> {
        let left = AtomicUsize::new(times);
        Arc::new(move || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok())
    }

    /// Everything a connection carries until it ends.
    async fn carried(listener: &TcpListener) -> Vec<u8> {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_gate_that_closes_while_connecting_lets_no_byte_through() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let gate = closes_after(1);
        let (outcome, carried) = tokio::join!(post(&url, &gate), carried(&listener));
        assert_eq!((outcome.unwrap_err(), carried.len()), (Outcome::NotCalled, 0));
    }

    #[tokio::test]
    async fn a_gate_that_closes_at_the_write_lets_no_byte_through_a_used_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let client = HttpClient::new(&HttpSettings { timeout_ms: 2_000, ..HttpSettings::default() }).unwrap();
        let bearer = HeaderValue::from_static("t");
        let post = async |gate: Arc<dyn Gate>| client.post_json(&url, &bearer, b"{}".to_vec(), &gate).await;
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 2048];
            let read = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            assert!(request.contains("content-length: 2\r\n") && request.ends_with("\r\n\r\n{}"), "{request}");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            rest
        };
        let calls = async {
            assert_eq!(post(OPEN()).await.unwrap().status, 200);
            post(closes_after(1)).await.unwrap_err()
        };
        let (outcome, rest) = tokio::join!(calls, serve);
        assert_eq!((outcome, rest.len()), (Outcome::NotCalled, 0));
    }

    #[tokio::test]
    async fn a_gate_that_closed_before_a_connection_failed_is_the_reason() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = format!("http://{}/", closed.local_addr().unwrap());
        drop(closed);
        assert_eq!(post(&refused, &closes_after(1)).await.unwrap_err(), Outcome::NotCalled);
    }

    #[tokio::test]
    async fn a_burst_makes_no_more_connections_than_it_needs_and_a_slow_host_gets_one_for_each_call() {
        for (is_slow, most) in [(false, 200), (true, 300)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let taken = Arc::new(AtomicUsize::new(0));
            let of_server = Arc::clone(&taken);
            let all_came = Arc::new(Semaphore::new(0));
            let asked = Arc::clone(&all_came);
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    if of_server.fetch_add(1, Ordering::Relaxed) + 1 == 300 {
                        asked.add_permits(1);
                    }
                    let asked = Arc::clone(&asked);
                    tokio::spawn(async move {
                        let mut request = [0; 2048];
                        while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                            if is_slow {
                                drop(asked.acquire().await);
                            }
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                        }
                    });
                }
            });
            let client = HttpClient::new(&HttpSettings::default()).unwrap();
            let bearer = HeaderValue::from_static("t");
            let gate = OPEN();
            let calls = (0..300).map(|_| client.post_json(&url, &bearer, b"{}".to_vec(), &gate));
            let answers = futures_util::future::join_all(calls).await;
            assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)));
            let taken = taken.load(Ordering::Relaxed);
            assert!(taken <= most, "{taken}");
        }
    }

    #[tokio::test]
    async fn a_closed_gate_writes_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let closed: Arc<dyn Gate> = Arc::new(|| false);
        assert_eq!(post(&url, &closed).await.unwrap_err(), Outcome::NotCalled);
        let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(nobody.is_err());
    }
}
