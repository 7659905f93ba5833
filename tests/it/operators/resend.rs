//! Failed messages that are sent again: to whom, once, and never to somebody who got it meanwhile.

use std::{collections::BTreeMap, time::Duration};

use campaign_dispatch::{
    checklist::{self, ResendMeans, ResendRequest},
    domain::{
        event::Wanted,
        failure::FailureClass,
        ids::{BatchId, MessageKey, TenantId},
        message::MessageEvent,
    },
    providers::{self, http::HttpClient},
    registry::tokens::Scope,
    simulator::{Fault, FaultAction, FaultMatch},
    store::{
        campaigns::Person,
        messages::{self, Change, Failure, Rules},
    },
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

use super::{post, run, served};
use crate::{
    journey::Home,
    served::{Served, seed},
    support::{
        operator::Operator,
        world::{Plan, World, assert_balanced},
    },
    uncertain::upkeep,
};

const PATH: &str = "/v1/resends";
const RULES: Rules = Rules { grace: Duration::from_mins(1), events: Wanted::DEFAULT };

fn skipped(answer: &Value) -> BTreeMap<String, i64> {
    let skipped = answer["skipped"].as_array().unwrap().iter();
    skipped.map(|s| (s["why"].as_str().unwrap().to_owned(), s["messages"].as_i64().unwrap())).collect()
}

/// Lets failures be of a code that may be sent again.
async fn media_fault(served: &Served) {
    run(served, "UPDATE failed_message SET code = '131053', class = 'message'; UPDATE message SET code = '131053' WHERE state = 'failed'").await;
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_preview_tells_how_many_when_and_what_is_left_out(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin) = served(&options).await;
    let batches =
        seed(&served, &[&["failed", "failed", "sent", "pending", "uncertain"], &["failed"], &["failed", "failed"]])
            .await;
    // By the advice of 131026 never.
    let all = json!({"number": "+15550001111", "dry_run": true});
    let never = post(&served, &admin, PATH, all.clone()).await;
    assert_eq!((&never["found"], &never["resent"]), (&json!(5), &json!(0)), "{never}");
    assert_eq!(skipped(&never), [("never".to_owned(), 5)].into());
    media_fault(&served).await;
    let would = post(&served, &admin, PATH, all.clone()).await;
    // The same text to the same person failed in three batches, to another in two.
    assert_eq!((&would["resent"], skipped(&would)), (&json!(2), [("twice".to_owned(), 3)].into()), "{would}");
    let from = &would["when"][0];
    assert_eq!((&from["business_number"], &from["messages"]), (&json!("+15550001111"), &json!(2)));
    assert!(from["start"].is_string() && from["finish"].is_string(), "{from}");
    assert!(would["batches"][0]["batch_id"].is_null() && would["id"].is_null());
    let capped = json!({"number": "+15550001111", "dry_run": true, "cap": 1});
    let capped = post(&served, &admin, PATH, capped).await;
    assert_eq!((&capped["resent"], &capped["left"]), (&json!(1), &json!(4)), "{capped}");

    // What would reach somebody twice is left out whatever a person says; so is who does not want it.
    for (change, why) in [
        (
            "UPDATE message SET state = 'accepted', accepted_at = now() + interval '1 s' WHERE state = 'failed' AND seq = 1 AND batch_id = (SELECT max(batch_id::text)::uuid FROM batch)",
            "received",
        ),
        ("UPDATE message SET state = 'pending' WHERE state = 'accepted'", "under_way"),
        (
            "UPDATE message SET state = 'failed', accepted_at = NULL WHERE seq = 1 AND state = 'pending'; UPDATE failed_message SET class = 'opt_out'",
            "opted_out",
        ),
        (
            "UPDATE failed_message SET class = 'message'; INSERT INTO suppression (tenant_id, scope, recipient, source)
             SELECT DISTINCT 1, 'tenant', recipient, 'keyword' FROM message",
            "opted_out",
        ),
        (
            "UPDATE suppression SET lifted_at = now(), lifted_by = 'ann'; UPDATE batch SET cancelled_at = now()",
            "cancelled",
        ),
        ("UPDATE batch SET cancelled_at = NULL; UPDATE template SET status = 'disabled'", "template"),
    ] {
        run(&served, change).await;
        let wish = json!({"batch": batches[1], "dry_run": true, "against_advice": true, "acknowledged": true});
        let answer = post(&served, &admin, PATH, wish).await;
        assert_eq!((&answer["resent"], skipped(&answer)), (&json!(0), [(why.to_owned(), 1)].into()), "{change}");
    }
    run(
        &served,
        "UPDATE template SET status = 'approved'; UPDATE failed_message SET code = '131049', class = 'throttled_user'",
    )
    .await;
    let soon = json!({"batch": batches[1], "dry_run": true});
    assert_eq!(skipped(&post(&served, &admin, PATH, soon).await), [("too_soon".to_owned(), 1)].into());
    let later = chrono::Utc::now() + chrono::TimeDelta::hours(25);
    let later = json!({"batch": batches[1], "dry_run": true, "send_at": later.to_rfc3339()});
    assert_eq!(post(&served, &admin, PATH, later).await["resent"], 1);
    let nothing: i64 = sqlx::query_scalar("SELECT count(*) FROM batch WHERE resend_of IS NOT NULL")
        .fetch_one(served.store.pool())
        .await
        .unwrap();
    assert_eq!(nothing, 0, "a preview changes nothing");
}

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_resent_message_and_its_re_send_name_each_other(_: PgPoolOptions, options: PgConnectOptions) {
    let (served, admin) = served(&options).await;
    let batches = seed(&served, &[&["sent", "failed", "pending"]]).await;
    media_fault(&served).await;
    let reader = served.token(&[Scope::Read]).await;
    let wish = json!({"code": "131053", "batch": batches[0], "reason": "the picture is there again"});
    assert_eq!(served.call(&reader, Method::POST, PATH, Some(wish.clone())).await.0, StatusCode::FORBIDDEN);
    let done = post(&served, &admin, PATH, wish.clone()).await;
    assert_eq!((&done["resent"], &done["batches"][0]["resend_of"]), (&json!(1), &json!(batches[0])), "{done}");
    let again = format!("{}.2", done["batches"][0]["batch_id"].as_str().unwrap());
    let first = format!("{}.2", batches[0]);
    let (_, shown) = served.get(&admin, &format!("/v1/messages/{first}")).await;
    assert_eq!((&shown["resent_as"], &shown["state"]), (&json!(again), &json!("failed")));
    let (_, shown) = served.get(&admin, &format!("/v1/messages/{again}")).await;
    assert_eq!(
        (&shown["resend_of"], &shown["state"], &shown["stage"]),
        (&json!(first), &json!("pending"), &json!("ready"))
    );
    let (_, why) = served.get(&admin, &format!("/v1/messages/{first}/why")).await;
    assert!(why["summary"].as_str().unwrap().ends_with(&format!("sent again as {again}")), "{why}");
    let (_, audit) = served.get(&admin, "/v1/audit?act=resend").await;
    let act = &audit["items"][0];
    assert_eq!(
        (&act["token"], &act["reason"], &act["count"], &act["filter"], &act["id"]),
        (
            &json!("test"),
            &json!("the picture is there again"),
            &json!(1),
            &json!({"code": "131053", "batch": batches[0]}),
            &done["id"]
        )
    );
    let twice = post(&served, &admin, PATH, wish).await;
    assert_eq!((&twice["resent"], skipped(&twice)), (&json!(0), [("resent".to_owned(), 1)].into()));
    assert_balanced(&mut served.store.acquire().await.unwrap()).await;

    for (body, code) in [
        (json!({"reason": "r"}), "no_filter"),
        (json!({"code": "131053"}), "empty"),
        (json!({"code": "131053", "reason": "r", "cap": 0}), "out_of_range"),
        (json!({"number": "+1", "reason": "r"}), "unknown_number"),
        (json!({"messages": ["x"], "reason": "r"}), "invalid_message_id"),
        (json!({"code": "131053", "reason": "r", "expires_at": "2020-01-01T00:00:00Z"}), "too_early"),
        (json!({"code": "131053", "reason": "r", "state": "pending"}), "invalid"),
    ] {
        let (status, answer) = served.call(&admin, Method::POST, PATH, Some(body.clone())).await;
        assert_eq!((status, &answer["errors"][0]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(code)), "{body}");
    }
    // Named itself, what is pending, uncertain or sent is nothing that failed.
    let named = json!({"messages": [format!("{}.1", batches[0]), format!("{}.3", batches[0])], "reason": "r"});
    assert_eq!(post(&served, &admin, PATH, named).await["found"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_re_sends_at_once_send_each_message_once() {
    let home = Home::start(Plan::default()).await;
    let ann = Operator::of(&home, "ann").await;
    let failing = FaultMatch { count: Some(25), ..FaultMatch::default() };
    home.world.simulator.add_fault(Fault { when: failing, action: FaultAction::Error(131_053, None) });
    let batch = home.world.batch(home.world.number(1), "offer", 0, 80).await;
    home.states(&[("failed", 25), ("read", 55)]).await;
    let wish = json!({"batch": batch, "code": "131053", "reason": "the picture is there again"});
    let wishes = (0..6).map(|_| ann.post(PATH, Some(&wish)));
    let answers = futures_util::future::join_all(wishes).await;
    let resent: Vec<i64> = answers
        .iter()
        .map(|(status, answer)| {
            assert_eq!(*status, 200, "{answer}");
            answer["resent"].as_i64().unwrap()
        })
        .collect();
    assert_eq!((resent.iter().sum::<i64>(), resent.iter().filter(|n| **n > 0).count()), (25, 1), "{resent:?}");
    home.states(&[("failed", 25), ("read", 80)]).await;
    let totals = home.world.ledger().totals;
    assert_eq!((totals.accepted, totals.messages, totals.doubled), (80, 80, 0));
    let mut connection = home.world.database.connect().await;
    let persons: i64 = sqlx::query_scalar("SELECT count(DISTINCT recipient) FROM message WHERE state = 'read'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(persons, 80, "everybody got it, nobody twice");
    // Its history, in the order of time.
    let id: String = sqlx::query_scalar("SELECT batch_id || '.' || seq FROM message WHERE state = 'failed' LIMIT 1")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let kinds = async |id: &str| {
        let shown = ann.get(&format!("/v1/messages/{id}")).await;
        let history = shown["history"].as_array().unwrap().clone();
        let words = history.iter().map(|e| format!("{} {}", e["kind"].as_str().unwrap(), e["what"].as_str().unwrap()));
        (shown, words.collect::<Vec<_>>())
    };
    let (shown, words) = kinds(&id).await;
    assert_eq!(words[..2], ["job taken", "call refused"], "{words:?}");
    assert!(words.contains(&"job resent".to_owned()) && words.contains(&"audit resend".to_owned()), "{words:?}");
    let (_, words) = kinds(shown["resent_as"].as_str().unwrap()).await;
    for word in ["job taken", "call accepted", "callback sent", "callback delivered", "callback read", "audit resend"] {
        assert!(words.contains(&word.to_owned()), "{word}: {words:?}");
    }
    home.finish().await;
}

/// Messages that fail, and the re-send of all of them, in an hour.
async fn failed_and_resent(world: &World, count: i32) -> (BatchId, BatchId) {
    let batch = world.batch(world.number(1), "order", 0, count).await;
    let mut connection = world.database.connect().await;
    let fault = Failure { code: "131053".to_owned(), class: FailureClass::Message, reason: "no picture".to_owned() };
    let refused = |seq| Change {
        failure: Some(fault.clone()),
        ..Change::new(MessageKey { batch_id: batch, seq }, 1, MessageEvent::Refused)
    };
    messages::apply(&mut connection, &(1..=count).map(refused).collect::<Vec<_>>(), RULES).await.unwrap();
    let means = ResendMeans {
        store: &world.store,
        providers: &providers::registry(&HttpClient::new(&world.settings.provider).unwrap()),
        snapshot: &world.directory.current(),
        small_batch: world.settings.intake.small_batch,
        canary: &world.settings.canary,
    };
    let request = ResendRequest {
        batch: Some(batch.0),
        reason: "r".to_owned(),
        send_at: Some(chrono::Utc::now() + chrono::TimeDelta::hours(1)),
        ..ResendRequest::default()
    };
    let by = Person { name: "ann".to_owned(), token: Uuid::new_v4() };
    let done = checklist::resend(means, TenantId(1), &by, &request).await.unwrap();
    (batch, BatchId(done.batches[0].batch_id.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_it_meanwhile_does_not_get_it_again() {
    let world = World::start(Plan::default()).await;
    let (batch, again) = failed_and_resent(&world, 4).await;
    let mut connection = world.database.connect().await;
    // The provider took two of them back then, and tells it now. One of the re-sends is being called already.
    sqlx::query("UPDATE work SET stage = 'calling', attempt = 1 WHERE batch_id = $1 AND seq = 2")
        .bind(again.0)
        .execute(&mut connection)
        .await
        .unwrap();
    let late = [1, 2].map(|seq| Change::new(MessageKey { batch_id: batch, seq }, 1, MessageEvent::Delivered));
    messages::apply(&mut connection, &late, RULES).await.unwrap();
    let mut upkeep = upkeep(&world);
    assert_eq!(upkeep.step().await.unwrap().cancelled, 1);
    let states = async |connection: &mut sqlx::PgConnection| -> Vec<String> {
        sqlx::query_scalar("SELECT state::text FROM message WHERE batch_id = $1 ORDER BY seq")
            .bind(again.0)
            .fetch_all(connection)
            .await
            .unwrap()
    };
    assert_eq!(states(&mut connection).await, ["cancelled", "pending", "pending", "pending"]);
    // The call comes back without having been made: it is given up then.
    let returned = Change::new(MessageKey { batch_id: again, seq: 2 }, 1, MessageEvent::Returned);
    messages::apply(&mut connection, &[returned], RULES).await.unwrap();
    assert_eq!(upkeep.step().await.unwrap().cancelled, 1);
    assert_eq!(states(&mut connection).await, ["cancelled", "cancelled", "pending", "pending"]);
    upkeep.step().await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM resend_in_vain").fetch_one(&mut connection).await.unwrap();
    assert_eq!(left, 0);
    world.finish().await;
}
