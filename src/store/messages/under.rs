//! What calls that a hold let through came to: a probe that was accepted closes its hold, and the first messages of a
//! batch decide about the rest.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Change, Next, Under};
use crate::{
    domain::{
        canary::{Says, Verdict, says, verdict},
        ids::{HoldId, MessageKey, NumberId},
        message::MessageEvent,
    },
    store::{Doing as _, StoreError},
};

/// Counts by hold.
#[derive(Debug, Default)]
pub(super) struct Let {
    accepted: BTreeSet<HoldId>,
    canaries: BTreeMap<HoldId, Counts>,
    /// Calls that a callback ended before their answer was settled.
    called_back: BTreeSet<MessageKey>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    back: i32,
    good: i32,
    faulty: i32,
}

/// What became of the holds.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) closed: usize,
    pub(super) canaries: Vec<NumberId>,
}

impl Let {
    /// Counts the outcome of a call that was let through.
    pub(super) fn take(&mut self, under: &Under, change: &Change) {
        match under {
            Under::Probe(holds) => {
                if change.event == MessageEvent::Accepted {
                    self.accepted.extend(holds.iter().copied());
                }
            }
            Under::Canary(hold) => {
                let counts = self.canaries.entry(*hold).or_default();
                match said_by(change) {
                    Says::Good => counts.good += 1,
                    Says::Faulty => counts.faulty += 1,
                    Says::Nothing => counts.back += 1,
                }
            }
        }
    }

    /// Counts a callback that is faster than the answer to its call, whose settle will find no open call any more: there is
    /// none for a call that the provider has not taken.
    pub(super) fn take_callback(&mut self, change: &Change) {
        use MessageEvent::{Delivered, Failed, FailedForNow, Read, Sent};
        if matches!(change.event, Sent | Delivered | Read | Failed | FailedForNow) {
            self.called_back.insert(change.key);
        }
    }

    /// The counts with those of the callbacks, whose batches may have a canary.
    async fn counts(&self, tx: &mut PgConnection) -> Result<BTreeMap<HoldId, Counts>, StoreError> {
        let mut canaries = self.canaries.clone();
        if self.called_back.is_empty() {
            return Ok(canaries);
        }
        let batches: Vec<Uuid> = self.called_back.iter().map(|key| key.batch_id.0).collect();
        let rows = sqlx::query!(
            r#"SELECT c.hold_id, count(*)::integer AS "good!"
               FROM unnest($1::uuid[]) AS u(batch_id)
               JOIN canary c USING (batch_id)
               JOIN hold h ON h.id = c.hold_id AND h.closed_at IS NULL AND h.resume = 'canary'
               GROUP BY c.hold_id"#,
            &batches
        )
        .fetch_all(tx)
        .await
        .doing("look for the canaries of callbacks")?;
        for row in rows {
            canaries.entry(HoldId(row.hold_id)).or_default().good += row.good;
        }
        Ok(canaries)
    }
}

fn said_by(change: &Change) -> Says {
    match (change.event, &change.next, &change.failure) {
        (MessageEvent::Accepted, ..) => Says::Good,
        (MessageEvent::Refused, ..) | (MessageEvent::Returned, Next::Park(_), _) => {
            change.failure.as_ref().map_or(Says::Nothing, |failure| says(failure.class))
        }
        _ => Says::Nothing,
    }
}

/// Writes the counts, each hold by key, and ends the holds that are decided.
pub(super) async fn write(tx: &mut PgConnection, found: &Let) -> Result<Ended, StoreError> {
    let mut ended = Ended::default();
    for (hold, counts) in &found.counts(tx).await? {
        let row = sqlx::query!(
            "UPDATE canary SET let_through = greatest(let_through - $2, 0), good = good + $3, faulty = faulty + $4
             WHERE hold_id = $1 RETURNING number_id, messages, fault_percent, good, faulty",
            hold.0,
            counts.back,
            counts.good,
            counts.faulty
        )
        .fetch_optional(&mut *tx)
        .await
        .doing("count the first messages of a batch")?;
        let Some(row) = row else { continue };
        ended.canaries.push(NumberId(row.number_id));
        match verdict(row.messages, row.fault_percent, row.good, row.faulty) {
            Verdict::Wait => {}
            Verdict::Pass => ended.closed += close(tx, *hold, "canary", "the first messages fared well").await?,
            Verdict::Stay => {
                let detail = format!("{} of the first {} messages were stopped by a fault", row.faulty, row.messages);
                ended.closed += stay(tx, *hold, &detail).await?;
            }
        }
    }
    for hold in &found.accepted {
        ended.closed += close(tx, *hold, "probe", "a message that was let through was accepted").await?;
    }
    Ok(ended)
}

async fn close(tx: &mut PgConnection, hold: HoldId, by: &str, reason: &str) -> Result<usize, StoreError> {
    let done = sqlx::query!(
        "UPDATE hold SET closed_at = now(), closed_by = $2, reason = $3
         WHERE id = $1 AND closed_at IS NULL AND resume = $2",
        hold.0,
        by,
        reason
    )
    .execute(tx)
    .await
    .doing("close a hold")?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or_default())
}

/// From here on it is a hold like others, for a person.
async fn stay(tx: &mut PgConnection, hold: HoldId, detail: &str) -> Result<usize, StoreError> {
    let done = sqlx::query!(
        "UPDATE hold SET resume = 'person', detail = $2 WHERE id = $1 AND closed_at IS NULL AND resume = 'canary'",
        hold.0,
        detail
    )
    .execute(tx)
    .await
    .doing("keep a batch for a person")?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or_default())
}
