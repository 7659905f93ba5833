//! What the claimer has to touch: numbers to look at, and numbers that could be claimed for. A number without work is
//! in none of these, so that thousands of them cost nothing.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    mem,
    time::Duration,
};

use tokio::sync::Notify;

use crate::domain::{ids::NumberId, pacing::Tick};

/// Messages of the process that are claimed and not started, beyond which nothing but authentication is claimed: however
/// many numbers have work, its memory is bounded, and what is claimed is started before its claim is too old to.
const AHEAD: usize = 4_000;

/// What the actors and the settling tell the claimer: numbers that have room again, or work that was waiting; and how much
/// is claimed that they have not started.
#[derive(Debug, Default)]
pub(super) struct Hunger {
    /// Claimed messages that wait for their calls, of all numbers.
    ahead: Cell<usize>,
    numbers: RefCell<Vec<NumberId>>,
    come: RefCell<Vec<NumberId>>,
    changed: Notify,
}

impl Hunger {
    /// A number has room for more work.
    pub(super) fn tell(&self, number: NumberId) {
        self.numbers.borrow_mut().push(number);
        self.changed.notify_one();
    }

    /// Something may have come for a number.
    pub(super) fn come(&self, number: NumberId) {
        self.come.borrow_mut().push(number);
        self.changed.notify_one();
    }

    /// A claimed message waits for its call.
    pub(super) fn claimed(&self) {
        self.ahead.set(self.ahead.get() + 1);
    }

    /// So many claimed messages do not wait any more.
    pub(super) fn left(&self, count: usize) {
        let before = self.ahead.get();
        self.ahead.set(before.saturating_sub(count));
        if before >= AHEAD && self.ahead.get() < AHEAD {
            self.changed.notify_one();
        }
    }

    /// Whether more may be claimed than authentication.
    pub(super) fn has_room(&self) -> bool {
        self.ahead.get() < AHEAD
    }

    /// Waits until one has told.
    pub(super) async fn told(&self) {
        self.changed.notified().await;
    }

    fn take(&self) -> Vec<NumberId> {
        mem::take(&mut *self.numbers.borrow_mut())
    }

    fn take_come(&self) -> Vec<NumberId> {
        mem::take(&mut *self.come.borrow_mut())
    }
}

/// The next things to do, by number.
#[derive(Debug)]
pub(super) struct Agenda {
    /// To be looked at now.
    look: HashSet<NumberId>,
    /// To be looked at then: something becomes due.
    later: BinaryHeap<Reverse<(Tick, NumberId)>>,
    /// To be asked for: room and known due work.
    ask: HashSet<NumberId>,
    /// To be asked for when the process has room: first come, first served.
    line: Vec<NumberId>,
    /// Who stands in the line.
    lined: HashSet<NumberId>,
    /// Known due work, with or without room.
    busy: HashSet<NumberId>,
    poll_at: Tick,
    gates_version: u64,
}

impl Agenda {
    pub(super) fn new() -> Self {
        Self {
            look: HashSet::new(),
            later: BinaryHeap::new(),
            ask: HashSet::new(),
            line: Vec::new(),
            lined: HashSet::new(),
            busy: HashSet::new(),
            poll_at: Tick::ZERO,
            gates_version: 0,
        }
    }

    /// Something may have come for this number.
    pub(super) fn look_at(&mut self, number: NumberId) {
        self.look.insert(number);
    }

    /// Something may have come for any number.
    pub(super) fn poll_now(&mut self) {
        self.poll_at = Tick::ZERO;
    }

    /// Whether it is time to ask which numbers have work: for what no wake-up announced.
    pub(super) fn is_poll_due(&self, now: Tick) -> bool {
        self.poll_at <= now
    }

    /// The next poll comes after `every`, and later if this one was expensive: polls take at most a fiftieth of the time.
    pub(super) fn polled(&mut self, started: Tick, now: Tick, every: Duration) {
        let rest = (now.saturating_sub(started) * 50).min(every * 5);
        self.poll_at = now + every.max(rest);
    }

    /// The numbers to look at now.
    pub(super) fn take_looks(&mut self, hunger: &Hunger, now: Tick) -> Vec<NumberId> {
        self.look.extend(hunger.take_come());
        while let Some(Reverse((at, number))) = self.later.peek().copied()
            && at <= now
        {
            self.later.pop();
            self.look.insert(number);
        }
        self.look.drain().collect()
    }

    /// What a look found out.
    pub(super) fn looked(&mut self, number: NumberId, has_due: bool, next_due: Option<Tick>) {
        self.known(number, has_due);
        if let Some(at) = next_due {
            self.later.push(Reverse((at, number)));
        }
    }

    /// Whether a number has known due work; it is asked for at the next step.
    pub(super) fn known(&mut self, number: NumberId, has_due: bool) {
        if has_due {
            self.busy.insert(number);
            self.ask.insert(number);
        } else {
            self.busy.remove(&number);
            self.ask.remove(&number);
        }
    }

    /// A number has no room now; it is asked for again when it has.
    pub(super) fn asked(&mut self, number: NumberId) {
        self.ask.remove(&number);
    }

    /// A number has room and the process has none; it is asked for again when it has, after those that came before.
    pub(super) fn postpone(&mut self, number: NumberId) {
        if self.lined.insert(number) {
            self.line.push(number);
        }
    }

    /// What was asked for these numbers was not reached; they come before all others.
    pub(super) fn ask_first(&mut self, numbers: impl Iterator<Item = NumberId>) {
        let numbers: Vec<NumberId> = numbers.filter(|number| self.lined.insert(*number)).collect();
        self.line.splice(0..0, numbers);
    }

