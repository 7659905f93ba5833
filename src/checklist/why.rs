//! Why a message or a batch waits: facts are read here, and [`crate::domain::why`] says what they mean.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ChecklistError;
use crate::{
    domain::{
        forecast::SHARE,
        ids::{BatchId, MessageKey, TenantId},
        lane::Lane,
        message::MessageState,
        resend::Again,
        why::{CallFacts, Facts, HoldFacts, Stage, Turn, Why, WorkFacts, explain},
    },
    providers::{self, ErrorRow},
    store::{
        Connection, Store, StoreError,
        checklist::{
            batches::{self, BatchRow},
            history,
            messages::{self, MessageRow},
            why::{self, DueGroup, Left, Way},
        },
    },
};

/// Why a message waits.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhyMessage {
    /// `<batch id>.<seq>`.
    pub message: String,
    /// Where it stands.
    pub state: String,
    /// The answer.
    #[serde(flatten)]
    pub why: Why,
}

/// Why a batch waits.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhyBatch {
    /// The batch.
    pub batch: Uuid,
    /// What is left of it.
    pub left: Left,
    /// The message that would go next, about which the answer is; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The answer.
    #[serde(flatten)]
    pub why: Why,
}

/// Why a tenant's message waits.
pub async fn why_message(
    store: &Store,
    providers: &providers::Registry,
    tenant: TenantId,
    key: MessageKey,
) -> Result<Option<WhyMessage>, ChecklistError> {
    let mut connection = store.acquire().await?;
    let Some(row) = messages::find(&mut connection, tenant, key).await? else {
        return Ok(None);
    };
    let Some(way) = why::way(&mut connection, tenant, key.batch_id).await? else {
        return Ok(None);
    };
    let facts = facts(&mut connection, providers, tenant, &row, way).await?;
    Ok(Some(WhyMessage { message: key.to_string(), state: row.state, why: explain(&facts) }))
}

/// Why a tenant's batch waits: why its next message does.
pub async fn why_batch(
    store: &Store,
    providers: &providers::Registry,
    tenant: TenantId,
    batch: BatchId,
) -> Result<Option<WhyBatch>, ChecklistError> {
    let mut connection = store.acquire().await?;
    let Some(way) = why::way(&mut connection, tenant, batch).await? else {
        return Ok(None);
    };
    let left = why::left(&mut connection, batch).await?;
    let next = why::next(&mut connection, batch).await?;
    let row = match next {
        Some(key) => messages::find(&mut connection, tenant, key).await?,
        None => None,
    };
    let why = match row {
        Some(row) => explain(&facts(&mut connection, providers, tenant, &row, way).await?),
        None if !way.batch.is_planned => {
            let key = MessageKey { batch_id: batch, seq: 0 };
            let holds = holds(&mut connection, providers, &way).await?;
            explain(&Facts { holds, ..bare(key, MessageState::Pending, way) })
        }
        None => through(batches::find(&mut connection, tenant, batch).await?.as_ref()),
    };
    Ok(Some(WhyBatch { batch: batch.0, left, message: next.map(|key| key.to_string()), why }))
}

/// Nothing is left of it.
fn through(batch: Option<&BatchRow>) -> Why {
    let balance = batch.map(|b| {
        let sent = b.accepted + b.sent + b.delivered + b.read;
        let not = b.failed + b.expired + b.suppressed + b.cancelled;
        format!(": {sent} were sent, {not} were not")
    });
    let summary = format!("nothing is left to do{}", balance.unwrap_or_default());
    Why { gate: None, summary, since: None, until: None, next: Vec::new(), gates: Vec::new() }
}

/// What is known of every message of a batch.
fn bare(message: MessageKey, state: MessageState, way: Way) -> Facts {
    Facts {
        message,
        now: way.now,
        state,
        state_since: None,
        failure: None,
        advice: None,
        may_resend: false,
        resent_as: None,
        suppression: None,
        batch: way.batch,
        work: None,
        last_call: None,
        holds: Vec::new(),
        number: way.number,
        has_worker: way.has_worker,
        turn: None,
    }
}

