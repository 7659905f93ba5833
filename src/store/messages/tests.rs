//! Random schedules of claims, calls, crashes, lost answers, redeliveries and decisions over the pure core: whatever the
//! order, rows balance, and no person is sent a message twice unless somebody decided to.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::{prelude::*, sample::Index};

use super::{
    plan::Plan,
    rows::{BatchRow, Holds, MessageRow, Stage, WorkRow, Writes},
    *,
};
use crate::domain::{
    event::{Asks, EventKind, Tell},
    hold::Route,
    ids::*,
    lane::Lane,
};

const MESSAGES: i32 = 4;
const ALL: Wanted = Wanted { failed: true, delivered: Tell::Always, read: Tell::Always };
const RULES: Rules = Rules { grace: Duration::from_mins(1), events: ALL };
const HOLD: HoldId = HoldId(1);

#[derive(Debug, Clone, Copy)]
enum Ending {
    Accepted,
    AcceptedAnswerLost,
    RefusedForNow,
    RefusedForGood,
    NotCalled,
    CutBeforeAnything,
}

#[derive(Debug, Clone)]
enum Step {
    Claim(Index),
    Call(Index, Ending),
    Settle,
    SettleAgain,
    Crash,
    Lapse(Index),
    Callback(Index),
    Resend(Index),
    Cancel(Index),
    Unpark,
}

fn step() -> impl Strategy<Value = Step> {
    let ending = prop_oneof![
        4 => Just(Ending::Accepted),
        2 => Just(Ending::AcceptedAnswerLost),
        1 => Just(Ending::RefusedForNow),
        1 => Just(Ending::RefusedForGood),
        1 => Just(Ending::NotCalled),
        1 => Just(Ending::CutBeforeAnything),
    ];
    let at = any::<Index>;
    prop_oneof![
        4 => at().prop_map(Step::Claim),
        5 => (at(), ending).prop_map(|(i, e)| Step::Call(i, e)),
        3 => Just(Step::Settle),
        1 => Just(Step::SettleAgain),
        1 => Just(Step::Crash),
        2 => at().prop_map(Step::Lapse),
        4 => at().prop_map(Step::Callback),
        1 => at().prop_map(Step::Resend),
        1 => at().prop_map(Step::Cancel),
        1 => Just(Step::Unpark),
    ]
}

/// The rows, the provider and one worker.
struct World {
    messages: BTreeMap<MessageKey, MessageRow>,
    work: BTreeMap<MessageKey, WorkRow>,
    tally: [i32; 10],
    batch: BatchRow,
    /// Claimed and not called.
    claimed: Vec<(MessageKey, i16)>,
    /// Outcomes on their way to the database.
    outcomes: Vec<Change>,
    settled: Vec<Change>,
    /// What the provider has taken and not dropped, by message.
    taken: HashMap<MessageKey, usize>,
    /// Decisions to call again although the last call's outcome is unknown.
    resends: HashMap<MessageKey, usize>,
    /// Everything the provider tells, again and again and in any order.
    callbacks: Vec<Change>,
    calls: HashSet<(MessageKey, i16)>,
    /// What was told of each message, in the order it was told.
    told: BTreeMap<MessageKey, Vec<EventKind>>,
}

fn key(seq: i32) -> MessageKey {
    MessageKey { batch_id: BatchId(uuid::Uuid::from_u128(7)), seq }
}

