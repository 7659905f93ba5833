//! What a group of changes does to the rows that were found: pure, between the locks and the writes.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use super::{
    Applied, Change, Failure, Fault, NewHold, Next, Rules,
    rows::{
        AttemptWrite, BatchRow, FailedWrite, Holds, MessageRow, MessageWrite, Stage, Stamp, WorkInsert, WorkRow,
        WorkWrite, Writes,
    },
    under::Let,
};
use crate::domain::{
    failure::FailureClass,
    hold::Resume,
    ids::{BatchId, MessageKey},
    message::{Age, MessageEvent, MessageState, Transition},
};

/// Whether a change may need to know its batch: everything but a clean acceptance or a plain return.
pub(super) fn needs_batch(change: &Change) -> bool {
    match change.event {
        MessageEvent::Returned => matches!(change.next, Next::Wait { .. }),
        MessageEvent::Refused | MessageEvent::Expired | MessageEvent::Failed | MessageEvent::FailedForNow => true,
        MessageEvent::Accepted
        | MessageEvent::Unknown
        | MessageEvent::Suppressed
        | MessageEvent::Cancelled
        | MessageEvent::Sent
        | MessageEvent::Delivered
        | MessageEvent::Read => false,
    }
}

#[derive(Debug)]
struct Entered {
    found: MessageState,
    row: MessageRow,
    write: MessageWrite,
    is_changed: bool,
    failure: Option<(Failure, Stamp)>,
    next: Option<Next>,
}

/// The rows found, and what the changes made of them so far.
#[derive(Debug)]
pub(super) struct Plan {
    work: HashMap<MessageKey, WorkRow>,
    messages: HashMap<MessageKey, MessageRow>,
    batches: HashMap<BatchId, BatchRow>,
    rules: Rules,
    entries: HashMap<MessageKey, Entered>,
    attempts: Vec<AttemptWrite>,
    faults: Vec<NewHold>,
    under: Let,
}

impl Plan {
    pub(super) fn new(
        work: HashMap<MessageKey, WorkRow>,
        messages: HashMap<MessageKey, MessageRow>,
        batches: HashMap<BatchId, BatchRow>,
        rules: Rules,
    ) -> Self {
        Self {
            work,
            messages,
            batches,
            rules,
            entries: HashMap::new(),
            attempts: Vec::new(),
            faults: Vec::new(),
            under: Let::default(),
        }
    }

    /// Applies one change to what is known of its message, and to the hold that let it through.
    pub(super) fn take(&mut self, change: &Change) -> Applied {
        let applied = self.take_message(change);
        if matches!(applied, Applied::Moved { .. }) {
            self.faults.extend(change.opens.iter().cloned());
        }
        // Its call is open as long as its work is: run again, a group that was committed counts nothing twice.
        let is_open =
            self.work.get(&change.key).is_some_and(|w| w.stage == Stage::Calling && w.attempt == change.attempt);
        if let (Some(under), true) = (&change.under, is_open) {
            self.under.take(under, change);
        }
        applied
    }

    /// What calls let through by holds came to.
    pub(super) const fn under(&self) -> &Let {
        &self.under
    }

