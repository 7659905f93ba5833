//! Jobs that say themselves how many of their messages go out first.

use serde_json::{Value, json};

use super::{World, accepted, job, phone, rejected, to};

fn watched(id: &str, people: usize, canary: Value) -> Value {
    let recipients: Vec<Value> = (0..people).map(|n| to(&phone(n))).collect();
    let mut body = job(id, &recipients);
    body["canary"] = canary;
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_any_size_may_have_a_canary_or_do_without() {
    let mut world = World::new().await;
    let first = json!({"messages": 3, "wait": "2h", "fault_percent": 50});
    let small = accepted(world.give(watched("small", 10, first.clone())).await);
    assert!(small.holds.is_empty(), "what goes on by itself is nothing to be told of");
    let kept: String = world
        .db
        .one("SELECT concat_ws(' ', messages, fault_percent, wait_s, h.detail) FROM canary c JOIN hold h ON h.id = c.hold_id")
        .await;
    assert_eq!(kept, "3 50 7200 the first 3 messages go out alone");
    let own_turn: i64 = world.db.one("SELECT count(*) FROM work WHERE stage = 'ready' AND turn_group = batch_id").await;
    assert_eq!(own_turn, 10, "others do not wait for it");
    // Three are all of three: there is nobody to be spared.
    accepted(world.give(watched("three", 3, first)).await);
    accepted(world.give(watched("none", 101, json!(false))).await);
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM canary").await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_canary_is_told_field_by_field() {
    let mut world = World::new().await;
    let mut told = async |canary: Value| {
        let errors = rejected(world.give(watched("1", 1, canary)).await).errors;
        errors.into_iter().map(|error| format!("{} {}", error.pointer, error.code)).collect::<Vec<_>>()
    };
    assert_eq!(told(json!(7)).await, ["/canary wrong_type"]);
    assert_eq!(told(json!(true)).await, ["/canary ill_formed"]);
    assert_eq!(told(json!({"wait": 5})).await, ["/canary/messages missing_field", "/canary/wait wrong_type"]);
    let form = json!({"messages": 2.5, "wait": "1m", "size": 1});
    assert_eq!(told(form).await, ["/canary/size unknown_field", "/canary/messages wrong_type"]);
    let meaning = json!({"messages": 10_001, "wait": "soon", "fault_percent": 101});
    let expected = ["/canary/messages ill_formed", "/canary/wait ill_formed", "/canary/fault_percent ill_formed"];
    assert_eq!(told(meaning).await, expected);
    world.end().await;
}
