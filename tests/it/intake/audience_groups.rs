//! Jobs that name an audience group: read and frozen when they are taken, beside their lane, all or nothing.

use std::sync::Arc;

use campaign_dispatch::{
    domain::{Channel, ids::TenantId, template::Params},
    intake::{Claim, Intake, IntakeLane, JobAnswer, Road, Submission, members, plan},
    settings::Settings,
    store::audiences::{self, NewAudience},
    upkeep::janitor::Janitor,
};
use lapin::BasicProperties;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;

use super::{World, accepted, job, phone, rejected, to};
use crate::support::{eventually::eventually, soon};

const TENANT: TenantId = TenantId(1);

/// Makes a group of WhatsApp.
pub(super) async fn group(world: &World, name: &str) -> members::Target {
    let new =
        NewAudience { name, channel: Channel::Whatsapp.as_str(), time_zone: Some("Asia/Tokyo"), country: Some("JP") };
    let mut connection = world.db.store.acquire().await.unwrap();
    let made = audiences::insert(&mut connection, TENANT, &new).await.unwrap().unwrap();
    members::Target::new(&made, None).unwrap()
}

pub(super) async fn add(world: &World, target: members::Target, members: &[Value]) {
    let report = members::add(&world.db.store, target, members).await.unwrap();
    assert_eq!(report.bad, 0, "{report:?}");
}

pub(super) fn named(id: &str, group: &str) -> Value {
    let mut body = job(id, &[]);
    body.as_object_mut().unwrap().remove("recipients");
    body["audience"] = json!({ "group": group });
    body
}

fn submission(body: &Value, is_dry_run: bool) -> Submission {
    let claim = Claim::Token { tenant: TENANT, producer: None };
    Submission { claim, body: body.to_string().into_bytes().into(), is_dry_run }
}

/// Gives a job as HTTP does, with the lane going on until it is answered.
pub(super) async fn give_to(intake: &Intake, lane: &mut IntakeLane, body: &Value) -> JobAnswer {
    let stop = CancellationToken::new();
    let answer = intake.submit(Road::Bulk, submission(body, false));
    let going_on = async {
        loop {
            lane.step(&stop).await;
        }
    };
    tokio::select! {
        answer = soon("the answer", answer) => answer.unwrap(),
        () = going_on => unreachable!("a lane does not end by itself"),
    }
}

pub(super) async fn give(world: &mut World, body: &Value) -> JobAnswer {
    give_to(&world.intake, &mut world.lanes[0], body).await
}

async fn rehearse(world: &World, body: &Value) -> JobAnswer {
    world.intake.submit(Road::Bulk, submission(body, true)).await.unwrap()
}

