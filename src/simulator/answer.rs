//! Takes a call from its first byte to its answer.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use http::{HeaderMap, Method, StatusCode, header};

use crate::simulator::{
    Simulator,
    callbacks::Accepted,
    connection::Cut,
    count_up,
    effects::{Effects, Subject, Verdict},
    errors::ApiError,
    gate::{self, Endpoint, Passed, Recipient},
    ledger::{MessageKey, Record, Told},
    locked, read_locked, wire,
    world::Number,
};

const BODY_LIMIT: usize = 256 * 1024;

const HTML: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><title>Error</title></head><body><h1>Sorry, something \
                    went wrong.</h1><p>We're working on it and we'll get it fixed as soon as we can.</p></body></html>\n";

/// Every path that is not the simulator's own.
pub(super) async fn call(State(simulator): State<Arc<Simulator>>, request: Request) -> Response {
    let at = simulator.clock.now();
    simulator.ledger.called();
    let (parts, body) = request.into_parts();
    let (endpoint, number) = match find(&simulator, &parts.method, parts.uri.path()) {
        Ok(found) => found,
        Err(error) => return refusal(&simulator, &error),
    };
    let over_limit = number.arrive(at);
    let Ok(bytes) = axum::body::to_bytes(body, BODY_LIMIT).await else {
        return refusal(&simulator, &ApiError::parameter("(#100) The body could not be read."));
    };
    let passed = match check(&number, endpoint, &parts.headers, &bytes, Arrival { at, over_limit }) {
        Ok(passed) => passed,
        Err(error) => return refusal(&simulator, &error),
    };
    let effects = effects(&simulator, &number, &passed, at);
    let cut = parts.extensions.get::<ConnectInfo<Cut>>().map(|ConnectInfo(cut)| cut.clone()).unwrap_or_default();
    let answer = settle(&simulator, &number, passed, &effects, at, &cut);
    if let Some(slow) = effects.slow {
        tokio::time::sleep(slow).await;
    }
    answer
}

#[derive(Clone, Copy)]
struct Arrival {
    at: u64,
    over_limit: bool,
}

fn find(simulator: &Simulator, method: &Method, path: &str) -> Result<(Endpoint, Arc<Number>), ApiError> {
    let (endpoint, id) = gate::route(path)?;
    let verb = method.as_str().to_ascii_lowercase();
    match simulator.world.number(id) {
        Some(number) if method == Method::POST => Ok((endpoint, Arc::clone(number))),
        _ => Err(ApiError::unknown_object(&verb, id)),
    }
}

fn check(
    number: &Number,
    endpoint: Endpoint,
    headers: &HeaderMap,
    bytes: &[u8],
    arrival: Arrival,
) -> Result<Passed, ApiError> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    gate::token(&number.account, text(header::AUTHORIZATION))?;
    let is_json = text(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    let body = gate::read(endpoint, is_json, bytes)?;
    gate::check(endpoint, number, &body, arrival.at, arrival.over_limit)
}

fn effects(simulator: &Simulator, number: &Number, passed: &Passed, at: u64) -> Effects {
    let subject = Subject {
        number: &number.id,
        waba: &number.account.waba_id,
        template: &passed.template,
        recipient: passed.recipient.text(),
        draw: passed.opaque.as_deref().map_or_else(|| passed.recipient.key() ^ wire::mix(at), wire::digest),
    };
    simulator.faults.effects(subject, simulator.suffix_faults.load(Ordering::Relaxed))
}

/// Does what the verdict says. What is accepted is in the ledger before anything is written, as at the provider.
fn settle(
    simulator: &Simulator,
    number: &Arc<Number>,
    passed: Passed,
    effects: &Effects,
    at: u64,
    cut: &Cut,
) -> Response {
    match &effects.verdict {
        Verdict::Refuse(error) => return refusal(simulator, error),
        Verdict::Html502 => {
            simulator.ledger.refused("html_502");
            return html();
        }
        Verdict::Drop => {
            simulator.ledger.refused("dropped");
            cut.now();
            return Response::default();
        }
        Verdict::Accept | Verdict::AcceptThenDrop | Verdict::AcceptThenHtml502 | Verdict::AcceptThenError(_) => {}
    }
    let answer = accept(simulator, number, passed, effects, at);
    match &effects.verdict {
        Verdict::AcceptThenDrop => {
            cut.now();
            answer
        }
        Verdict::AcceptThenHtml502 => html(),
        Verdict::AcceptThenError(error) => json(error.status, error.body(simulator.clock.now())),
        _ => answer,
    }
}

fn accept(simulator: &Simulator, number: &Arc<Number>, passed: Passed, effects: &Effects, at: u64) -> Response {
    let serial = count_up(&simulator.serial);
    let id = wire::message_id(passed.recipient.text(), simulator.run, serial);
    let token = passed.opaque.as_deref().and_then(|opaque| opaque.parse().ok());
    let recipient = passed.recipient.key();
    let key = token
        .as_ref()
        .map_or_else(|| MessageKey::without_token(number.index, recipient, &passed.template), MessageKey::of_token);
    let attempt = token.map_or(0, |token| token.attempt);
    let told = Told::of(effects.callbacks);
    simulator.ledger.accepted(Record { key, recipient, at, serial, attempt, number: number.index, told });
    locked(&number.state).accepted += 1;
    let body = accepted_body(&passed.recipient, &id, effects.callbacks.held);
    let message = Accepted {
        number: Arc::clone(number),
        id,
        recipient: passed.recipient,
        opaque: passed.opaque,
        category: passed.category,
    };
    let telling = *read_locked(&simulator.telling);
    number.account.outbox.plan(message, simulator.clock.now(), telling, effects.callbacks);
    json(200, body)
}

fn accepted_body(recipient: &Recipient, id: &str, held: bool) -> String {
    let mut body = String::with_capacity(256);
    body.push_str(r#"{"messaging_product":"whatsapp","contacts":[{"input":"#);
    match recipient {
        Recipient::Phone { input, digits } => {
            wire::push_text(&mut body, input);
            body.push_str(r#","wa_id":"#);
            wire::push_text(&mut body, digits);
        }
        Recipient::User(id) => {
            wire::push_text(&mut body, id);
            body.push_str(r#","user_id":"#);
            wire::push_text(&mut body, id);
        }
    }
    body.push_str(r#"}],"messages":[{"id":"#);
    wire::push_text(&mut body, id);
    let status = if held { "held_for_quality_assessment" } else { "accepted" };
    body.push_str(r#","message_status":""#);
    body.push_str(status);
    body.push_str("\"}]}");
    body
}

fn refusal(simulator: &Simulator, error: &ApiError) -> Response {
    simulator.ledger.refused(&error.code.to_string());
    json(error.status, error.body(simulator.clock.now()))
}

fn html() -> Response {
    answered(502, "text/html; charset=utf-8", HTML)
}

fn json(status: u16, body: String) -> Response {
    answered(status, "application/json; charset=UTF-8", body)
}

fn answered(status: u16, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
