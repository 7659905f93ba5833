//! The judgement: the provider's ledger against a recount of the rows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::Ordering,
};

use campaign_dispatch::simulator::{LedgerReport, MessageLine};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{load::Published, world::World};

type Key = (Uuid, u64);

/// What is wrong at the end.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) messages: i64,
    pub(crate) lost: i64,
    pub(crate) doubled: i64,
    pub(crate) over_limit: usize,
    pub(crate) uncertain_open: i64,
    /// This build has no command to resolve them by: they stay open, which is no broken promise.
    pub(crate) nobody_resolves: bool,
    pub(crate) policy_resends: usize,
    pub(crate) unjudged_share: f64,
    /// What each count is made of.
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.lost == 0
            && self.doubled == 0
            && self.over_limit == 0
            && (self.uncertain_open == 0 || self.nobody_resolves)
    }

    fn add(&mut self, what: &str, count: i64) -> i64 {
        if count != 0 {
            self.notes.push(format!("{count} × {what}"));
        }
        count
    }
}

/// Judges a run that has come to rest.
pub(crate) async fn judge(world: &World, published: &Published) -> anyhow::Result<Verdict> {
    let mut connection = world.connect().await?;
    let mut verdict = Verdict::default();
    let ledger = world.simulator.ledger().await?;
    let accepted = world.simulator.accepted().await?;
    let rows = states(&mut connection).await?;
    verdict.messages = published.answers.values().map(|(_, accepted)| accepted).sum();
    lost(&mut verdict, &mut connection, published, &rows, &accepted).await?;
    let decisions = decisions(&mut connection).await?;
    doubled(&mut verdict, &rows, &accepted, &decisions);
    verdict.uncertain_open = rows.values().filter(|state| *state == "uncertain").count().try_into()?;
    over_limit(&mut verdict, &ledger, world.simulator.relay_stalls.load(Ordering::Relaxed));
    if ledger.callbacks.forged_taken > 0 {
        verdict.doubled += verdict.add("forged callbacks were believed", ledger.callbacks.forged_taken.try_into()?);
    }
    Ok(verdict)
}

async fn states(connection: &mut PgConnection) -> anyhow::Result<HashMap<Key, String>> {
    let rows: Vec<(Uuid, i32, String)> =
        sqlx::query_as("SELECT batch_id, seq, state::text FROM message").fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(batch, seq, state)| ((batch, u64::try_from(seq).unwrap_or_default()), state)).collect())
}

/// Decisions to send again, by message and the attempt that was given up.
async fn decisions(connection: &mut PgConnection) -> anyhow::Result<HashSet<(Key, i16)>> {
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('decision') IS NOT NULL").fetch_one(&mut *connection).await?;
    if !exists {
        return Ok(HashSet::new());
    }
    let rows: Vec<(Uuid, i32, i16)> =
        sqlx::query_as("SELECT batch_id, seq, attempt FROM decision WHERE decision::text = 'resend'")
            .fetch_all(connection)
            .await?;
    let key = |batch, seq: i32| (batch, u64::try_from(seq).unwrap_or_default());
    Ok(rows.into_iter().map(|(batch, seq, attempt)| (key(batch, seq), attempt)).collect())
}

fn is_sent(state: &str) -> bool {
    matches!(state, "accepted" | "sent" | "delivered" | "read")
}

async fn lost(
    verdict: &mut Verdict,
    connection: &mut PgConnection,
    published: &Published,
    rows: &HashMap<Key, String>,
    accepted: &[MessageLine],
) -> anyhow::Result<()> {
    let mut by_batch: HashMap<Uuid, i64> = HashMap::new();
    for (batch, _) in rows.keys() {
        *by_batch.entry(*batch).or_default() += 1;
    }
    let mut missing = 0;
    for (batch, accepted) in published.answers.values() {
        missing += (accepted - by_batch.get(batch).copied().unwrap_or_default()).abs();
    }
    verdict.lost += verdict.add("recipients of answered jobs without their message row", missing);
    let extra = by_batch.len() - published.answers.len().min(by_batch.len());
    verdict.lost += verdict.add("batches nobody was answered for", i64::try_from(extra)?);
    for (what, sql) in RECOUNTS {
        let count: i64 = sqlx::query_scalar(*sql).fetch_one(&mut *connection).await?;
        verdict.lost += verdict.add(what, count);
    }
    let pending = rows.values().filter(|state| *state == "pending").count();
    verdict.lost += verdict.add("messages that never ended", i64::try_from(pending)?);
    let taken: HashSet<Key> = accepted.iter().filter_map(|line| Some((line.batch?, line.seq?))).collect();
    let imagined = rows.iter().filter(|(key, state)| is_sent(state) && !taken.contains(key)).count();
    verdict.lost += verdict.add("messages said to be sent that the provider never took", i64::try_from(imagined)?);
    let unknown = taken.iter().filter(|key| !rows.contains_key(key)).count();
    verdict.lost += verdict.add("messages the provider took that have no row", i64::try_from(unknown)?);
    let wrong = i64::try_from(published.wrong.len())?;
    verdict.lost += verdict.add("jobs refused or answered differently", wrong);
    verdict.notes.extend(published.wrong.iter().take(5).cloned());
    Ok(())
}

