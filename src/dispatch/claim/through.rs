//! What is claimed under a hold: one message to see whether its cause is gone, or the first of a large batch.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::Claimer;
use crate::{
    dispatch::{
        clock,
        gate::{Gates, stops_lane},
    },
    domain::{
        hold::{OpenHold, Route, probe_wait},
        ids::{BatchId, HoldId, NumberId},
        lane::Lane,
        pacing::Tick,
    },
    store::{
        StoreError,
        messages::Under,
        work::{Claimed, Want, through},
    },
};

/// Numbers offered for one probe.
const OFFERED: usize = 50;
/// A hold that nothing here waits under is not tried again before.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// A probe also passes the other holds over its message that are probed: each would stop the probes of the other.
pub(super) fn widened(under: &Under, gates: &Gates, route: &Route, batch: BatchId) -> Under {
    match under {
        Under::Probe(first) => {
            let others = gates.probed(route, batch);
            Under::Probe(first.iter().chain(others.iter().filter(|hold| !first.contains(hold))).copied().collect())
        }
        Under::Canary(hold) => Under::Canary(*hold),
    }
}

impl Claimer {
    /// Claims one message under each hold whose time for it has come, if any of ours waits under it.
    pub(super) async fn probe(&mut self) -> Result<(), StoreError> {
        let now = clock::now();
        let due = self.shared.gates.probes();
        if due.is_empty() {
            self.probed.clear();
            return Ok(());
        }
        for hold in due {
            if self.probed.get(&hold.id).is_some_and(|tried| *tried + TRY_EVERY > now) {
                continue;
            }
            self.probed.insert(hold.id, now);
            let (leases, wants) = self.under(&hold, now);
            if leases.is_empty() {
                continue;
            }
            let settings = &self.shared.settings.hold;
            let (base, most) = (Duration::from_secs(settings.probe_base_s), Duration::from_secs(settings.probe_max_s));
            let next = probe_wait(hold.probes + 1, base, most);
            let claim = self.new_claim();
            let connection = self.session.connection().await?;
            let claimed = through::probe(connection, &hold, &leases, &wants, claim, next).await;
            if self.go_on(claimed, claim.id, now, Under::Probe(Arc::from([hold.id]))).await? > 0 {
                tracing::info!(hold.id = %hold.id, hold.scope, "let a message through to see whether the cause is gone");
            }
        }
        Ok(())
    }

    /// Claims the first messages of batches.
    pub(super) async fn canaries(&mut self, wants: &[(HoldId, Want)]) -> Result<(), StoreError> {
        for (hold, want) in wants {
            let asked = clock::now();
            let claim = self.new_claim();
            let claimed = through::canary(self.session.connection().await?, *hold, want, claim).await;
            self.go_on(claimed, claim.id, asked, Under::Canary(*hold)).await?;
        }
        Ok(())
    }

    fn new_claim(&self) -> through::Claim {
        through::Claim { id: Uuid::new_v4(), deadline: self.desk.claim_lasts() }
    }

    async fn go_on(
        &mut self,
        claimed: Result<Claimed, StoreError>,
        claim: Uuid,
        asked: Tick,
        under: Under,
    ) -> Result<usize, StoreError> {
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                self.desk.read_back(&mut self.session, claim).await;
                return Err(error);
            }
        };
        let count = claimed.messages.len();
        self.desk.hand_over(claimed, asked, Some(&under));
        Ok(count)
    }

    /// Our numbers that something under this hold may wait for, and the turns that it stops.
    fn under(&self, hold: &OpenHold, now: Tick) -> (Vec<(NumberId, Uuid)>, Vec<Want>) {
        let snapshot = self.shared.directory.current();
        let (mut leases, mut wants) = (Vec::new(), Vec::new());
        for number in self.desk.numbers() {
            let id = number.id;
            let Some(row) = snapshot.numbers.get(&id).filter(|_| number.held.is_good(now)) else {
                continue;
            };
            let lease = number.held.lease;
            let gates = &self.shared.gates;
            let open: Vec<Lane> = Lane::ALL.iter().copied().filter(|lane| gates.lets_probe(hold, row, *lane)).collect();
            if open.is_empty() {
                continue;
            }
            // What a hold of a template parked may be on any number; the turns of a number tell nothing of templates.
            leases.push((id, lease));
            let mut stopped = open.iter().filter(|lane| stops_lane(&hold.scope, row, **lane));
            let turn = stopped.find_map(|lane| Some((*lane, self.turns.get(&id)?.first(*lane)?)));
            if let (Some((lane, group)), true) = (turn, wants.len() < OFFERED) {
                wants.push(Want { number: id, lease, lane, group, most: 1 });
            }
        }
        (leases, wants)
    }
}
