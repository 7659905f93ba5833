//! Which of the failures are sent again, and why the others are not.

use std::collections::{BTreeMap, HashSet};

use chrono::Utc;
use uuid::Uuid;

use super::ResendRequest;
use crate::{
    domain::{
        ids::{BatchId, MessageKey},
        resend::{Again, Candidate, Skip, Terms, decide},
    },
    providers::{self, ErrorRow, Resend},
    store::{
        Connection, StoreError,
        resends::{self, FailedFilter, FailedRow},
    },
};

/// Failures that are looked at in one statement.
const CHUNK: i64 = 2000;

/// What is chosen of the failures.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) rows: Vec<FailedRow>,
    pub(super) skipped: BTreeMap<Skip, usize>,
    pub(super) seen: usize,
}

impl Chosen {
    fn skip(&mut self, why: Skip, messages: usize) {
        if messages > 0 {
            *self.skipped.entry(why).or_default() += messages;
        }
    }

    /// Leaves out what is not among `locked`: it moved meanwhile.
    pub(super) fn keep(&mut self, locked: &[MessageKey]) {
        let locked: HashSet<MessageKey> = locked.iter().copied().collect();
        let before = self.rows.len();
        self.rows.retain(|row| locked.contains(&row.key()));
        self.skip(Skip::Moved, before - self.rows.len());
    }

    /// The messages by batch, in order.
    pub(super) fn by_batch(&self) -> BTreeMap<BatchId, Vec<&FailedRow>> {
        let mut batches: BTreeMap<BatchId, Vec<&FailedRow>> = BTreeMap::new();
        for row in &self.rows {
            batches.entry(BatchId(row.batch_id)).or_default().push(row);
        }
        batches
    }
}

/// Goes through the failures until the cap is reached.
pub(super) async fn choose(
    connection: &mut Connection,
    providers: &providers::Registry,
    filter: &FailedFilter,
    request: &ResendRequest,
    cap: usize,
) -> Result<Chosen, StoreError> {
    let now = Utc::now();
    let terms = Terms {
        starts: request.send_at.map_or(now, |at| at.max(now)),
        acknowledged: request.acknowledged,
        against_advice: request.against_advice,
    };
    let (mut chosen, mut texts) = (Chosen::default(), HashSet::new());
    let mut after = MessageKey { batch_id: BatchId(Uuid::nil()), seq: 0 };
    loop {
        let rows = resends::failed(connection, filter, after, CHUNK).await?;
        let Some(last) = rows.last().map(FailedRow::key) else {
            return Ok(chosen);
        };
        after = last;
        for row in rows {
            if chosen.rows.len() >= cap {
                return Ok(chosen);
            }
            chosen.seen += 1;
            match decide(&candidate(providers, &row), terms) {
                Err(why) => chosen.skip(why, 1),
                Ok(()) if !texts.insert(row.text.clone()) => chosen.skip(Skip::Twice, 1),
                Ok(()) => chosen.rows.push(row),
            }
        }
    }
}

fn candidate(providers: &providers::Registry, row: &FailedRow) -> Candidate {
    let known = providers.get(&row.provider).and_then(|provider| provider.errors().get(&row.code));
    Candidate {
        is_failed: row.is_failed,
        is_resent: row.is_resent,
        is_acknowledged: row.is_acknowledged,
        is_opt_out: row.is_opt_out,
        is_cancelled: row.is_cancelled,
        is_campaign_paused: row.is_campaign_paused,
        is_template_dead: is_dead(&row.template_status),
        again: known.map_or(Again::Now, again),
        failed_at: row.failed_at,
        same: row.same(),
    }
}

/// What a code says about sending again.
pub(in crate::checklist) fn again(known: &ErrorRow) -> Again {
    match known.resend {
        Resend::Now => Again::Now,
        Resend::Later => known.wait().map_or(Again::Now, Again::After),
        Resend::Never => Again::Never,
    }
}

/// Intake refuses jobs with such templates too.
fn is_dead(status: &str) -> bool {
    matches!(status.to_ascii_lowercase().as_str(), "rejected" | "disabled" | "deleted" | "pending_deletion")
}
