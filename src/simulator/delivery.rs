//! Posts callbacks: signed, in batches, tried again until they are answered with 200.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use secrecy::ExposeSecret as _;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    domain::Category,
    simulator::{
        callbacks::{Owed, Post, Told},
        errors,
        gate::Recipient,
        stalls::Clock,
        wire,
        world::Account,
    },
};

/// How POSTs are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posting {
    /// Statuses in one POST at most.
    pub(super) batch: usize,
    /// POSTs of one account on the wire at most; those that are tried again keep their place.
    pub(super) concurrency: usize,
}

/// How often the queue is looked at: statuses that come due within it share a POST.
const LINGER: Duration = Duration::from_millis(10);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Posts what one account owes until `ended`.
pub(super) async fn run(
    account: Arc<Account>,
    client: reqwest::Client,
    clock: Clock,
    posting: Posting,
    ended: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(posting.concurrency.max(1)));
    while !ended.is_cancelled() {
        let pause = async {
            if account.outbox.is_empty() {
                account.outbox.bell.notified().await;
            }
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            () = pause => {}
            () = ended.cancelled() => break,
        }
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = ended.cancelled() => break,
            };
            let (Ok(permit), Some(post)) = (permit, account.outbox.take_due(clock.now(), posting.batch)) else {
                break;
            };
            let (account, client, ended) = (Arc::clone(&account), client.clone(), ended.clone());
            tracker.spawn(async move {
                tokio::select! {
                    () = deliver(&account, &client, &post) => {}
                    () = ended.cancelled() => {}
                }
                drop(permit);
            });
        }
    }
    tracker.close();
    tracker.wait().await;
}

async fn deliver(account: &Account, client: &reqwest::Client, post: &Post) {
    let body = body(&account.waba_id, &post.statuses);
    let secret = account.app_secret.expose_secret();
    let signature = if post.is_forged {
        wire::signature(format!("not {secret}").as_bytes(), body.as_bytes())
    } else {
        wire::signature(secret.as_bytes(), body.as_bytes())
    };
    let mut wait = FIRST_WAIT;
    loop {
        let is_taken = match account.outbox.url() {
            Some(url) => {
                let request = client
                    .post(url)
                    .header("content-type", "application/json")
                    .header("user-agent", "facebookexternalua")
                    .header("x-hub-signature-256", &signature)
                    .body(body.clone());
                request.send().await.is_ok_and(|answer| answer.status() == reqwest::StatusCode::OK)
            }
            None => false,
        };
        let counts = account.outbox.answered(post, is_taken);
        if is_taken || post.is_forged || !counts {
            return;
        }
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// A POST as the provider writes it: one entry, one change for each number.
fn body(waba_id: &str, statuses: &[Owed]) -> String {
    let mut sorted: Vec<&Owed> = statuses.iter().collect();
    // Stable, so statuses of one number keep their order.
    sorted.sort_by_key(|owed| owed.message.number.index);
    let mut out = String::with_capacity(256 + statuses.len() * 480);
    out.push_str(r#"{"object":"whatsapp_business_account","entry":[{"id":"#);
    wire::push_text(&mut out, waba_id);
    out.push_str(r#","changes":["#);
    for (place, group) in sorted.chunk_by(|a, b| a.message.number.index == b.message.number.index).enumerate() {
        if place > 0 {
            out.push(',');
        }
        change(&mut out, group);
    }
    out.push_str("]}]}");
    out
}

fn change(out: &mut String, group: &[&Owed]) {
    let Some(number) = group.first().map(|owed| &owed.message.number) else {
        return;
    };
    out.push_str(r#"{"field":"messages","value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"#);
    wire::push_text(out, &number.digits);
    out.push_str(r#","phone_number_id":"#);
    wire::push_text(out, &number.id);
    out.push('}');
    contacts(out, group);
    out.push_str(r#","statuses":["#);
    let now = Clock::unix();
    for (place, owed) in group.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        status(out, owed, now);
    }
    out.push_str("]}}");
}

/// The provider names the recipients, but not of failed messages (whatsapp.md §3.4).
fn contacts(out: &mut String, group: &[&Owed]) {
    let mut named = group.iter().filter(|owed| !matches!(owed.told, Told::Failed(_))).peekable();
    if named.peek().is_none() {
        return;
    }
    out.push_str(r#","contacts":["#);
    for (place, owed) in named.enumerate() {
        if place > 0 {
            out.push(',');
        }
        // 佐藤, escaped: a receiver that signs anything but the raw bytes fails at once.
        out.push_str(r#"{"profile":{"name":"\u4f50\u85e4"},"#);
        push_recipient(out, &owed.message.recipient, "wa_id", "user_id");
        out.push('}');
    }
    out.push(']');
}

fn push_recipient(out: &mut String, recipient: &Recipient, of_phone: &str, of_user: &str) {
    let (key, value) = match recipient {
        Recipient::Phone { digits, .. } => (of_phone, digits),
        Recipient::User(id) => (of_user, id),
    };
    wire::push_text(out, key);
    out.push(':');
    wire::push_text(out, value);
}

fn status(out: &mut String, owed: &Owed, now: u64) {
    let message = &owed.message;
    let word = match owed.told {
        Told::Sent => "sent",
        Told::Delivered => "delivered",
        Told::Read => "read",
        Told::Failed(_) => "failed",
    };
    out.push_str(r#"{"id":"#);
    wire::push_text(out, &message.id);
    // Writing to a String cannot fail, here and below.
    write!(out, r#","status":"{word}","timestamp":"{now}","#).ok();
    push_recipient(out, &message.recipient, "recipient_id", "recipient_user_id");
    if let Some(opaque) = &message.opaque {
        out.push_str(r#","biz_opaque_callback_data":"#);
        wire::push_text(out, opaque);
    }
    match owed.told {
        Told::Sent | Told::Delivered => {
            let category = match message.category {
                Category::Authentication => "authentication",
                Category::Utility => "utility",
                Category::Marketing => "marketing",
            };
            let pricing = r#","pricing":{"billable":true,"pricing_model":"PMP","type":"regular","category":"#;
            write!(out, r#"{pricing}"{category}"}}"#).ok();
        }
        Told::Read => {}
        Told::Failed(code) => {
            let title = errors::title(code);
            write!(out, r#","errors":[{{"code":{code},"title":"#).ok();
            wire::push_text(out, title);
            out.push_str(r#","message":"#);
            wire::push_text(out, title);
            out.push_str(r#","error_data":{"details":"#);
            wire::push_text(out, details(code).unwrap_or(title));
            out.push_str(
                r#"},"href":"https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/"}]"#,
            );
        }
    }
    out.push('}');
}

const fn details(code: u32) -> Option<&'static str> {
    match code {
        131_049 => Some("In order to maintain a healthy ecosystem engagement, the message failed to be delivered."),
        131_026 => Some("Message Undeliverable."),
        132_015 => Some("Template is paused due to low quality."),
        _ => None,
    }
}
