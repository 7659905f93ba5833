//! What was decided about uncertain messages, written in the transaction that does it.

use std::sync::Arc;

use sqlx::PgConnection;

use super::{Change, Failure, rows::columns};
use crate::{
    domain::{failure::FailureClass, ids::MessageKey, message::MessageEvent, uncertain::Decided},
    store::{Doing as _, StoreError},
};

/// A decision about uncertain messages. A change that carries one does nothing to a message that is not uncertain any
/// more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// What was decided.
    pub decided: Decided,
    /// `policy`, or `token:<name>`.
    pub by: String,
    /// Why.
    pub reason: String,
    /// What it was decided by.
    pub evidence: String,
}

impl Change {
    /// What a decision does to the call that is in doubt.
    pub fn ruled(key: MessageKey, attempt: i16, ruling: &Arc<Ruling>) -> Self {
        let event = match ruling.decided {
            Decided::Sent => MessageEvent::Accepted,
            Decided::Failed => MessageEvent::Refused,
            Decided::Resend => MessageEvent::Returned,
        };
        let failure = (ruling.decided == Decided::Failed).then(|| Failure {
            code: "unknown_outcome".to_owned(),
            class: FailureClass::Uncertain,
            reason: format!("nobody knows whether the call was taken; {}: {}", ruling.by, ruling.reason),
        });
        Self { failure, ruling: Some(Arc::clone(ruling)), ..Self::new(key, attempt, event) }
    }
}

/// A decision that moved its message.
#[derive(Debug, Clone)]
pub(super) struct DecisionWrite {
    pub(super) key: MessageKey,
    pub(super) attempt: i16,
    pub(super) ruling: Arc<Ruling>,
}

pub(super) async fn write(tx: &mut PgConnection, writes: &[DecisionWrite]) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let (batches, seqs) = columns(writes.iter().map(|w| &w.key));
    let attempts: Vec<i16> = writes.iter().map(|w| w.attempt).collect();
    let decided: Vec<&str> = writes.iter().map(|w| w.ruling.decided.as_str()).collect();
    let by: Vec<&str> = writes.iter().map(|w| w.ruling.by.as_str()).collect();
    let reasons: Vec<&str> = writes.iter().map(|w| w.ruling.reason.as_str()).collect();
    let evidence: Vec<&str> = writes.iter().map(|w| w.ruling.evidence.as_str()).collect();
    sqlx::query!(
        "INSERT INTO decision (batch_id, seq, attempt, decision, decided_by, reason, evidence)
         SELECT * FROM unnest($1::uuid[], $2::int[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[])",
        &batches,
        &seqs,
        &attempts,
        &decided as &[&str],
        &by as &[&str],
        &reasons as &[&str],
        &evidence as &[&str],
    )
    .execute(tx)
    .await
    .doing("write decisions")?;
    Ok(())
}
