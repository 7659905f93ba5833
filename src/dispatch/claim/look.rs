//! What there is to claim: which numbers have due work, and which of them have room.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::Claimer;
use crate::{
    dispatch::clock,
    domain::{
        ids::{HoldId, NumberId},
        lane::Lane,
        pacing::Tick,
    },
    store::{
        self, StoreError,
        work::{ClaimedMessage, Want},
    },
};

/// Groups looked at in one go; more come into view as these are served.
const LOOK_MOST: i64 = 10_000;
/// Numbers looked at in one go, so that each of them shows its first groups.
const LOOK_NUMBERS: usize = 2_000;
/// Messages in one claim, authentication aside.
const CLAIM_MOST: usize = 2_000;
/// Groups asked for in one claim, authentication aside: many have less than they are asked for.
const WANTS_MOST: usize = 500;

impl Claimer {
    /// Reads which groups have due work, of the numbers that were woken, have something that becomes due, or are found by
    /// a poll to have any.
    pub(super) async fn look(&mut self) -> Result<(), StoreError> {
        let now = clock::now();
        let is_poll = self.agenda.is_poll_due(now);
        if is_poll {
            let found = store::work::numbers_with_work(self.session.connection().await?).await?;
            for number in found.into_iter().filter(|number| self.turns.contains_key(number)) {
                self.agenda.look_at(number);
            }
        }
        let due = self.agenda.take_looks(&self.shared.hunger, now);
        for some in due.chunks(LOOK_NUMBERS) {
            if let Err(error) = self.look_at(some, now).await {
                for number in due {
                    self.agenda.look_at(number);
                }
                return Err(error);
            }
        }
        if is_poll {
            let every = Duration::from_millis(self.shared.settings.dispatch.poll_ms);
            self.agenda.polled(now, clock::now(), every);
        }
        Ok(())
    }

    async fn look_at(&mut self, due: &[NumberId], now: Tick) -> Result<(), StoreError> {
        let found = store::work::look(self.session.connection().await?, due, LOOK_MOST).await?;
        let mut by_number: HashMap<NumberId, Vec<(Lane, Uuid, Duration)>> = HashMap::new();
        let mut canaries: HashMap<NumberId, Vec<(Uuid, HoldId, usize)>> = HashMap::new();
        for group in found {
            if let Some((hold, places)) = group.canary {
                canaries.entry(group.number).or_default().push((group.group, hold, places));
            }
            by_number.entry(group.number).or_default().push((group.lane, group.group, group.due_in));
        }
        for id in due {
            if let Some(turns) = self.turns.get_mut(id) {
                turns.found(by_number.remove(id).unwrap_or_default().into_iter(), now);
                turns.canaries(canaries.remove(id).unwrap_or_default());
                self.agenda.looked(*id, turns.has_due(), turns.next_due());
            }
        }
        Ok(())
    }

    /// What each number that may be asked for has room for and no hold over it, authentication first, and how many messages
    /// may be claimed of it; apart, the first messages of batches.
    pub(super) fn wants(&mut self) -> (Vec<Want>, usize, Vec<(HoldId, Want)>) {
        let snapshot = self.shared.directory.current();
        let gates = &self.shared.gates;
        let now = clock::now();
        self.blind_until = None;
        if !gates.is_fresh(now) {
            self.blind_until = Some(now + Duration::from_millis(self.shared.settings.dispatch.hold_refresh_ms));
            return (Vec::new(), 0, Vec::new());
        }
        let (mut wants, mut bulk, mut canaries) = (Vec::new(), Vec::new(), Vec::new());
        let has_room = self.shared.hunger.has_room();
        for id in self.agenda.take_asks(&self.shared.hunger, gates.version()) {
            let number = self.desk.number(id).filter(|number| number.held.is_good(now));
            let Some((number, turns)) = number.zip(self.turns.get_mut(&id)) else {
                continue;
            };
            for urgent in [true, false] {
                let room = number.room(urgent);
                if room == 0 {
                    continue;
                }
                if !urgent && (!has_room || bulk.len() >= WANTS_MOST) {
                    self.agenda.postpone(id);
                    continue;
                }
                let open = |lane, group| gates.lets_group(&snapshot, id, lane, group);
                for turn in turns.take(urgent, room, open) {
                    let (lease, lane, group, most) = (number.held.lease, turn.lane, turn.group, turn.most);
                    let want = Want { number: id, lease, lane, group, most };
                    match turn.canary {
                        Some(hold) => canaries.push((hold, want)),
                        None if urgent => wants.push(want),
                        None => bulk.push(want),
                    }
                }
            }
        }
        let limit = wants.iter().map(|want| want.most).sum::<usize>() + CLAIM_MOST;
        wants.append(&mut bulk);
        (wants, limit, canaries)
    }

    /// Numbers that were asked for and still have room are asked again, as long as a group of theirs has more.
    pub(super) fn ask_again(&mut self, wants: &[Want]) {
        for want in wants {
            if let Some((number, turns)) = self.desk.number(want.number).zip(self.turns.get(&want.number)) {
                let more = turns.has_due();
                self.agenda.known(want.number, more);
                if more && number.room(false) == 0 && number.room(true) == 0 {
                    self.agenda.asked(want.number);
                }
            }
        }
    }

    /// A group that gave less than it was asked for has nothing more that is due. How many of the wants were reached before
    /// the limit of the claim was; the last of those may have more.
    pub(super) fn note_drained(&mut self, wants: &[Want], limit: usize, claimed: &[ClaimedMessage]) -> usize {
        let mut got: HashMap<(NumberId, Lane, Uuid), usize> = HashMap::new();
        for message in claimed {
            *got.entry((message.number(), message.lane(), message.group())).or_default() += 1;
        }
        let got = |want: &Want| got.get(&(want.number, want.lane, want.group)).copied().unwrap_or_default();
        let last = wants.iter().rposition(|want| got(want) > 0).filter(|_| claimed.len() >= limit);
        for want in &wants[..last.unwrap_or(wants.len())] {
            if let (true, Some(turns)) = (got(want) < want.most, self.turns.get_mut(&want.number)) {
                turns.drained(want.lane, want.group);
            }
        }
        last.map_or(wants.len(), |last| last + 1)
    }
}