impl World {
    fn new() -> Self {
        let number = NumberId(1);
        let route = Route {
            provider: "p".to_owned(),
            portfolio: None,
            account: AccountId(1),
            number,
            template: TemplateId(1),
            lane: Lane::Marketing,
        };
        let batch = BatchRow {
            tenant: TenantId(1),
            route,
            left: Duration::from_hours(1),
            group: uuid::Uuid::nil(),
            has_hours: false,
        };
        let asks = Asks::default();
        let message =
            MessageRow { state: MessageState::Pending, attempt: 0, dropped: 0, number, asks, is_grouped: false };
        let work = WorkRow { stage: Stage::Ready, attempt: 0, charged: 0, number, left: None };
        let mut tally = [0; 10];
        tally[MessageState::Pending as usize] = MESSAGES;
        Self {
            messages: (1..=MESSAGES).map(|seq| (key(seq), message.clone())).collect(),
            work: (1..=MESSAGES).map(|seq| (key(seq), work.clone())).collect(),
            tally,
            batch,
            claimed: Vec::new(),
            outcomes: Vec::new(),
            settled: Vec::new(),
            taken: HashMap::new(),
            resends: HashMap::new(),
            callbacks: Vec::new(),
            calls: HashSet::new(),
            told: BTreeMap::new(),
        }
    }

    fn stages(&self, stage: Stage) -> Vec<MessageKey> {
        self.work.iter().filter(|(_, w)| w.stage == stage).map(|(key, _)| *key).collect()
    }

    /// As [`super::apply`] does with locked rows.
    fn apply(&mut self, changes: &[Change]) -> Vec<Applied> {
        let work = self.work.iter().map(|(k, w)| (*k, w.clone())).collect();
        let messages = self.messages.iter().map(|(k, m)| (*k, m.clone())).collect();
        let batches = HashMap::from([(key(1).batch_id, self.batch.clone())]);
        let mut plan = Plan::new(work, messages, batches, RULES);
        let applied = changes.iter().map(|change| plan.take(change)).collect();
        let holds = Holds { open: HashSet::from([HOLD]), ..Holds::default() };
        self.write(plan.finish(&holds));
        applied
    }

    fn write(&mut self, writes: Writes) {
        for (key, write) in writes.messages {
            let row = self.messages.get_mut(&key).unwrap();
            row.state = write.state.unwrap_or(row.state);
            (row.attempt, row.dropped) = (write.attempt, write.dropped.unwrap_or(row.dropped));
        }
        for told in writes.told {
            self.told.entry(told.key).or_default().push(told.kind);
        }
        for key in writes.done {
            self.work.remove(&key);
        }
        for write in writes.again {
            let row = self.work.get_mut(&write.key).unwrap();
            (row.stage, row.charged) = (stage_of(write.stage), write.charged);
        }
        for insert in writes.revived {
            let row = WorkRow {
                stage: stage_of(insert.write.stage),
                attempt: insert.attempt,
                charged: insert.write.charged,
                number: insert.number,
                left: None,
            };
            assert!(self.work.insert(insert.write.key, row).is_none(), "a message has one work row");
        }
        for deltas in writes.tallies.values() {
            self.tally.iter_mut().zip(deltas).for_each(|(count, delta)| *count += delta);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Claim(at) => pick(*at, &self.stages(Stage::Ready)).into_iter().for_each(|key| self.claim(key)),
            Step::Call(at, ending) if !self.claimed.is_empty() => {
                let (key, attempt) = self.claimed.remove(at.index(self.claimed.len()));
                self.call(key, attempt, *ending);
            }
            Step::Settle => {
                self.settled = std::mem::take(&mut self.outcomes);
                self.apply(&self.settled.clone());
            }
            // The answer to a commit was lost: the same group once more.
            Step::SettleAgain => drop(self.apply(&self.settled.clone())),
            Step::Crash => {
                self.claimed.clear();
                self.outcomes.clear();
            }
            Step::Lapse(at) => pick(*at, &self.stages(Stage::Calling)).into_iter().for_each(|key| self.lapse(key)),
            Step::Callback(at) if !self.callbacks.is_empty() => {
                let told = self.callbacks[at.index(self.callbacks.len())].clone();
                self.apply(&[told]);
            }
            Step::Resend(at) => pick(*at, &self.stages(Stage::Unsure)).into_iter().for_each(|key| self.resend(key)),
            Step::Cancel(at) => {
                if let Some(key) = pick(*at, &[self.stages(Stage::Ready), self.stages(Stage::Parked)].concat()) {
                    self.apply(&[Change::new(key, self.work[&key].attempt, MessageEvent::Cancelled)]);
                }
            }
            Step::Unpark => {
                let parked = self.work.values_mut().filter(|w| w.stage == Stage::Parked);
                parked.for_each(|w| w.stage = Stage::Ready);
            }
            Step::Call(..) | Step::Callback(_) => {}
        }
    }