async fn facts(
    connection: &mut Connection,
    providers: &providers::Registry,
    tenant: TenantId,
    row: &MessageRow,
    way: Way,
) -> Result<Facts, StoreError> {
    let key = MessageKey { batch_id: BatchId(row.batch_id), seq: row.seq };
    let state = row.state.parse().unwrap_or(MessageState::Pending);
    let work = why::work(connection, key).await?;
    let last_call = why::last_call(connection, key).await?;
    let kin = history::kin(connection, key).await?;
    let holds = if state == MessageState::Pending { holds(connection, providers, &way).await? } else { Vec::new() };
    let turn = match &work {
        Some((work, group)) if work.stage == Stage::Ready && work.wake_at <= way.now && holds.is_empty() => {
            Some(turn(connection, key, work, *group, &way).await?)
        }
        Some(_) | None => None,
    };
    let suppression = match state {
        MessageState::Pending => why::suppression(connection, &way.route, tenant, &row.recipient).await?,
        _ => None,
    };
    let failure = row.failed_at.zip(row.code.clone()).map(|(at, code)| CallFacts {
        at,
        code,
        reason: row.reason.clone().unwrap_or_default(),
    });
    let code = failure.as_ref().or(last_call.as_ref()).map(|call| call.code.as_str());
    let known = code.and_then(|code| known(providers, &way, code));
    let may_resend = failure.is_some() && known.is_none_or(|known| super::resends::again(known) != Again::Never);
    Ok(Facts {
        state_since: since(row, state),
        advice: known.map(|known| known.advice.en.clone()),
        may_resend,
        resent_as: kin.and_then(|kin| kin.resent_in).map(|batch| MessageKey { batch_id: BatchId(batch), seq: row.seq }),
        work: work.map(|(work, _)| work),
        suppression,
        last_call,
        failure,
        holds,
        turn,
        ..bare(key, state, way)
    })
}

fn since(row: &MessageRow, state: MessageState) -> Option<DateTime<Utc>> {
    match state {
        MessageState::Pending | MessageState::Uncertain => None,
        MessageState::Accepted => row.accepted_at,
        MessageState::Sent => row.sent_at,
        MessageState::Delivered => row.delivered_at,
        MessageState::Read => row.read_at,
        MessageState::Failed | MessageState::Expired | MessageState::Suppressed | MessageState::Cancelled => {
            row.ended_at
        }
    }
}

fn known<'a>(providers: &'a providers::Registry, way: &Way, code: &str) -> Option<&'a ErrorRow> {
    providers.get(&way.route.provider)?.errors().get(code)
}

/// The open holds over the batch, with what the table of codes advises.
async fn holds(
    connection: &mut Connection,
    providers: &providers::Registry,
    way: &Way,
) -> Result<Vec<HoldFacts>, StoreError> {
    let mut holds = why::holds(connection, &way.route.scopes(way.batch.id)).await?;
    for hold in &mut holds {
        hold.advice = known(providers, way, &hold.cause).map(|known| known.advice.en.clone());
    }
    Ok(holds)
}

async fn turn(
    connection: &mut Connection,
    key: MessageKey,
    work: &WorkFacts,
    group: Uuid,
    way: &Way,
) -> Result<Turn, StoreError> {
    let groups = why::due_groups(connection, way.route.number, key, work.wake_at).await?;
    let ahead = ahead(&groups, way.route.lane, group);
    let rate = way.limit_per_s.map(|limit| f64::from(way.rate_per_s.unwrap_or(limit)) * SHARE);
    #[expect(clippy::cast_precision_loss, reason = "a number has far fewer than 2^52 messages")]
    let wait = rate.map(|rate| ahead as f64 / rate);
    #[expect(clippy::cast_possible_truncation, reason = "a wait of a lifetime is far below")]
    let wait = wait.and_then(|wait| TimeDelta::try_milliseconds((wait * 1000.0) as i64));
    let at = wait.and_then(|wait| way.now.checked_add_signed(wait)).unwrap_or(way.now);
    Ok(Turn { ahead, rate_per_s: rate, is_slowed: way.rate_per_s.is_some(), at })
}

/// How many messages go before one that is due: what is due in earlier lanes, what is due earlier in its own turn, and as
/// many of each other turn of its lane.
fn ahead(groups: &[DueGroup], lane: Lane, group: Uuid) -> i64 {
    let mine = groups.iter().find(|g| g.lane == lane && g.group == group).map_or(0, |g| g.before);
    let others = groups.iter().map(|g| match g.lane.cmp(&lane) {
        std::cmp::Ordering::Less => g.messages,
        std::cmp::Ordering::Equal if g.group != group => g.messages.min(mine),
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => 0,
    });
    mine + others.sum::<i64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_lanes_go_first_and_turns_are_equal() {
        let due = |lane, group, messages, before| DueGroup { lane, group: Uuid::from_u128(group), messages, before };
        let groups = [
            due(Lane::Authentication, 0, 5, 5),
            due(Lane::Utility, 0, 10, 9),
            due(Lane::Marketing, 1, 1_000_000, 900_000),
            due(Lane::Marketing, 2, 50, 20),
        ];
        let of = |lane, group| ahead(&groups, lane, Uuid::from_u128(group));
        assert_eq!(of(Lane::Authentication, 0), 5);
        assert_eq!(of(Lane::Utility, 0), 9 + 5);
        assert_eq!(of(Lane::Marketing, 2), 20 + 20 + 15, "a small batch does not wait for a large one");
        assert_eq!(of(Lane::Marketing, 1), 900_000 + 50 + 15);
        assert_eq!(of(Lane::Marketing, 3), 15);
    }
}