fn doubled(
    verdict: &mut Verdict,
    rows: &HashMap<Key, String>,
    accepted: &[MessageLine],
    decisions: &HashSet<(Key, i16)>,
) {
    let mut calls: BTreeMap<Key, Vec<&MessageLine>> = BTreeMap::new();
    for line in accepted {
        if let (Some(batch), Some(seq)) = (line.batch, line.seq) {
            calls.entry((batch, seq)).or_default().push(line);
        }
    }
    let (mut doubled, mut miscounted) = (0, 0);
    for (key, mut lines) in calls {
        lines.sort_by_key(|line| line.attempt);
        for pair in lines.windows(2) {
            let (earlier, later) = (pair[0].attempt.unwrap_or_default(), pair[1].attempt.unwrap_or_default());
            if earlier < later && pair[0].failed.is_some() {
                continue; // The provider itself said that the first one did not arrive.
            }
            if (earlier..later).any(|attempt| decisions.contains(&(key, attempt))) {
                verdict.policy_resends += 1;
            } else {
                doubled += 1;
                verdict.notes.push(format!("doubled: {}.{} attempts {earlier} and {later}", key.0, key.1));
            }
        }
        let was_taken = lines.iter().any(|line| line.failed.is_none() && !line.untold);
        let state = rows.get(&key).map_or("", String::as_str);
        if was_taken && matches!(state, "failed" | "expired" | "cancelled" | "suppressed") {
            miscounted += 1;
            verdict.notes.push(format!("counted as {state} though taken and told: {}.{}", key.0, key.1));
        }
    }
    verdict.notes.truncate(40); // Enough to look into.
    verdict.doubled += verdict.add("messages with two accepted calls and no decision between them", doubled);
    verdict.doubled += verdict.add("messages counted as not sent whose acceptance was told", miscounted);
}

fn over_limit(verdict: &mut Verdict, ledger: &LedgerReport, relay_stalls: u64) {
    let judgement = &ledger.judgement;
    verdict.unjudged_share = judgement.unjudged_share;
    verdict.notes.push(format!(
        "{:.2} % of the sliding seconds touch a stall and are not judged: {} stalls, {relay_stalls} of them of the relay before it, the longest {:.0} ms",
        judgement.unjudged_share * 100.0, judgement.stalls, judgement.longest_stall_ms
    ));
    for (id, number) in &ledger.numbers {
        verdict.over_limit += number.over_limit;
        if number.over_limit > 0 {
            let (worst, limit) = (number.worst_second, number.limit.unwrap_or_default());
            verdict.notes.push(format!("number {id}: {worst} calls in a second, {limit} are allowed"));
        }
    }
}

const RECOUNTS: &[(&str, &str)] = &[
    (
        "tallies that differ from a recount",
        "SELECT count(*) FROM batch_tally t JOIN batch b USING (batch_id) JOIN LATERAL (
             SELECT count(*) AS messages, count(*) FILTER (WHERE state = 'pending') AS pending,
                    count(*) FILTER (WHERE state = 'uncertain') AS uncertain, count(*) FILTER (WHERE state = 'accepted') AS accepted,
                    count(*) FILTER (WHERE state = 'sent') AS sent, count(*) FILTER (WHERE state = 'delivered') AS delivered,
                    count(*) FILTER (WHERE state = 'read') AS read, count(*) FILTER (WHERE state = 'failed') AS failed,
                    count(*) FILTER (WHERE state = 'expired') AS expired, count(*) FILTER (WHERE state = 'suppressed') AS suppressed,
                    count(*) FILTER (WHERE state = 'cancelled') AS cancelled
             FROM message m WHERE m.batch_id = t.batch_id) r ON true
         WHERE (b.recipients, t.pending, t.uncertain, t.accepted, t.sent, t.delivered, t.read, t.failed, t.expired, t.suppressed, t.cancelled)
               IS DISTINCT FROM
               (r.messages, r.pending, r.uncertain, r.accepted, r.sent, r.delivered, r.read, r.failed, r.expired, r.suppressed, r.cancelled)",
    ),
    (
        "pending or uncertain messages without exactly one work row, or work without such a message",
        "SELECT count(*) FROM message m FULL JOIN work w ON w.batch_id = m.batch_id AND w.seq = m.seq
         WHERE coalesce(m.state IN ('pending', 'uncertain'), false) <> (w.seq IS NOT NULL)",
    ),
    (
        "failure rows that do not match the states",
        "SELECT count(*) FROM message m FULL JOIN failed_message f ON f.batch_id = m.batch_id AND f.seq = m.seq
         WHERE coalesce(m.state IN ('failed', 'expired'), false) <> (f.seq IS NOT NULL)",
    ),
    (
        "batches of several without a tally",
        "SELECT count(*) FROM batch b LEFT JOIN batch_tally t USING (batch_id) WHERE b.recipients > 1 AND t.batch_id IS NULL",
    ),
];
