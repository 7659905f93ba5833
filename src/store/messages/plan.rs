//! What a group of changes does to the rows that were found: pure, between the locks and the writes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    Applied, Change, Failure, NewHold, Next, Rules,
    attempts::{LOST_ATTEMPTS, is_heard, latest, passed_over},
    decisions::DecisionWrite,
    rows::{
        AttemptWrite, BatchRow, FailedWrite, Holds, MessageRow, MessageWrite, Stage, Stamp, WorkInsert, WorkRow,
        WorkWrite, Writes, expired, hold_for, unexplained,
    },
    under::Let,
};
use crate::{
    domain::{
        event::{Asks, EventKind},
        failure::FailureClass,
        hold::Resume,
        ids::{BatchId, MessageKey},
        message::{Age, Late, MessageEvent, MessageState, Transition},
    },
    store::{events::OfMessage, suppressions::OptOut},
};

/// What the changes made of a message so far. There are hundreds at once: what is rare is kept apart.
#[derive(Debug)]
struct Entered {
    found: MessageState,
    asks: Asks,
    /// The latest call that the provider said it dropped.
    dropped: i16,
    write: MessageWrite,
    is_changed: bool,
    failure: Option<Box<(Failure, Stamp)>>,
    next: Option<Next>,
    recovered: bool,
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
    decisions: Vec<DecisionWrite>,
    faults: Vec<NewHold>,
    opt_outs: Vec<OptOut>,
    under: Let,
}