    fn take_message(&mut self, change: &Change) -> Applied {
        let Some(row) = self.messages.get(&change.key) else {
            return Applied::Unmatched;
        };
        if change.only_numbers.as_ref().is_some_and(|numbers| !numbers.contains(&row.number)) {
            return Applied::Unmatched;
        }
        let work = self.work.get(&change.key);
        let latest = work.map_or(row.attempt, |w| w.attempt.max(row.attempt));
        let age = if change.attempt < latest { Age::Older } else { Age::Current };
        if change.event == MessageEvent::Unknown && work.is_some_and(|w| w.stage != Stage::Calling) {
            // Returned or already unsure: nobody called for it since.
            return Applied::Stale;
        }
        let (event, failure) = self.within_life(change);
        let entry = match self.entries.entry(change.key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Entered {
                found: row.state,
                row: row.clone(),
                write: MessageWrite::default(),
                is_changed: false,
                failure: None,
                next: None,
            }),
        };
        let state = entry.write.state.unwrap_or(entry.found);
        let transition = state.apply(age, event);
        if let (Some(failure), true) = (&failure, transition != Transition::Wait) {
            let attempt = AttemptWrite {
                key: change.key,
                attempt: change.attempt,
                outcome: event,
                failure: failure.clone(),
                at: change.at,
            };
            self.attempts.push(attempt);
        }
        entry.stamp(change, event, age);
        match transition {
            Transition::Wait => Applied::Wait,
            Transition::Stay
                if state == MessageState::Pending && event == MessageEvent::Returned && age == Age::Current =>
            {
                entry.next = Some(change.next.clone());
                Applied::Moved { from: state, to: state }
            }
            Transition::Stay => Applied::Stale,
            Transition::To(to) => {
                if let (Some(fault), Some(failure), Some(batch)) =
                    (change.fault, &failure, self.batches.get(&change.key.batch_id))
                {
                    self.faults.push(hold_for(fault, failure, batch));
                }
                entry.move_to(to, change, failure);
                Applied::Moved { from: state, to }
            }
        }
    }

    /// A retry that would end after the message's life is no retry: it fails with what the provider said.
    fn within_life(&self, change: &Change) -> (MessageEvent, Option<Failure>) {
        let left = self.batches.get(&change.key.batch_id).map_or(Duration::MAX, |b| b.left);
        match (change.event, &change.next) {
            (MessageEvent::Returned, Next::Wait { after, .. }) if *after >= left => {
                (MessageEvent::Refused, change.failure.clone())
            }
            (MessageEvent::FailedForNow, Next::Wait { after, .. }) if *after >= left => {
                (MessageEvent::Failed, change.failure.clone())
            }
            _ => (change.event, change.failure.clone()),
        }
    }

    /// The holds that parked work asks for.
    pub(super) fn wanted_holds(&self) -> Vec<&NewHold> {
        let mut wanted: Vec<&NewHold> = self
            .entries
            .values()
            .filter_map(|entry| match &entry.next {
                Some(Next::Park(hold)) => Some(hold),
                _ => None,
            })
            .chain(&self.faults)
            .collect();
        wanted.sort_by(|a, b| (a.scope.to_string(), &a.cause).cmp(&(b.scope.to_string(), &b.cause)));
        wanted.dedup_by(|a, b| a.scope == b.scope && a.cause == b.cause);
        wanted
    }

    /// The holds that work is to be parked under because they were seen open.
    pub(super) fn seen_holds(&self) -> Vec<i64> {
        let seen = self.entries.values().filter_map(|entry| match &entry.next {
            Some(Next::ParkUnder(hold)) => Some(hold.0),
            _ => None,
        });
        seen.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// What is to be written, in key order.
    pub(super) fn finish(self, holds: &Holds) -> Writes {
        let mut writes = Writes { attempts: self.attempts, ..Writes::default() };
        let mut entries: Vec<_> = self.entries.into_iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        for (key, entry) in entries {
            let to = entry.write.state.unwrap_or(entry.found);
            if to != entry.found {
                let tally = writes.tallies.entry(key.batch_id).or_default();
                tally[entry.found as usize] -= 1;
                tally[to as usize] += 1;
            }
            let was_failed = matches!(entry.found, MessageState::Failed | MessageState::Expired);
            let is_failed = matches!(to, MessageState::Failed | MessageState::Expired);
            if was_failed && !is_failed {
                writes.lifted.push(key);
            }
            if let (true, false, Some(batch)) = (is_failed, was_failed, self.batches.get(&key.batch_id)) {
                let (failure, at) = entry.failure.clone().unwrap_or_else(|| (expired(), None));
                let (attempt, number, template) = (entry.write.attempt, batch.route.number, batch.route.template);
                writes.failed.push(FailedWrite { key, attempt, number, template, failure, at });
            }
            let batch = self.batches.get(&key.batch_id);
            write_work(&mut writes, key, &entry, to, self.work.get(&key), batch, self.rules, holds);
            if entry.is_changed {
                writes.messages.push((key, entry.write));
            }
        }
        writes.woken.sort_unstable();
        writes.woken.dedup();
        writes
    }
}

