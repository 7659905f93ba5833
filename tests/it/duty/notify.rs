//! Who is told receives it once, signed, in order, and again when it was not taken.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use campaign_dispatch::{
    store::notifications::Way,
    upkeep::notify::{Turn, Ways},
};
use hmac::{Hmac, Mac as _};
use serde_json::Value;
use sqlx::PgConnection;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::mpsc,
};

use super::{events, news, notifier, one, run, watch};
use crate::support::world::{Plan, World};

const SECRET: &str = "shared with the chat tool";

/// A chat tool.
#[derive(Debug, Clone, Default)]
struct Chat(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    /// What came.
    got: Vec<(HeaderMap, Bytes)>,
    /// What it answers next; 200 when nothing else is said.
    answers: Vec<u16>,
}

impl Chat {
    async fn start() -> (Self, String) {
        let chat = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook/T0/secret-path", listener.local_addr().unwrap());
        let taking = chat.clone();
        let take = move |headers: HeaderMap, body: Bytes| std::future::ready(taking.take(headers, body));
        let router = Router::new().route("/hook/T0/secret-path", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (chat, url)
    }

    fn take(&self, headers: HeaderMap, body: Bytes) -> StatusCode {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.got.push((headers, body));
        StatusCode::from_u16(inner.answers.pop().unwrap_or(200)).unwrap()
    }

    fn answers(&self, next: u16) {
        self.0.lock().unwrap().answers.push(next);
    }

    /// What came since the last time, with its id; signatures are checked here.
    fn got(&self) -> Vec<(String, String)> {
        let got = std::mem::take(&mut self.0.lock().unwrap().got);
        let read = |(headers, body): (HeaderMap, Bytes)| {
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.update(&body);
            let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
            assert_eq!(headers["x-dispatch-signature"], signature.as_str());
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body.as_object().unwrap().len(), 1, "chat tools know no other field");
            (headers["x-dispatch-id"].to_str().unwrap().to_owned(), body["text"].as_str().unwrap().to_owned())
        };
        got.into_iter().map(read).collect()
    }
}

