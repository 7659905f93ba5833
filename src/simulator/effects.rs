//! Which faults are in force, and what they do to a call.
//!
//! A fault applies to calls that passed the gate, so that a mistake of the caller is never hidden by one. All that match
//! apply together; of those that decide the answer the first wins.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::simulator::{
    errors::ApiError,
    faults::{Fault, FaultAction, SUFFIXES},
    read_locked, wire, world, write_locked,
};

/// What faults look at in a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) number: &'a str,
    pub(super) waba: &'a str,
    pub(super) template: &'a str,
    pub(super) recipient: &'a str,
    /// Stands for this call: the token, or the recipient and the time.
    pub(super) draw: u64,
}

/// What is done to one call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    pub(super) verdict: Verdict,
    pub(super) slow: Option<Duration>,
    pub(super) callbacks: CallbackEffects,
}

/// How the call ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    #[default]
    Accept,
    Refuse(ApiError),
    Html502,
    Drop,
    AcceptThenDrop,
    AcceptThenHtml502,
    AcceptThenError(ApiError),
}

/// What is done to the callbacks of one message.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent faults, in force in any combination")]
pub(super) struct CallbackEffects {
    pub(super) failed: Option<u32>,
    pub(super) held: bool,
    pub(super) none: bool,
    pub(super) duplicated: bool,
    pub(super) reordered: bool,
    pub(super) forged: bool,
    pub(super) late: Duration,
}

/// How long a message is held for quality.
const HELD: Duration = Duration::from_secs(3);

impl Effects {
    fn add(&mut self, action: &FaultAction) {
        let decided = self.verdict != Verdict::Accept;
        let mut decide = |verdict| {
            if !decided {
                self.verdict = verdict;
            }
        };
        let callbacks = &mut self.callbacks;
        match action {
            FaultAction::None => {}
            FaultAction::Error(code, status) => {
                decide(Verdict::Refuse(ApiError::of(*code).answered(*status)));
            }
            FaultAction::DropBeforeAccept => decide(Verdict::Drop),
            FaultAction::DropAfterAccept => decide(Verdict::AcceptThenDrop),
            FaultAction::ErrorAfterAccept(code, status) => {
                decide(Verdict::AcceptThenError(ApiError::of(*code).answered(*status)));
            }
            FaultAction::Html502 => decide(Verdict::Html502),
            FaultAction::Html502AfterAccept => decide(Verdict::AcceptThenHtml502),
            FaultAction::TokenExpired => decide(Verdict::Refuse(ApiError::token(190))),
            FaultAction::Throttle => decide(Verdict::Refuse(world::throttled())),
            FaultAction::Throttle429 => {
                decide(Verdict::Refuse(world::throttled().answered(Some(429))));
            }
            FaultAction::Slow(ms) => self.slow = Some(Duration::from_millis(*ms)),
            FaultAction::AsyncError(code) => callbacks.failed = callbacks.failed.or(Some(*code)),
            FaultAction::Held => (callbacks.held, callbacks.late) = (true, HELD),
            FaultAction::HeldDropped => {
                (callbacks.held, callbacks.late) = (true, HELD);
                callbacks.failed = Some(132_015);
            }
            FaultAction::NoCallbacks => callbacks.none = true,
            FaultAction::DuplicateCallbacks => callbacks.duplicated = true,
            FaultAction::ReorderCallbacks => callbacks.reordered = true,
            FaultAction::LateCallbacks(ms) => callbacks.late = Duration::from_millis(*ms),
            FaultAction::BadSignature => callbacks.forged = true,
        }
    }
}

#[derive(Debug)]
struct Rule {
    id: u64,
    fault: Fault,
    seen: AtomicU64,
    done: AtomicU64,
}

/// The faults in force. A switch of faults never waits for calls: each call works on the list it found.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: RwLock<Arc<Vec<Arc<Rule>>>>,
    next_id: AtomicU64,
    seed: u64,
}

impl Faults {
    pub(super) fn new(seed: u64, faults: Vec<Fault>) -> Self {
        let all = Self { seed, ..Self::default() };
        for fault in faults {
            all.add(fault);
        }
        all
    }