impl Plan {
    pub(super) fn new(
        work: HashMap<MessageKey, WorkRow>,
        messages: HashMap<MessageKey, MessageRow>,
        batches: HashMap<BatchId, BatchRow>,
        rules: Rules,
    ) -> Self {
        let entries = HashMap::with_capacity(messages.len());
        Self {
            work,
            messages,
            batches,
            rules,
            entries,
            attempts: Vec::new(),
            decisions: Vec::new(),
            faults: Vec::new(),
            opt_outs: Vec::new(),
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
        match &change.under {
            Some(under) if is_open => self.under.take(under, change),
            None if is_open && matches!(applied, Applied::Moved { .. }) => self.under.take_callback(change),
            Some(_) | None => {}
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
        if !is_heard(change, row, work) {
            return Applied::Stale;
        }
        let (event, failure) = self.within_life(change);
        let entry = self.entries.entry(change.key).or_insert_with(|| Entered::new(row));
        let age = entry.age(change.attempt, latest(row, work), event);
        let state = entry.write.state.unwrap_or(entry.found);
        if change.ruling.is_some() && (state != MessageState::Uncertain || age == Age::Older) {
            return Applied::Stale;
        }
        let transition = state.apply(age, event);
        if transition != Transition::Wait {
            entry.note_dropped(change.attempt, event);
        }
        entry.write.attempt = entry.write.attempt.max(change.attempt);
        entry.stamp(change, event, age);
        if event == MessageEvent::Recovered && age == Age::Current {
            entry.recovered = state.has_work();
        }
        let applied = match transition {
            Transition::Wait => Applied::Wait,
            Transition::Stay
                if state == MessageState::Pending && event == MessageEvent::Returned && age == Age::Current =>
            {
                entry.next = Some(change.next.clone());
                Applied::Moved { from: state, to: state }
            }
            Transition::Stay if entry.recovered => Applied::Moved { from: state, to: state },
            Transition::Stay => Applied::Stale,
            Transition::To(to) => {
                entry.move_to(to, change, failure.clone());
                if let (Some(work), false) = (work, to.has_work()) {
                    // Its work ends here: what was claimed and never settled has named a call, which must not come again.
                    entry.write.attempt = entry.write.attempt.max(work.attempt);
                }
                Applied::Moved { from: state, to }
            }
        };
        self.note(change, event, failure, transition);
        applied
    }

    /// What a change leaves beside its message: the attempt, the hold of a fault, the decision.
    fn note(&mut self, change: &Change, event: MessageEvent, failure: Option<Failure>, transition: Transition) {
        let (key, attempt) = (change.key, change.attempt);
        if let (Transition::To(_), Some(ruling)) = (transition, &change.ruling) {
            self.decisions.push(DecisionWrite { key, attempt, ruling: Arc::clone(ruling) });
        }
        // One that expires, or whose recipient does not want it, was not called.
        let is_of_a_call = !matches!(event, MessageEvent::Expired | MessageEvent::Suppressed);
        let Some(failure) = failure.filter(|_| transition != Transition::Wait && is_of_a_call) else {
            return;
        };
        // A callback says when it was said: one that is told again changes nothing. A settle is new when it moves its message.
        if failure.class == FailureClass::OptOut && (change.at.is_some() || matches!(transition, Transition::To(_))) {
            self.opt_outs.push(OptOut { key, code: failure.code.clone(), at: change.at });
        }
        if let (Transition::To(_), Some(fault), Some(batch)) =
            (transition, change.fault, self.batches.get(&key.batch_id))
        {
            self.faults.push(hold_for(fault, &failure, batch));
        }
        let attempt = AttemptWrite { key, attempt, outcome: event, failure, at: change.at };
        self.attempts.push(if event == MessageEvent::Recovered { passed_over(attempt) } else { attempt });
    }

    /// A retry that would end after the message's life, or its recipient's window, is no retry: it fails with what the provider said.
    fn within_life(&self, change: &Change) -> (MessageEvent, Option<Failure>) {
        let life = self.batches.get(&change.key.batch_id).map_or(Duration::MAX, |b| b.left);
        let left = self.work.get(&change.key).and_then(|work| work.left).map_or(life, |window| window.min(life));
        match (change.event, &change.next) {
            // Of one that was not called the provider said nothing: it expires when its time has come.
            (MessageEvent::Returned, Next::Wait { after, .. }) if *after >= left && change.failure.is_some() => {
                (MessageEvent::Refused, change.failure.clone())
            }
            (MessageEvent::FailedForNow, Next::Wait { after, .. }) if *after >= left => {
                (MessageEvent::Failed, change.failure.clone())
            }
            // The row of the attempt says when the call was: there is always one.
            (MessageEvent::Unknown, _) => (change.event, Some(change.failure.clone().unwrap_or_else(unexplained))),
            _ => (change.event, change.failure.clone()),
        }
    }

    /// The holds that parked work asks for.
    pub(super) fn wanted_holds(&self) -> Vec<&NewHold> {
        let mut wanted: Vec<&NewHold> = self
            .entries
            .values()
            .filter_map(|entry| match &entry.next {
                Some(Next::Park(hold)) => Some(&**hold),
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
        let (attempts, decisions, opt_outs) = (self.attempts, self.decisions, self.opt_outs);
        let mut writes = Writes { attempts, decisions, opt_outs, ..Writes::default() };
        let mut entries: Vec<_> = self.entries.into_iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        writes.messages.reserve_exact(entries.len());
        for (key, mut entry) in entries {
            let to = entry.write.state.unwrap_or(entry.found);
            entry.write.prove_acceptance(self.messages.get(&key), to);
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
                let (failure, at) = entry.failure.as_deref().cloned().unwrap_or_else(|| (expired(Late::Life), None));
                let (attempt, number, template) = (entry.write.attempt, batch.route.number, batch.route.template);
                writes.failed.push(FailedWrite { key, attempt, number, template, failure, at });
            }
            let batch = self.batches.get(&key.batch_id);
            let kinds = self.rules.events.told(entry.asks, entry.found, to);
            writes.told.extend(kinds.map(|kind| OfMessage { key, kind, failure: entry.said(kind) }));
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
        let slot = match event {
            MessageEvent::Accepted => &mut write.accepted,
            MessageEvent::Sent => &mut write.sent,
            MessageEvent::Delivered => &mut write.delivered,
            MessageEvent::Read => &mut write.read,
            MessageEvent::Refused
            | MessageEvent::Returned
            | MessageEvent::Unknown
            | MessageEvent::Recovered
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

    fn new(row: &MessageRow) -> Self {
        Self {
            found: row.state,
            asks: row.asks,
            dropped: row.dropped,
            write: MessageWrite { attempt: row.attempt, ..MessageWrite::default() },
            is_changed: false,
            failure: None,
            next: None,
            recovered: false,
        }
    }

    fn age(&self, attempt: i16, latest: i16, event: MessageEvent) -> Age {
        if event.is_of_a_call() && self.dropped > 0 && attempt <= self.dropped {
            Age::Dropped
        } else if attempt < latest {
            Age::Older
        } else {
            Age::Current
        }
    }

    /// Keeps in mind that the provider said of a call that it failed.
    fn note_dropped(&mut self, attempt: i16, event: MessageEvent) {
        if matches!(event, MessageEvent::Failed | MessageEvent::FailedForNow) && attempt > self.dropped {
            self.dropped = attempt;
            self.write.dropped = Some(attempt);
            self.is_changed = true;
        }
    }

    /// Why it will not arrive, where that is what is told.
    fn said(&self, kind: EventKind) -> Option<(String, FailureClass, String)> {
        let (failure, _) = self.failure.as_deref().filter(|_| kind == EventKind::MessageFailed)?;
        Some((failure.code.clone(), failure.class, failure.reason.clone()))
    }

    fn move_to(&mut self, to: MessageState, change: &Change, failure: Option<Failure>) {
        self.is_changed = true;
        self.write.state = Some(to);
        match to {
            MessageState::Failed | MessageState::Expired => {
                let failure = failure.unwrap_or_else(|| expired(Late::Life));
                self.write.code = Some(failure.code.clone());
                self.write.ended = Some(change.at);
                self.failure = Some(Box::new((failure, change.at)));
            }
            MessageState::Suppressed | MessageState::Cancelled => {
                self.write.code = failure.as_ref().map(|failure| failure.code.clone());
                self.write.ended = Some(change.at);
                self.failure = failure.map(|failure| Box::new((failure, change.at)));
            }
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
        (MessageState::Uncertain, _) if to != entry.found || entry.recovered => ("unsure", rules.grace, charged, None),
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
    let skip = if entry.recovered { LOST_ATTEMPTS } else { 0 };
    let write = WorkWrite { key, stage, wait, charged, hold, skip };
    if let Some(work) = work {
        if stage == "ready" {
            writes.woken.push(work.number);
        }
        writes.again.push(write);
    } else if let Some(batch) = batch {
        let attempt = entry.write.attempt;
        writes.with_hours.extend(batch.has_hours.then_some(key));
        writes.revived.push(WorkInsert {
            write,
            number: batch.route.number,
            attempt,
            lane: batch.route.lane,
            group: batch.group,
        });
    }
}
