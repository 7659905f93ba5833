//! After the database went back in time: what may have been called is marked uncertain, so that nothing of it is called
//! again before a callback, the policy or a person has decided.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::{
        failure::FailureClass,
        ids::{BatchId, MessageKey},
        message::MessageEvent,
    },
    store::{
        Store, StoreError,
        messages::{self, Applied, Change, Failure, Rules},
        work::recover,
    },
};

/// Messages per transaction.
const CHUNK: i64 = 2000;
/// Messages per request: it is answered in seconds, and the next one goes on.
const MOST: usize = 20_000;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// The last instant of which the database surely knows everything.
    pub since: DateTime<Utc>,
    /// Only counts.
    pub is_rehearsal: bool,
    /// Goes on after this message.
    pub after: Option<MessageKey>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Recovered {
    /// Messages that may have been called.
    pub found: usize,
    /// Those that are uncertain now because of this; none when it was only counted.
    pub marked: usize,
    /// What to give as `after` to go on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// What became due later was not called: since then everything is held, or this is now.
    pub until: DateTime<Utc>,
    /// The hold over everything, to be closed at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<i64>,
}

/// Marks what may have been called since the wish's instant. Running it again marks nothing twice.
pub async fn recover(store: &Store, rules: Rules, wish: Wish) -> Result<Recovered, StoreError> {
    let mut connection = store.acquire().await?;
    let until = recover::until(&mut connection).await?;
    let hold = until.hold.map(|hold| hold.0);
    let mut done = Recovered { until: until.at, hold, ..Recovered::default() };
    let mut after = wish.after.unwrap_or(MessageKey { batch_id: BatchId(Uuid::nil()), seq: 0 });
    loop {
        let rows = recover::doubtful(&mut connection, wish.since, until.at, after, CHUNK).await?;
        let Some((last, _)) = rows.last().copied() else {
            return Ok(done);
        };
        done.found += rows.len();
        if !wish.is_rehearsal {
            let changes: Vec<Change> = rows.iter().map(|(key, attempt)| lost(*key, *attempt)).collect();
            let outcome = messages::apply(&mut connection, &changes, rules).await?;
            let moved = outcome.applied.iter().filter(|a| matches!(a, Some(Applied::Moved { .. })));
            done.marked += moved.count();
        }
        after = last;
        if done.found >= MOST {
            done.next = Some(last.to_string());
            return Ok(done);
        }
    }
}

fn lost(key: MessageKey, attempt: i16) -> Change {
    let failure = Failure {
        code: "recovered".to_owned(),
        class: FailureClass::Uncertain,
        reason: "the database went back in time: it may have been called since".to_owned(),
    };
    Change { failure: Some(failure), ..Change::new(key, attempt, MessageEvent::Recovered) }
}