    /// Adds a fault behind those in force and returns its id.
    pub(super) fn add(&self, fault: Fault) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let mut rules = write_locked(&self.rules);
        let rule = Arc::new(Rule { id, fault, seen: AtomicU64::new(0), done: AtomicU64::new(0) });
        *rules = Arc::new(rules.iter().cloned().chain([rule]).collect());
        id
    }

    /// Ends one fault, or all. Returns how many were ended.
    pub(super) fn remove(&self, id: Option<u64>) -> usize {
        let mut rules = write_locked(&self.rules);
        let before = rules.len();
        *rules = Arc::new(rules.iter().filter(|rule| id.is_some_and(|id| id != rule.id)).cloned().collect());
        before - rules.len()
    }

    /// The faults in force with the number of calls they were done to.
    pub(super) fn list(&self) -> Vec<(u64, Fault, u64)> {
        let rules = read_locked(&self.rules).clone();
        rules.iter().map(|rule| (rule.id, rule.fault.clone(), rule.done.load(Ordering::Relaxed))).collect()
    }

    /// What is done to this call.
    pub(super) fn effects(&self, subject: Subject<'_>, by_suffix: bool) -> Effects {
        let mut effects = Effects::default();
        let rules = read_locked(&self.rules).clone();
        for rule in rules.iter().filter(|rule| rule.concerns(subject, self.seed)) {
            effects.add(&rule.fault.action);
        }
        if by_suffix && let Some((_, action)) = SUFFIXES.iter().find(|(suffix, _)| subject.recipient.ends_with(suffix))
        {
            effects.add(action);
        }
        effects
    }
}

impl Rule {
    fn concerns(&self, subject: Subject<'_>, seed: u64) -> bool {
        let when = &self.fault.when;
        let is = |wanted: &Option<String>, given: &str| wanted.as_deref().is_none_or(|wanted| wanted == given);
        let fits = is(&when.number, subject.number)
            && is(&when.waba, subject.waba)
            && is(&when.template, subject.template)
            && when.suffix.as_deref().is_none_or(|suffix| subject.recipient.ends_with(suffix));
        if !fits || self.seen.fetch_add(1, Ordering::Relaxed) < when.after_calls {
            return false;
        }
        let draw = wire::mix(subject.draw ^ wire::mix(seed ^ self.id));
        if when.probability.is_some_and(|probability| !wire::falls_under(probability, draw)) {
            return false;
        }
        let done = self.done.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |done| {
            when.count.is_none_or(|count| done < count).then_some(done + 1)
        });
        done.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(faults: &Faults, calls: u64) -> Vec<u64> {
        let subject = |draw| Subject { number: "1", waba: "2", template: "t", recipient: "819000000026", draw };
        (0..calls).filter(|&draw| faults.effects(subject(draw), false) != Effects::default()).collect()
    }

    fn faults(seed: u64, spec: &str) -> Faults {
        Faults::new(seed, vec![spec.parse().unwrap()])
    }

    #[test]
    fn calls_are_counted_and_matched() {
        assert_eq!(hits(&faults(1, "after=2,count=3:131000"), 10), [2, 3, 4]);
        assert_eq!(hits(&faults(1, "number=1,waba=2,template=t,suffix=26:held"), 2).len(), 2);
        for miss in ["number=9:held", "waba=9:held", "template=x:held", "suffix=27:held", "count=0:held"] {
            assert!(hits(&faults(1, miss), 2).is_empty(), "{miss}");
        }
    }

    #[test]
    fn a_share_is_the_same_calls_for_the_same_seed() {
        let run = |seed| hits(&faults(seed, "p=0.1:131000"), 10_000);
        assert!((900..1100).contains(&run(1).len()));
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn suffixes_add_to_faults_and_the_first_verdict_wins() {
        let faults = Faults::new(1, vec!["*:throttle".parse().unwrap(), "*:131000".parse().unwrap()]);
        let subject = Subject { number: "1", waba: "2", template: "t", recipient: "819000000026", draw: 0 };
        let effects = faults.effects(subject, true);
        assert_eq!(effects.verdict, Verdict::Refuse(world::throttled()));
        assert_eq!(effects.callbacks.failed, Some(131_026));
        assert_eq!(faults.remove(Some(1)), 1);
        assert_eq!(faults.effects(subject, false).verdict, Verdict::Refuse(ApiError::of(131_000)));
        assert_eq!(faults.remove(None), 1);
        assert!(faults.list().is_empty());
    }
}
