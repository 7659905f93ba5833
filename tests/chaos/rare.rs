//! Which rare states a run reached: counters of the processes over all their lives, and traces in the rows.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::PgConnection;

use crate::world::{Serve, World};

/// What `/metrics` said last, by process, life and counter.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<(String, u64), BTreeMap<String, f64>>>);

impl Counters {
    /// Reads the counters of all processes until it is dropped. A killed process takes its last half second with it.
    pub(crate) async fn watch(world: &World) {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(800)).build();
        let Ok(client) = client else { return };
        loop {
            for serve in &world.serves {
                let life = serve.process.life();
                if let Ok(answer) = client.get(format!("http://{}/metrics", serve.address)).send().await
                    && let Ok(text) = answer.text().await
                    && life == serve.process.life()
                {
                    world.counters.note(&serve.process.name, life, &text);
                }
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }

    /// A counter of one process as it stands.
    pub(crate) async fn now(serve: &Serve, name: &str) -> Option<f64> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(800)).build().ok()?;
        let text = client.get(format!("http://{}/metrics", serve.address)).send().await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    fn note(&self, process: &str, life: u64, text: &str) {
        let mut found = BTreeMap::<String, f64>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse::<f64>()
            {
                let name = name.split('{').next().unwrap_or(name);
                *found.entry(name.to_owned()).or_default() += value;
            }
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((process.to_owned(), life), found);
    }

    /// The sum of a counter over all processes and lives.
    pub(crate) fn total(&self, name: &str) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum: f64 = all.values().filter_map(|counters| counters.get(name)).sum();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
        let sum = sum as u64;
        sum
    }
}

/// A rare state: its name, and how often it was seen.
pub(crate) type Seen = (&'static str, u64);

/// A call that outlives its lease is both: the lease was lost in mid-send, and its outcome is settled afterwards (else the
/// message would end as a lapsed claim, which is counted apart).
const COUNTED: &[(&str, &str)] = &[
    ("lease lost in mid-send", "dispatch_outcomes_after_lease_total"),
    ("two workers believing in one number", "dispatch_leases_found_gone_total"),
    ("callback before settle", "callbacks_before_settle_total"),
    ("ambiguous commit", "store_commits_unanswered_total"),
    ("claim read back", "dispatch_claims_read_back_total"),
    ("redelivered job", "intake_redelivered_total"),
    ("settle after a lease was lost", "dispatch_outcomes_after_lease_total"),
    ("hand-over", "dispatch_hand_overs_total"),
];

const TRACED: &[(&str, &str)] = &[
    ("lapsed claim made uncertain", "SELECT count(*) FROM attempt WHERE code = 'claim_lost'"),
    (
        "uncertain lifted by a callback",
        "SELECT count(*) FROM attempt a JOIN message m USING (batch_id, seq)
         WHERE a.outcome = 'unknown' AND a.attempt = m.attempt AND m.state IN ('sent', 'delivered', 'read')",
    ),
    ("failure-for-now that waited", "SELECT count(*) FROM attempt WHERE outcome = 'failed_for_now'"),
    ("hold opened and closed", "SELECT count(*) FROM hold WHERE closed_at IS NOT NULL"),
];

/// What was reached so far; before a person resolves anything, for that would look like a callback.
pub(crate) async fn seen(world: &World, connection: &mut PgConnection) -> anyhow::Result<Vec<Seen>> {
    let mut seen: Vec<Seen> = COUNTED.iter().map(|(name, counter)| (*name, world.counters.total(counter))).collect();
    for &(name, sql) in TRACED {
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut *connection).await?;
        seen.push((name, u64::try_from(count).unwrap_or_default()));
    }
    Ok(seen)
}

/// Says what was reached and what was missed. Returns what was missed.
pub(crate) fn tell(seen: &[Seen]) -> Vec<&'static str> {
    let list = |of: &[&Seen]| of.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(" · ");
    let (reached, missed): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|(_, count)| *count > 0);
    println!("reached: {}", list(&reached));
    let missed: Vec<&'static str> = missed.into_iter().map(|(name, _)| *name).collect();
    println!("missed: {}", if missed.is_empty() { "none".to_owned() } else { missed.join(" · ") });
    missed
}