async fn hold(connection: &mut PgConnection, cause: &'static str) {
    sqlx::query(
        "INSERT INTO hold (tenant_id, scope, cause, detail, resume) VALUES (1, 'number:1', $1, 'call 09012345678', 'person')",
    )
    .bind(cause)
    .execute(connection)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_told_once_signed_and_again_when_it_was_not_taken() {
    let (chat, url) = Chat::start().await;
    let settings = [("DISPATCH__NOTIFY__URL", url.as_str()), ("DISPATCH__NOTIFY__SECRET", SECRET)];
    let world = World::start_with(Plan::default(), &settings).await;
    let mut connection = world.database.connect().await;
    let mut watch = watch(&world);
    let (here, there) = (notifier(&world), notifier(&world));
    assert_eq!(here.step(Way::Http).await.unwrap(), Turn::Idle);

    hold(&mut connection, "131031").await;
    assert_eq!(news(&mut watch).await.len(), 1);
    chat.answers(500);
    assert_eq!(here.step(Way::Http).await.unwrap(), Turn::Later);
    // Its end comes while its beginning is still to be told.
    run(&mut connection, "UPDATE hold SET closed_at = now()").await;
    assert_eq!(news(&mut watch).await.len(), 1);
    run(&mut connection, "UPDATE notification SET next_try_at = now() + interval '1 minute' WHERE tries > 0").await;
    assert_eq!(here.step(Way::Http).await.unwrap(), Turn::Idle, "the end is not told before the beginning");
    run(&mut connection, "UPDATE notification SET next_try_at = now() WHERE tries > 0").await;
    // Two processes: each message is told by one of them.
    let mut told = 0;
    while told < 2 {
        let (a, b) = tokio::join!(here.step(Way::Http), there.step(Way::Http));
        told += [a.unwrap(), b.unwrap()].iter().filter(|turn| **turn == Turn::Told).count();
    }
    let got = chat.got();
    assert_eq!(got.len(), 3, "{got:?}");
    assert_eq!(got[0], got[1], "the same again, after it was not taken");
    assert_ne!(got[1].0, got[2].0);
    let (begun, over) = (&got[1].1, &got[2].1);
    assert!(begun.starts_with("ALARM hold: number:1 (+8131****001), count 0, since 20"), "{begun}");
    assert!(begun.ends_with("131031: call 09012***678\n  next: campaign-dispatch holds show 1"), "{begun}");
    assert!(over.starts_with("OVER hold: number:1 (+8131****001), since 20"), "{over}");
    assert_eq!(one::<i64>(&mut connection, "SELECT count(*) FROM notification").await, 0);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_comes_after_a_while_and_what_nobody_takes_is_given_up() {
    let (chat, url) = Chat::start().await;
    let settings = [("DISPATCH__NOTIFY__URL", url.as_str()), ("DISPATCH__NOTIFY__SECRET", SECRET)];
    let world = World::start_with(Plan::default(), &settings).await;
    let mut connection = world.database.connect().await;
    let (mut watch, notifier) = (watch(&world), notifier(&world));
    hold(&mut connection, "first").await;
    assert_eq!(news(&mut watch).await, ["raised hold number:1 0"]);
    run(&mut connection, "UPDATE alarm SET told_at = now() - interval '4 hours'").await;
    hold(&mut connection, "second").await;
    let both = news(&mut watch).await;
    assert_eq!(both, ["again hold number:1 0", "raised hold number:1 0"]);
    assert_eq!(events(&mut connection).await.len(), 2, "reminders are for people");
    assert_eq!(news(&mut watch).await, [""; 0]);
    for _ in 0..2 {
        assert_eq!(notifier.step(Way::Http).await.unwrap(), Turn::Told);
    }
    let got = chat.got();
    assert_eq!(got.len(), 2, "one message for each look that found something");
    assert!(got[1].1.contains("STILL hold: number:1") && got[1].1.contains("\nALARM hold: number:1"), "{}", got[1].1);

    run(&mut connection, "UPDATE hold SET closed_at = now()").await;
    news(&mut watch).await;
    run(&mut connection, "UPDATE notification SET created_at = now() - interval '25 hours'").await;
    chat.answers(404);
    assert_eq!(notifier.step(Way::Http).await.unwrap(), Turn::GivenUp);
    assert_eq!(notifier.step(Way::Http).await.unwrap(), Turn::Idle);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_while_it_tells_leaves_it_to_the_next() {
    let (chat, url) = Chat::start().await;
    let settings = [("DISPATCH__NOTIFY__URL", url.as_str()), ("DISPATCH__NOTIFY__SECRET", SECRET)];
    let world = World::start_with(Plan::default(), &settings).await;
    let mut connection = world.database.connect().await;
    hold(&mut connection, "131031").await;
    news(&mut watch(&world)).await;
    // It was taken by a process that is gone, a moment ago and long ago.
    run(&mut connection, "UPDATE notification SET tries = 1, next_try_at = now() + interval '20 seconds'").await;
    assert_eq!(notifier(&world).step(Way::Http).await.unwrap(), Turn::Idle);
    run(&mut connection, "UPDATE notification SET next_try_at = now()").await;
    assert_eq!(notifier(&world).step(Way::Http).await.unwrap(), Turn::Told);
    assert_eq!(chat.got().len(), 1);
    world.finish().await;
}

/// A mail server that takes one mail.
async fn mail_server() -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let (sender, mails) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"220 here\r\n").await.unwrap();
        while let Some(line) = lines.next_line().await.unwrap() {
            let answer = match line.split(' ').next() {
                Some("EHLO") => "250 here\r\n",
                Some("DATA") => {
                    write.write_all(b"354 go on\r\n").await.unwrap();
                    let mut mail = String::new();
                    while let Some(line) = lines.next_line().await.unwrap().filter(|line| line != ".") {
                        mail.push_str(&line);
                        mail.push('\n');
                    }
                    sender.send(mail).unwrap();
                    "250 taken\r\n"
                }
                Some("QUIT") => "221 bye\r\n",
                _ => "250 ok\r\n",
            };
            write.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, mails)
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_told_by_mail() {
    let (url, mut mails) = mail_server().await;
    let settings = [
        ("DISPATCH__NOTIFY__SMTP_URL", url.as_str()),
        ("DISPATCH__NOTIFY__MAIL_FROM", "dispatch@example.jp"),
        ("DISPATCH__NOTIFY__MAIL_TO", "duty@example.jp, Sato <sato@example.jp>"),
    ];
    let world = World::start_with(Plan::default(), &settings).await;
    hold(&mut world.database.connect().await, "131031").await;
    news(&mut watch(&world)).await;
    assert_eq!(notifier(&world).step(Way::Mail).await.unwrap(), Turn::Told);
    let mail = mails.recv().await.unwrap();
    for part in [
        "From: dispatch@example.jp",
        "duty@example.jp",
        "sato@example.jp",
        "Subject: ALARM hold: number:1",
        "holds show 1",
    ] {
        assert!(mail.contains(part), "{part}: {mail}");
    }
    world.finish().await;
}

#[tokio::test]
async fn settings_by_which_nobody_can_be_told_do_not_start() {
    let world = World::start(Plan::default()).await;
    for (key, value, told) in [
        ("URL", "no address", "notify.url is no web address"),
        ("SMTP_URL", "no address", "notify.smtp_url is no address"),
        ("MAIL_TO", "duty", "notify.mail_to: `duty` is no mail address"),
    ] {
        let mut settings = world.settings.notify.clone();
        settings.mail_from = "dispatch@example.jp".to_owned();
        settings.mail_to = "duty@example.jp".to_owned();
        match key {
            "URL" => settings.url = value.to_owned().into(),
            "SMTP_URL" => settings.smtp_url = value.to_owned().into(),
            _ => (settings.smtp_url, settings.mail_to) = ("smtp://127.0.0.1:1".to_owned().into(), value.to_owned()),
        }
        let error = Ways::new(&settings).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    world.finish().await;
}
