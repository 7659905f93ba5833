//! Retries of messages whose recipients have hours.

use std::{collections::BTreeSet, time::Duration};

use campaign_dispatch::{
    domain::{
        event::Wanted,
        failure::FailureClass,
        ids::MessageKey,
        message::{MessageEvent, MessageState},
        schedule::{Hours, Windows},
    },
    store::messages::{self, Applied, Change, Failure, Next, Rules},
};
use chrono::{DateTime, Utc};
use chrono_tz::Asia::Tokyo;
use sqlx::types::Json;

use super::support::{
    hours::TwoHours,
    world::{Plan, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_keeps_to_the_window_of_its_recipient() {
    let world = World::start(Plan::default()).await;
    let batch = world.batch(world.number(1), "offer", 0, 2).await;
    let mut connection = world.database.connect().await;
    let two = TwoHours::open_in(Tokyo, Utc::now());
    let mut faults = Vec::new();
    let windows = Windows::read(&serde_json::from_value::<Vec<_>>(two.spans()).unwrap(), &mut faults);
    assert_eq!(faults, []);
    sqlx::query("UPDATE batch SET windows = $1, expires_at = now() + interval '12 hours'")
        .bind(Json(Hours { windows, closed: BTreeSet::new(), zone: Tokyo }))
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::query("UPDATE work SET stage = 'calling', attempt = 1, until = now() + interval '5 seconds'")
        .execute(&mut connection)
        .await
        .unwrap();
    let failed = |seq, event, after| Change {
        failure: Some(Failure {
            code: "130472".to_owned(),
            class: FailureClass::Transient,
            reason: "try again".to_owned(),
        }),
        next: Next::Wait { after: Duration::from_secs(after), charged: true },
        ..Change::new(MessageKey { batch_id: batch, seq }, 1, event)
    };
    let changes = [
        // The provider takes it, and says later that it failed: its work comes back.
        Change::new(MessageKey { batch_id: batch, seq: 1 }, 1, MessageEvent::Accepted),
        failed(2, MessageEvent::Returned, 10),
    ];
    let rules = Rules { grace: Duration::from_mins(1), events: Wanted::DEFAULT };
    let done = messages::apply(&mut connection, &changes, rules).await.unwrap();
    // The other retry would come after the window.
    let moved = Applied::Moved { from: MessageState::Pending, to: MessageState::Failed };
    assert_eq!(done.applied[1], Some(moved));
    messages::apply(&mut connection, &[failed(1, MessageEvent::FailedForNow, 1)], rules).await.unwrap();
    let (seq, until): (i32, DateTime<Utc>) =
        sqlx::query_as("SELECT seq, until FROM work").fetch_one(&mut connection).await.unwrap();
    assert_eq!((seq, until), (1, two.next(Tokyo, Utc::now()).1));
    drop(connection);
    world.finish().await;
}