    fn claim(&mut self, key: MessageKey) {
        let work = self.work.get_mut(&key).unwrap();
        (work.stage, work.attempt) = (Stage::Calling, work.attempt + 1);
        self.claimed.push((key, work.attempt));
    }

    fn call(&mut self, key: MessageKey, attempt: i16, ending: Ending) {
        let change = |event| Change::new(key, attempt, event);
        let later = Next::Wait { after: Duration::from_secs(1), charged: true };
        let is_taken = matches!(ending, Ending::Accepted | Ending::AcceptedAnswerLost);
        if is_taken {
            assert!(self.calls.insert((key, attempt)), "a token names one call");
            *self.taken.entry(key).or_default() += 1;
            // Every third message is dropped by the provider later, for good or for now.
            let told = match (key.seq % 3, attempt % 2) {
                (0, 0) => vec![MessageEvent::Sent, MessageEvent::Failed],
                (0, _) => vec![MessageEvent::Sent, MessageEvent::FailedForNow],
                _ => vec![MessageEvent::Sent, MessageEvent::Delivered, MessageEvent::Read],
            };
            if key.seq % 3 == 0 {
                *self.taken.entry(key).or_default() -= 1;
            }
            self.callbacks.extend(told.into_iter().map(|event| Change { next: later.clone(), ..change(event) }));
        }
        self.outcomes.push(match ending {
            Ending::Accepted => change(MessageEvent::Accepted),
            Ending::AcceptedAnswerLost | Ending::CutBeforeAnything => change(MessageEvent::Unknown),
            Ending::RefusedForNow => Change { next: later, ..change(MessageEvent::Returned) },
            Ending::RefusedForGood => change(MessageEvent::Refused),
            Ending::NotCalled => Change { next: Next::ParkUnder(HOLD), ..change(MessageEvent::Returned) },
        });
    }

    /// A claim past its deadline: whoever made it calls no more, and may still settle what it did.
    fn lapse(&mut self, key: MessageKey) {
        let attempt = self.work[&key].attempt;
        self.apply(&[Change::new(key, attempt, MessageEvent::Unknown)]);
        if let Some(place) = self.claimed.iter().position(|claim| *claim == (key, attempt)) {
            self.claimed.remove(place);
            self.outcomes.push(Change::new(key, attempt, MessageEvent::Returned));
        }
    }

