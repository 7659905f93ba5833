//! Uncertain messages whose grace is over: the policy of their account and category decides.

use std::{collections::HashMap, sync::Arc};

use super::Upkeep;
use crate::{
    domain::uncertain::{Decided, UncertainPolicy, Verdict, decide},
    store::{
        StoreError,
        messages::{self, Applied, Change, Ruling},
        work::unsure,
    },
};

impl Upkeep {
    /// Decides about a chunk; says about how many messages something was decided or put off.
    pub(super) async fn sweep_uncertain(&mut self) -> Result<usize, StoreError> {
        let (most, rules) = (self.settings.upkeep.sweep_max, self.rules());
        let settings = Arc::clone(&self.settings);
        let connection = self.session.connection().await?;
        let due = unsure::due(connection, most).await?;
        let (mut waits, mut changes) = (Vec::new(), Vec::new());
        let mut rulings: HashMap<(UncertainPolicy, Decided), Arc<Ruling>> = HashMap::new();
        for row in &due {
            let policy = row.overrides.of(row.lane).unwrap_or_else(|| settings.uncertain.policy(row.lane));
            match decide(policy, row.age, row.left, settings.uncertain.give_up()) {
                Verdict::Wait(wait) => waits.push((row.key, row.attempt, wait)),
                Verdict::Now(decided) => {
                    let ruling = rulings.entry((policy, decided)).or_insert_with(|| Arc::new(ruling(policy, decided)));
                    changes.push(Change::ruled(row.key, row.attempt, ruling));
                }
            }
        }
        unsure::wait(connection, &waits).await?;
        if !changes.is_empty() {
            let outcome = messages::apply(connection, &changes, rules).await?;
            for (change, applied) in changes.iter().zip(&outcome.applied) {
                if let (Some(ruling), Some(Applied::Moved { .. })) = (&change.ruling, applied) {
                    let decided = ruling.decided.as_str();
                    metrics::counter!("uncertain_decided_total", "decision" => decided, "by" => "policy").increment(1);
                }
            }
            self.wake(&outcome.woken);
        }
        Ok(due.len())
    }
}

fn ruling(policy: UncertainPolicy, decided: Decided) -> Ruling {
    let reason = match policy {
        UncertainPolicy::Hold => "it was held for evidence or a person, and nobody came in time",
        UncertainPolicy::Resend if decided == Decided::Resend => {
            "no evidence within the grace, and the policy says resend"
        }
        UncertainPolicy::Resend => "the policy says resend, and its time to be sent has passed",
        UncertainPolicy::Fail => "no evidence within the grace, and the policy says fail",
    };
    Ruling { decided, by: "policy".to_owned(), reason: reason.to_owned(), evidence: String::new() }
}