    /// The numbers to ask for work of: those that waited for the process to have room, in order, then in none those with due
    /// work that is new, that have room again, or all with due work after the gates moved.
    pub(super) fn take_asks(&mut self, hunger: &Hunger, gates_version: u64) -> Vec<NumberId> {
        if gates_version != self.gates_version {
            self.gates_version = gates_version;
            self.ask.extend(&self.busy);
        }
        self.ask.extend(hunger.take().into_iter().filter(|number| self.busy.contains(number)));
        let mut asks = Vec::new();
        if hunger.has_room() {
            self.lined.clear();
            asks = mem::take(&mut self.line);
            asks.retain(|number| self.busy.contains(number));
            for number in &asks {
                self.ask.remove(number);
            }
        }
        asks.extend(self.ask.drain());
        asks
    }

    /// All with due work may be asked for: limits may have changed.
    pub(super) fn ask_all(&mut self) {
        self.ask.extend(&self.busy);
    }

    /// A number is not ours any more.
    pub(super) fn forget(&mut self, number: NumberId) {
        self.look.remove(&number);
        self.ask.remove(&number);
        self.busy.remove(&number);
    }

    /// When there is something to do without anybody saying so.
    pub(super) fn next(&self, hunger: &Hunger, now: Tick) -> Tick {
        let is_line_due = !self.line.is_empty() && hunger.has_room();
        if is_line_due || !self.ask.is_empty() || !self.look.is_empty() {
            return now;
        }
        self.later.peek().map_or(self.poll_at, |Reverse((at, _))| self.poll_at.min(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NumberId = NumberId(1);
    const B: NumberId = NumberId(2);
    const NOW: Tick = Duration::from_secs(100);

    #[test]
    fn a_number_without_work_is_touched_by_nothing() {
        let (mut agenda, hunger) = (Agenda::new(), Hunger::default());
        agenda.look_at(A);
        assert_eq!(agenda.take_looks(&Hunger::default(), NOW), [A]);
        agenda.looked(A, false, None);
        agenda.polled(NOW, NOW, Duration::from_secs(1));
        hunger.tell(A);
        assert!(agenda.take_asks(&hunger, 7).is_empty());
        assert!(agenda.take_looks(&Hunger::default(), NOW * 9).is_empty());
        assert_eq!(agenda.next(&hunger, NOW), NOW + Duration::from_secs(1));
    }

    #[test]
    fn a_busy_number_is_asked_for_when_it_has_room_or_the_gates_moved() {
        let (mut agenda, hunger) = (Agenda::new(), Hunger::default());
        agenda.looked(A, true, None);
        agenda.looked(B, false, None);
        assert_eq!(agenda.take_asks(&hunger, 0), [A]);
        assert!(agenda.take_asks(&hunger, 0).is_empty());
        hunger.tell(A);
        hunger.tell(B);
        assert_eq!(agenda.take_asks(&hunger, 0), [A]);
        assert_eq!(agenda.take_asks(&hunger, 1), [A]);
        agenda.known(A, false);
        assert!(agenda.take_asks(&hunger, 2).is_empty());
    }

    #[test]
    fn numbers_wait_in_line_while_the_process_has_no_room() {
        let (mut agenda, hunger) = (Agenda::new(), Hunger::default());
        agenda.polled(NOW, NOW, Duration::from_mins(1));
        let numbers: Vec<NumberId> = (1..=9).map(NumberId).collect();
        (0..AHEAD).for_each(|_| hunger.claimed());
        for number in &numbers {
            agenda.known(*number, true);
        }
        assert_eq!(agenda.take_asks(&hunger, 0).len(), 9, "they may have authentication");
        for number in numbers.iter().chain(&numbers) {
            agenda.postpone(*number);
        }
        hunger.tell(A);
        assert_eq!(agenda.take_asks(&hunger, 0), [A]);
        assert_eq!((hunger.has_room(), agenda.next(&hunger, NOW)), (false, NOW + Duration::from_mins(1)));

        hunger.left(1);
        assert_eq!((hunger.has_room(), agenda.next(&hunger, NOW)), (true, NOW));
        agenda.known(B, false);
        hunger.tell(NumberId(9));
        let asks = agenda.take_asks(&hunger, 0);
        assert_eq!(asks, numbers.into_iter().filter(|number| *number != B).collect::<Vec<_>>(), "each once, in order");
        agenda.postpone(A);
        agenda.ask_first([NumberId(7), NumberId(8)].into_iter());
        assert_eq!(agenda.take_asks(&hunger, 0), [NumberId(7), NumberId(8), A], "what was not reached comes first");
        assert!(agenda.take_asks(&hunger, 0).is_empty());
    }

    #[test]
    fn what_becomes_due_is_looked_at_then() {
        let (mut agenda, hunger) = (Agenda::new(), Hunger::default());
        agenda.polled(NOW, NOW, Duration::from_mins(1));
        agenda.looked(A, false, Some(NOW + Duration::from_secs(5)));
        assert_eq!(agenda.next(&hunger, NOW), NOW + Duration::from_secs(5));
        assert!(agenda.take_looks(&Hunger::default(), NOW).is_empty());
        assert_eq!(agenda.take_looks(&Hunger::default(), NOW + Duration::from_secs(5)), [A]);
    }

    #[test]
    fn an_expensive_poll_comes_less_often() {
        let mut agenda = Agenda::new();
        let second = Duration::from_secs(1);
        agenda.polled(NOW, NOW + Duration::from_millis(40), second);
        assert!(!agenda.is_poll_due(NOW + second) && agenda.is_poll_due(NOW + second * 3));
        agenda.polled(NOW, NOW + second, second);
        assert!(agenda.is_poll_due(NOW + second * 6), "but not too rarely");
        agenda.poll_now();
        assert!(agenda.is_poll_due(NOW));
    }
}