    /// The policy, or a person, has an uncertain message called again.
    fn resend(&mut self, key: MessageKey) {
        let applied = self.apply(&[Change::new(key, self.work[&key].attempt, MessageEvent::Returned)]);
        if matches!(applied[..], [Applied::Moved { .. }]) {
            *self.resends.entry(key).or_default() += 1;
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        let mut recount = [0; 10];
        self.messages.values().for_each(|m| recount[m.state as usize] += 1);
        assert_eq!(self.tally, recount, "tallies equal a recount");
        for (key, message) in &self.messages {
            assert_eq!(message.state.has_work(), self.work.contains_key(key), "{message:?} {:?}", self.work.get(key));
            let allowed = 1 + self.resends.get(key).copied().unwrap_or_default();
            assert!(self.taken.get(key).copied().unwrap_or_default() <= allowed, "sent twice");
            self.check_told(*key, message.state);
        }
    }

    /// Whoever hears each event knows where the message stands, and hears nothing twice.
    fn check_told(&self, key: MessageKey, state: MessageState) {
        let (mut failed, mut delivered, mut read) = (false, false, false);
        for kind in self.told.get(&key).into_iter().flatten() {
            let (flag, was, is) = match kind {
                EventKind::MessageFailed => (&mut failed, false, true),
                EventKind::MessageLifted => (&mut failed, true, false),
                EventKind::MessageDelivered => (&mut delivered, false, true),
                EventKind::MessageRead => (&mut read, false, true),
                other => panic!("{other} is not about a message"),
            };
            assert_eq!(*flag, was, "{kind} out of place: {:?}", self.told[&key]);
            *flag = is;
            assert!(delivered || !read, "read before it was delivered");
        }
        let is = (state.has_ended_in_vain(), state.is_at_least(MessageState::Delivered), state == MessageState::Read);
        assert_eq!((failed, delivered, read), is, "{state}: {:?}", self.told.get(&key));
    }

    /// Faults end: everything owed arrives, in order, and the rest is called.
    fn finish(&mut self) {
        for _ in 0..40 {
            self.step(&Step::Settle);
            self.stages(Stage::Calling).into_iter().for_each(|key| self.lapse(key));
            self.step(&Step::Settle);
            for told in self.callbacks.clone() {
                self.apply(&[told]);
            }
            self.resolve();
            self.step(&Step::Unpark);
            self.stages(Stage::Ready).into_iter().for_each(|key| self.claim(key));
            for (key, attempt) in std::mem::take(&mut self.claimed) {
                self.call(key, attempt, Ending::Accepted);
            }
            self.check();
        }
    }

    /// A person with evidence: what was taken is sent, the rest is called again.
    fn resolve(&mut self) {
        for key in self.stages(Stage::Unsure) {
            let attempt = self.work[&key].attempt;
            let is_taken = self.taken.get(&key).is_some_and(|calls| *calls > 0);
            let event = if is_taken { MessageEvent::Accepted } else { MessageEvent::Returned };
            self.apply(&[Change::new(key, attempt, event)]);
        }
    }
}

fn pick(at: Index, from: &[MessageKey]) -> Option<MessageKey> {
    (!from.is_empty()).then(|| from[at.index(from.len())])
}

fn stage_of(stage: &str) -> Stage {
    match stage {
        "ready" => Stage::Ready,
        "parked" => Stage::Parked,
        "unsure" => Stage::Unsure,
        other => panic!("no change writes {other}"),
    }
}

#[test]
fn a_call_that_was_claimed_and_never_settled_keeps_its_number() {
    let (mut world, key) = (World::new(), key(3));
    world.claim(key);
    let (_, attempt) = world.claimed.remove(0);
    world.call(key, attempt, Ending::AcceptedAnswerLost);
    world.step(&Step::Settle);
    world.resend(key);
    world.claim(key);
    // The first call was taken: its work ends while whoever claimed the second may still make it.
    world.apply(&[world.callbacks[0].clone()]);
    assert!(!world.work.contains_key(&key));
    assert_eq!(world.messages[&key].attempt, 2);
}

#[test]
fn a_source_speaks_for_its_own_numbers_only() {
    let mut world = World::new();
    world.claim(key(1));
    let told = |number| Change {
        only_numbers: Some(Arc::from([NumberId(number)])),
        ..Change::new(key(1), 1, MessageEvent::Delivered)
    };
    assert_eq!(world.apply(&[told(2)]), [Applied::Unmatched]);
    assert!(matches!(world.apply(&[told(1)])[..], [Applied::Moved { .. }]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_in_whatever_order_rows_balance_and_nobody_is_sent_a_message_twice(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.finish();
        for (key, message) in &world.messages {
            // What the provider has and keeps is known as sent, whatever was believed meanwhile.
            let is_taken = world.taken.get(key).is_some_and(|calls| *calls > 0);
            prop_assert!(!message.state.has_work(), "{key} never ended");
            let is_decided = world.resends.contains_key(key);
            prop_assert!(is_taken || is_decided || !message.state.is_sent(), "{key} was dropped and is {}", message.state);
            prop_assert!(!is_taken || message.state.is_sent(), "{key} was sent and is {}", message.state);
        }
    }
}