impl Entered {
    /// Records times and ids, which are facts whatever the state makes of the event.
    fn stamp(&mut self, change: &Change, event: MessageEvent, age: Age) {
        let write = &mut self.write;
        write.attempt = write.attempt.max(change.attempt).max(self.row.attempt);
        let slot = match event {
            MessageEvent::Accepted => &mut write.accepted,
            MessageEvent::Sent => &mut write.sent,
            MessageEvent::Delivered => &mut write.delivered,
            MessageEvent::Read => &mut write.read,
            MessageEvent::Refused
            | MessageEvent::Returned
            | MessageEvent::Unknown
            | MessageEvent::Expired
            | MessageEvent::Suppressed
            | MessageEvent::Cancelled
            | MessageEvent::Failed
            | MessageEvent::FailedForNow => return,
        };
        slot.get_or_insert(change.at);
        if age == Age::Current && change.provider_message_id.is_some() {
            write.provider_message_id.clone_from(&change.provider_message_id);
        }
        self.is_changed = true;
    }

    fn move_to(&mut self, to: MessageState, change: &Change, failure: Option<Failure>) {
        self.is_changed = true;
        self.write.state = Some(to);
        match to {
            MessageState::Failed | MessageState::Expired => {
                let failure = failure.unwrap_or_else(expired);
                self.write.code = Some(failure.code.clone());
                self.write.ended = Some(change.at);
                self.failure = Some((failure, change.at));
            }
            MessageState::Suppressed | MessageState::Cancelled => self.write.ended = Some(change.at),
            MessageState::Pending => self.next = Some(change.next.clone()),
            MessageState::Uncertain
            | MessageState::Accepted
            | MessageState::Sent
            | MessageState::Delivered
            | MessageState::Read => {}
        }
    }
}

/// What the work row of a message becomes, by where the message stands now.
#[expect(clippy::too_many_arguments, reason = "one row's worth of facts, used once")]
fn write_work(
    writes: &mut Writes,
    key: MessageKey,
    entry: &Entered,
    to: MessageState,
    work: Option<&WorkRow>,
    batch: Option<&BatchRow>,
    rules: Rules,
    holds: &Holds,
) {
    if !to.has_work() {
        if work.is_some() {
            writes.done.push(key);
        }
        return;
    }
    let charged = work.map_or(0, |w| w.charged);
    let (stage, wait, charged, hold) = match (to, &entry.next) {
        (MessageState::Uncertain, _) if to != entry.found => ("unsure", rules.grace, charged, None),
        (_, None) => return,
        (_, Some(Next::Wait { after, charged: counts })) => ("ready", *after, charged + i16::from(*counts), None),
        (_, Some(Next::ParkUnder(hold))) if holds.open.contains(hold) => {
            ("parked", Duration::MAX, charged, Some(*hold))
        }
        (_, Some(Next::Ready | Next::ParkUnder(_))) => ("ready", Duration::ZERO, charged, None),
        (_, Some(Next::Park(hold))) => match holds.asked.get(&(hold.scope.clone(), hold.cause.clone())) {
            Some(id) => {
                // One that is probed ends when a message says so, and not by the clock.
                let lasts = hold.lasts.filter(|_| hold.resume != Resume::Probe);
                ("parked", lasts.unwrap_or(Duration::MAX), charged, Some(*id))
            }
            None => ("ready", Duration::ZERO, charged, None),
        },
    };
    let write = WorkWrite { key, stage, wait, charged, hold };
    if let Some(work) = work {
        if stage == "ready" {
            writes.woken.push(work.number);
        }
        writes.again.push(write);
    } else if let Some(batch) = batch {
        let attempt = entry.write.attempt;
        writes.revived.push(WorkInsert {
            write,
            number: batch.route.number,
            attempt,
            lane: batch.route.lane,
            group: batch.group,
        });
    }
}

fn hold_for(fault: Fault, failure: &Failure, batch: &BatchRow) -> NewHold {
    NewHold {
        tenant: Some(batch.tenant),
        scope: batch.route.fault(fault.scope),
        cause: failure.code.clone(),
        detail: failure.reason.clone(),
        resume: fault.resume,
        lasts: fault.lasts,
    }
}

fn expired() -> Failure {
    Failure {
        code: "expired".to_owned(),
        class: FailureClass::Message,
        reason: "its expires_at passed before it could be sent".to_owned(),
    }
}
