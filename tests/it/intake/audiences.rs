//! Files of recipients, and the batches made from them.

use campaign_dispatch::intake::{import::ImportError, plan};
use serde_json::{Value, json};

use super::{World, accepted, job, rejected};

/// Eight good rows, a blank one, three bad ones, as Japanese Excel saves them.
fn file() -> Vec<u8> {
    let good = (0..8).map(|n| format!("090{:08};顧客{n};crm-{n}\r\n", 12_345_000 + n));
    let bad = "\r\n090-1;x;\r\n+81 90-1234-5003;again;\r\n09012345099;;\r\n";
    let text = format!("to;name;ref\r\n{}{bad}", good.collect::<String>());
    encoding_rs::SHIFT_JIS.encode(&text).0.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_imported_and_its_bad_rows_are_told() {
    let world = World::new().await;
    let summary = world.import(&file(), false).await.unwrap();
    assert_eq!((summary.rows, summary.good, summary.bad), (11, 8, 3));
    let told = summary.rejections.iter().map(|r| (r.row, r.field.as_str(), r.code.as_str()));
    let expected = [(11, "to", "invalid_number"), (12, "to", "duplicate_recipient"), (13, "name", "missing_slot")];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let reason = &summary.rejections[1].reason;
    assert!(reason.contains("row 5"), "{reason}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_is_planned_in_chunks_and_taken_up_where_it_was_left() {
    let mut world = World::new().await;
    let summary = world.import(&file(), false).await.unwrap();
    let mut body = job("1", &[]);
    body["audience"] = json!({"import": summary.id});
    body.as_object_mut().unwrap().remove("recipients");
    let mut lacking = body.clone();
    lacking["params"] = json!({});
    let refused = rejected(world.give(lacking).await);
    assert_eq!(refused.errors[0].pointer, "/params/body.shop");
    let answer = accepted(world.give(body.clone()).await);
    assert_eq!((answer.accepted, answer.rejected), (8, 0));
    let mut planner = world.intake.planner();
    assert_eq!(planner.step().await.unwrap(), plan::Step::Made(3));
    drop(planner);
    let mut planner = world.intake.planner();
    assert_eq!(planner.step().await.unwrap(), plan::Step::Made(3));
    let state: String = world.db.one("SELECT state::text || recipients FROM batch").await;
    assert_eq!(state, "planning6");
    assert_eq!(planner.step().await.unwrap(), plan::Step::Finished(2));
    assert_eq!(planner.step().await.unwrap(), plan::Step::Idle);
    let sql = "SELECT string_agg(recipient || coalesce(ref, ''), ' ' ORDER BY seq) FROM message";
    let made: String = world.db.one(sql).await;
    assert!(made.starts_with("+819012345000crm-0 +819012345001crm-1"), "{made}");
    assert!(made.ends_with("+819012345007crm-7"), "{made}");
    let own_turn: bool = world.db.one("SELECT bool_and(turn_group = batch_id) FROM work").await;
    assert!(own_turn);
    assert_eq!(accepted(world.give(body).await), answer);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_column_is_refused_unless_told_to_ignore_it() {
    let world = World::new().await;
    let file = b"to,nmae,name\n+819012345001,x,y\n";
    let Err(ImportError::Refused(errors)) = world.import(file, false).await else { panic!("taken") };
    assert_eq!((errors[0].code.as_ref(), errors[0].pointer.as_str()), ("unknown_column", "/nmae"));
    assert!(!errors[0].did_you_mean.is_empty());
    assert_eq!(world.db.one::<String>("SELECT state FROM import").await, "failed");
    assert_eq!(world.import(file, true).await.unwrap().good, 1);
    world.end().await;
}

#[tokio::test]
async fn a_large_marketing_batch_opens_with_a_canary_and_its_work_is_not_parked() {
    let mut world = World::new().await;
    let people = |count: u32| -> Vec<Value> {
        (0..count)
            .map(|i| json!({"to": format!("+8190{:08}", 10_000_000 + i), "params": {"body.name": "佐藤"}}))
            .collect()
    };
    let large = accepted(world.give(job("large", &people(101))).await);
    let middle = accepted(world.give(job("middle", &people(100))).await);
    assert!(large.holds.is_empty() && middle.holds.is_empty(), "what goes on by itself is nothing to be told of");
    let canary: (String, String) = sqlx::query_as(
        "SELECT h.scope, h.resume || ' ' || c.messages FROM canary c JOIN hold h ON h.id = c.hold_id AND h.closed_at IS NULL",
    )
    .fetch_one(world.db.store.pool())
    .await
    .unwrap();
    assert_eq!(canary, (format!("batch:{}", large.batch_id), "canary 20".to_owned()));
    assert_eq!(world.db.one::<i64>("SELECT count(*) FROM work WHERE stage <> 'ready'").await, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_broke_off_goes_on_where_it_was() {
    let world = World::new().await;
    let id = Some(uuid::Uuid::now_v7());
    // Every thousandth is no number, every thousand and first stands there already.
    let rows = (0..12_000).map(|i| match i % 1000 {
        999 => "12,x,y\n".to_owned(),
        998 => "+819010000000,x,y\n".to_owned(),
        _ => format!("+8190{:08},佐藤,渋谷店\n", 10_000_000 + i),
    });
    let file: String = std::iter::once("to,name,shop\n".to_owned()).chain(rows).collect();
    let piece = |text: &str| Ok(bytes::Bytes::copy_from_slice(text.as_bytes()));
    let half = file.char_indices().nth(file.chars().count() * 6 / 10).unwrap().0;
    let cut = vec![piece(&file[..half]), Err(std::io::ErrorKind::ConnectionReset.into())];
    let refused = |result| match result {
        Err(ImportError::Refused(errors)) => errors[0].code.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(world.upload(id, cut, false).await), "cut_off");
    let kept: String = world.db.one("SELECT state || ' ' || rows FROM import").await;
    assert_eq!(kept, "reading 5000");
    let other = file.replace("佐藤", "鈴木");
    assert_eq!(refused(world.upload(id, vec![piece(&other)], false).await), "other_file");
    assert_eq!(refused(world.upload(id, vec![piece("to,name,shop\n")], false).await), "other_file");
    let summary = world.upload(id, vec![piece(&file)], false).await.unwrap();
    assert_eq!((summary.rows, summary.good, summary.bad), (12_000, 11_976, 24));
    assert_eq!(summary.rejections.len(), 24);
    let rows: i64 = world.db.one("SELECT count(*) FROM import_row").await;
    assert_eq!(rows, 11_976);
    // Whoever did not hear the answer asks again.
    assert_eq!(world.upload(id, vec![piece(&file)], false).await.unwrap(), summary);
    world.end().await;
}