pub(super) async fn planned(world: &World) {
    let mut planner = world.intake.planner();
    while planner.step().await.unwrap() != plan::Step::Idle {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_frozen_when_the_job_is_taken() {
    let mut world = World::new().await;
    let vip = group(&world, "vip").await;
    let five: Vec<Value> =
        (0..5).map(|n| json!({"to": phone(n), "params": {"name": format!("n{n}"), "city": "Kyoto"}})).collect();
    add(&world, vip, &five).await;
    add(&world, vip, &[json!({"to": phone(5), "params": {"body.name": "a\tb"}, "time_zone": "Asia/Seoul"})]).await;
    add(&world, vip, &[json!({"to": phone(6), "ref": "crm-6"})]).await;

    let rehearsed = accepted(rehearse(&world, &named("1", "vip")).await);
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM import").await, 0, "a dry run keeps nothing");
    let answer = accepted(give(&mut world, &named("1", "vip")).await);
    assert_eq!((answer.accepted, answer.rejected), (5, 2));
    let told: Vec<_> = answer.rejections.iter().map(|r| (r.row, r.pointer.as_str(), r.code.as_ref())).collect();
    let at = "/audience/group/params/body.name";
    assert_eq!(told, [(7, at, "ill_formed"), (8, at, "missing_slot")]);
    assert_eq!((rehearsed.accepted, rehearsed.rejected, &rehearsed.rejections), (5, 2, &answer.rejections));

    // Whatever becomes of the group, the batch has whom it had.
    world.db.run("DELETE FROM audience_member; DELETE FROM audience").await;
    planned(&world).await;
    let made: String = world
        .db
        .one("SELECT string_agg(recipient || ' ' || time_zone || ' ' || params::text, ',' ORDER BY seq) FROM message")
        .await;
    let expected: Vec<String> = (0..5).map(|n| format!("{} Asia/Tokyo {{\"name\": \"n{n}\"}}", phone(n))).collect();
    assert_eq!(made, expected.join(","), "only the template's values go with a message");
    let rejected: String = world.db.one("SELECT state::text || ' ' || recipients || ' ' || rejected FROM batch").await;
    assert_eq!(rejected, "planned 5 2");

    // A repeat finds the first answer and copies nothing, though there is no such group any more.
    assert_eq!(accepted(give(&mut world, &named("1", "vip")).await), answer);
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM import").await, 1);

    // What has become messages is not kept twice; why the others were refused stays with the batch.
    let settings = Arc::new(Settings::load(None, std::iter::empty()).unwrap());
    let mut janitor = Janitor::new(&world.db.store, settings, Arc::default(), CancellationToken::new());
    janitor.tidy().await.unwrap();
    let left: String =
        world.db.one("SELECT (SELECT count(*) FROM import_row) || ' ' || (SELECT count(*) FROM import_rejected)").await;
    assert_eq!(left, "0 2");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_own_values_are_for_all_who_have_none() {
    let mut world = World::new().await;
    let vip = group(&world, "vip").await;
    add(
        &world,
        vip,
        &[json!({"to": phone(1)}), json!({"to": phone(2)}), json!({"to": phone(3), "params": {"name": "鈴木"}})],
    )
    .await;
    let mut body = named("1", "vip");
    body["params"] = json!({"body.shop": "渋谷店", "body.name": "お客様"});
    let answer = accepted(give(&mut world, &body).await);
    assert_eq!((answer.accepted, answer.rejected), (3, 0));
    planned(&world).await;
    let own: i64 = world.db.one("SELECT count(*) FROM message WHERE params IS NOT NULL").await;
    assert_eq!(own, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_be_sent_to_is_refused_and_nothing_is_kept() {
    let mut world = World::new().await;
    let vip = group(&world, "vip").await;
    group(&world, "none").await;
    let misfits = group(&world, "misfits").await;
    add(&world, vip, &[to(&phone(1))]).await;
    add(&world, misfits, &[json!({"to": phone(1)}), json!({"to": phone(2), "params": {"name": "\t"}})]).await;
    world.db.run("INSERT INTO audience (tenant_id, name, channel, members) VALUES (1, 'mail', 'email', 1)").await;
    for (name, code) in [
        ("vipp", "unknown_audience"),
        ("none", "empty_audience"),
        ("mail", "wrong_channel"),
        ("misfits", "no_good_recipient"),
    ] {
        for is_real in [false, true] {
            let body = named("1", name);
            let answer = if is_real { give(&mut world, &body).await } else { rehearse(&world, &body).await };
            assert_eq!(answer.http_status(), 422);
            let first = &rejected(answer).errors[0];
            assert_eq!((first.code.as_ref(), first.pointer.as_str()), (code, "/audience/group"), "{name} {is_real}");
            assert_eq!(first.did_you_mean, if name == "vipp" { vec!["vip".to_owned()] } else { Vec::new() });
        }
    }
    let left: i64 = world
        .db
        .one("SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM import) + (SELECT count(*) FROM import_row) + (SELECT count(*) FROM import_rejected)")
        .await;
    assert_eq!(left, 0);
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM rejected_job").await, 4, "and each refusal is listed");
    // The job id is still free.
    assert_eq!(accepted(give(&mut world, &named("1", "vip")).await).accepted, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_no_import_for_others() {
    let mut world = World::new().await;
    let vip = group(&world, "vip").await;
    add(&world, vip, &[to(&phone(1))]).await;
    accepted(give(&mut world, &named("1", "vip")).await);
    let copy: uuid::Uuid = world.db.one("SELECT id FROM import").await;
    let mut other = named("2", "vip");
    other["audience"] = json!({ "import": copy });
    assert_eq!(rejected(give(&mut world, &other).await).errors[0].code, "unknown_import");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_job_in_several_processes_copies_once() {
    let mut world = World::new().await;
    let vip = group(&world, "vip").await;
    let people: Vec<Value> = (0..500).map(|n| to(&phone(n))).collect();
    add(&world, vip, &people).await;
    let mut others: Vec<_> = (0..3).map(|_| world.beside()).collect();
    let body = named("1", "vip");
    let elsewhere = others.iter_mut().map(|(intake, [lane, _])| give_to(intake, lane, &body));
    let (here, elsewhere) =
        tokio::join!(give_to(&world.intake, &mut world.lanes[0], &body), futures_util::future::join_all(elsewhere));
    let first = accepted(here);
    assert_eq!(first.accepted, 500);
    for answer in elsewhere {
        assert_eq!(accepted(answer), first);
    }
    let kept: String = world
        .db
        .one("SELECT (SELECT count(*) FROM import) || ' ' || (SELECT count(*) FROM import_row) || ' ' || (SELECT count(*) FROM batch)")
        .await;
    assert_eq!(kept, "1 500 1");
    planned(&world).await;
    drop(others);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_while_a_group_is_copied_and_a_cancellation_waits_for_it() {
    let mut world = World::new().await;
    let vip = group(&world, "vip").await;
    add(&world, vip, &[to(&phone(1))]).await;
    let mut blocker = world.db.store.connect("test").await.unwrap();
    let mut lock = blocker.begin().await.unwrap();
    sqlx::query("LOCK TABLE import_row IN SHARE MODE").execute(&mut *lock).await.unwrap();
    let cancel = json!({"schema": "cancel-job/v1", "producer": "shop", "job_id": "large"});
    world.take("jobs", named("large", "vip").to_string().as_bytes(), BasicProperties::default()).await;
    world.take("jobs", cancel.to_string().as_bytes(), BasicProperties::default()).await;
    let small = accepted(give(&mut world, &job("small", &[to(&phone(2))])).await);
    assert_eq!(small.accepted, 1);
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM batch").await, 1, "the group is still being copied");
    lock.rollback().await.unwrap();
    let stop = CancellationToken::new();
    soon("the copy is made", world.lanes[0].step(&stop)).await;
    let batches: String = world
        .db
        .one("SELECT string_agg(job_id || ' ' || (cancelled_at IS NOT NULL), ',' ORDER BY job_id) FROM batch")
        .await;
    assert_eq!(batches, "large true,small false");
    planned(&world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_it_copies_leaves_nothing_half() {
    let mut world = World::new().await;
    let vip = group(&world, "vip").await;
    add(&world, vip, &[to(&phone(1)), json!({"to": phone(2)})]).await;
    let (intake, [mut lane, _urgent]) = world.beside();
    let mut blocker = world.db.store.connect("test").await.unwrap();
    let mut lock = blocker.begin().await.unwrap();
    // The copy is made, and its refused members cannot be told.
    sqlx::query("LOCK TABLE import_rejected IN SHARE MODE").execute(&mut *lock).await.unwrap();
    let stop = CancellationToken::new();
    let body = named("1", "vip");
    let answer = tokio::spawn({
        let (intake, submission) = (intake.clone(), submission(&body, false));
        async move { intake.submit(Road::Bulk, submission).await }
    });
    soon("the job is taken", lane.step(&stop)).await;
    eventually("the copy waits", std::time::Duration::from_secs(20), async || {
        let waiting: i64 = world.db.one("SELECT count(*) FROM pg_locks WHERE NOT granted").await;
        (waiting > 0).then_some(())
    })
    .await;
    drop(lane);
    assert!(answer.await.unwrap().is_err(), "nobody says that it was taken");
    lock.rollback().await.unwrap();
    eventually("it is given up", std::time::Duration::from_secs(20), async || {
        let open: i64 = world
            .db
            .one("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%intake audience%'")
            .await;
        (open == 0).then_some(())
    })
    .await;
    let left: i64 = world.db.one("SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM import_row)").await;
    assert_eq!(left, 0);
    assert_eq!(accepted(give(&mut world, &body).await).accepted, 1);
    planned(&world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_group_is_checked_member_by_member() {
    let mut world = World::new().await;
    group(&world, "many").await;
    // Two in three have values of their own, one in ten is ill-formed.
    world
        .db
        .run(
            "INSERT INTO audience_member (audience_id, recipient, params)
             SELECT id, '+8190' || (10000000 + i), CASE WHEN i % 3 = 0 THEN '{}'::jsonb
                    ELSE jsonb_build_object('body.name', CASE WHEN i % 10 = 1 THEN 'a' || chr(9) ELSE 'n' || i END) END
             FROM audience, generate_series(1, 30000) i;
             UPDATE audience SET members = 30000",
        )
        .await;
    let mut body = named("1", "many");
    body["params"] =
        json!(Params::from([("shop".to_owned(), "渋谷店".to_owned()), ("name".to_owned(), "お客様".to_owned())]));
    let rehearsed = accepted(rehearse(&world, &body).await);
    let answer = accepted(give(&mut world, &body).await);
    assert_eq!((answer.accepted, answer.rejected, answer.rejections.len()), (28_000, 2000, 100));
    assert_eq!((rehearsed.accepted, rehearsed.rejected, &rehearsed.rejections), (28_000, 2000, &answer.rejections));
    let rows: i64 = world.db.one("SELECT count(*) FROM import_row").await;
    assert_eq!(rows, 28_000);
    let wrong: i64 = world.db.one("SELECT count(*) FROM import_row WHERE params::text LIKE '%\\t%'").await;
    assert_eq!(wrong, 0);
    world.db.run("UPDATE batch SET cancelled_at = now()").await;
    planned(&world).await;
    world.end().await;
}
