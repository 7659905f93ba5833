use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{BatchFacts, CallFacts, Facts, Gate, HoldFacts, Stage, Turn, Verdict, Why, WorkFacts, explain};
use crate::domain::{
    hold::Resume,
    ids::{BatchId, MessageKey},
    message::MessageState,
};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn ahead(minutes: i64) -> DateTime<Utc> {
    now() + TimeDelta::minutes(minutes)
}

fn batch() -> BatchId {
    BatchId(Uuid::from_u128(7))
}

/// Due, with a worker, and nothing before it.
fn due() -> Facts {
    Facts {
        message: MessageKey { batch_id: batch(), seq: 3 },
        now: now(),
        state: MessageState::Pending,
        state_since: None,
        failure: None,
        advice: None,
        may_resend: false,
        resent_as: None,
        suppression: None,
        batch: BatchFacts {
            id: batch(),
            campaign: Some("spring".to_owned()),
            is_planned: true,
            created_at: ahead(-60),
            send_at: ahead(-30),
            expires_at: ahead(600),
            cancelled_at: None,
            has_hours: false,
        },
        work: Some(WorkFacts { stage: Stage::Ready, wake_at: ahead(-30), until: None }),
        last_call: None,
        holds: Vec::new(),
        number: "+81312340001".to_owned(),
        has_worker: true,
        turn: Some(Turn { ahead: 0, rate_per_s: Some(78.0), is_slowed: false, at: now() }),
    }
}

fn hold(scope: &str, cause: &str, resume: Resume) -> HoldFacts {
    HoldFacts {
        id: 12,
        scope: scope.to_owned(),
        cause: cause.to_owned(),
        detail: "because".to_owned(),
        resume,
        since: ahead(-5),
        until: (resume == Resume::Time).then(|| ahead(5)),
        probe_at: (resume == Resume::Probe).then(|| ahead(1)),
        advice: None,
    }
}

fn held(scope: &str, cause: &str, resume: Resume) -> Facts {
    let work = Some(WorkFacts { stage: Stage::Parked, wake_at: ahead(600), until: None });
    Facts { holds: vec![hold(scope, cause, resume)], work, ..due() }
}

fn ready(wake_at: DateTime<Utc>) -> WorkFacts {
    WorkFacts { stage: Stage::Ready, wake_at, until: None }
}

fn call(code: &str) -> CallFacts {
    CallFacts { at: ahead(-1), code: code.to_owned(), reason: "the provider's words".to_owned() }
}

fn ended(state: MessageState) -> Facts {
    Facts { state, state_since: Some(ahead(-2)), work: None, ..due() }
}

fn unsure() -> Facts {
    let work = Some(WorkFacts { stage: Stage::Unsure, wake_at: ahead(1), until: None });
    Facts { state: MessageState::Uncertain, work, last_call: Some(call("timeout")), ..due() }
}

/// What is so, the gate, since and until when, a part of the sentence, a part of what to do.
type Case =
    (&'static str, Facts, Option<Gate>, Option<DateTime<Utc>>, Option<DateTime<Utc>>, &'static str, &'static str);

fn in_time() -> Vec<Case> {
    let later = |send_at| BatchFacts { send_at, ..due().batch };
    let hours = BatchFacts { has_hours: true, ..due().batch };
    vec![
        ("due", due(), None, None, None, "nothing stops it", ""),
        (
            "a future send_at",
            Facts { batch: later(ahead(60)), work: Some(ready(ahead(60))), ..due() },
            Some(Gate::SendAt),
            Some(ahead(-60)),
            Some(ahead(60)),
            "it is to be sent at 2027-01-15 09:00:00Z",
            "batches cancel",
        ),
        (
            "a window that is not open",
            Facts { batch: hours, work: Some(ready(ahead(90))), ..due() },
            Some(Gate::Window),
            Some(ahead(-60)),
            Some(ahead(90)),
            "window of the recipient's hours opens at",
            "nothing",
        ),
        (
            "the recipient has had enough for today",
            Facts { work: Some(ready(ahead(1440))), last_call: Some(call("131049")), ..due() },
            Some(Gate::Retry),
            Some(ahead(-1)),
            Some(ahead(1440)),
            "131049 the provider's words",
            "called again by itself",
        ),
        (
            "a pair that talks too fast",
            Facts { work: Some(ready(ahead(1))), ..due() },
            Some(Gate::Retry),
            None,
            Some(ahead(1)),
            "wrote to this recipient a moment ago",
            "by itself",
        ),
    ]
}

fn in_turn() -> Vec<Case> {
    let behind = |is_slowed| Some(Turn { ahead: 780, rate_per_s: Some(78.0), is_slowed, at: ahead(1) });
    vec![
        (
            "the rate",
            Facts { turn: behind(false), ..due() },
            Some(Gate::Rate),
            Some(ahead(-30)),
            Some(ahead(1)),
            "behind 780 others: +81312340001 sends at 78 a second",
            "its turn comes",
        ),
        (
            "a throttled rate",
            Facts { turn: behind(true), ..due() },
            Some(Gate::Rate),
            Some(ahead(-30)),
            Some(ahead(1)),
            "slowed because the provider throttled it",
            "its turn comes",
        ),
        (
            "no worker",
            Facts { has_worker: false, turn: behind(false), ..due() },
            Some(Gate::Worker),
            None,
            None,
            "no worker",
            "serve --roles dispatch",
        ),
    ]
}

fn under_holds() -> Vec<Case> {
    use Gate::{Approval, Canary, Hold};
    let own = format!("batch:{}", batch());
    let soon = |minutes| Some(ahead(minutes));
    let cases = [
        ("a dead token", held("account:1", "190", Resume::Credentials), Hold, None, "(190)", "accounts apply FILE"),
        (
            "a paused template",
            held("template:4", "template_status", Resume::Status),
            Hold,
            None,
            "hold 12 on template:4",
            "templates apply FILE",
        ),
        ("by hand", held("number:2", "person", Resume::Person), Hold, None, "number:2", "holds close 12"),
        ("a paused batch", held(&own, "person", Resume::Person), Hold, None, "person", "batches resume"),
        (
            "a paused campaign",
            held(&own, "campaign_paused", Resume::Person),
            Hold,
            None,
            "paused",
            "campaigns resume spring",
        ),
        ("an approval", held(&own, "approval", Resume::Person), Approval, None, "another person", "holds close 12"),
        ("a canary", held(&own, "canary", Resume::Canary), Canary, None, "fare well", "first messages decide"),
        ("it failed", held(&own, "canary", Resume::Person), Canary, None, "did not fare well", "holds close 12"),
        ("a probe", held("provider:x", "http_5xx", Resume::Probe), Hold, soon(1), "provider:x", "holds close 12"),
        ("a clock", held("account:1", "80007", Resume::Time), Hold, soon(5), "80007", "ends by itself"),
        (
            "another timeline",
            held("everything", "timeline", Resume::Person),
            Hold,
            None,
            "everything",
            "recover --since",
        ),
    ];
    let since = Some(ahead(-5));
    let case = |(name, facts, gate, until, says, step)| (name, facts, Some(gate), since, until, says, step);
    cases.into_iter().map(case).collect()
}

fn never_called() -> Vec<Case> {
    vec![
        (
            "messages still being made",
            Facts { batch: BatchFacts { is_planned: false, ..due().batch }, ..due() },
            Some(Gate::Planning),
            Some(ahead(-60)),
            None,
            "still being made",
            "batches show",
        ),
        (
            "given up",
            Facts { batch: BatchFacts { cancelled_at: Some(ahead(-1)), ..due().batch }, ..due() },
            Some(Gate::Cancelled),
            Some(ahead(-1)),
            None,
            "given up",
            "within seconds",
        ),
        (
            "too late",
            Facts { batch: BatchFacts { expires_at: ahead(-1), ..due().batch }, ..due() },
            Some(Gate::Life),
            Some(ahead(-1)),
            None,
            "its life has ended",
            "expires",
        ),
    ]
}

fn through() -> Vec<Case> {
    let since = Some(ahead(-2));
    let again = MessageKey { batch_id: BatchId(Uuid::from_u128(8)), seq: 3 };
    let failed = Facts { failure: Some(call("131026")), may_resend: true, ..ended(MessageState::Failed) };
    let calling = Some(WorkFacts { stage: Stage::Calling, wake_at: ahead(1), until: None });
    vec![
        (
            "being called",
            Facts { work: calling, ..due() },
            Some(Gate::Call),
            None,
            Some(ahead(1)),
            "being called",
            "uncertain",
        ),
        ("in doubt", unsure(), Some(Gate::Uncertain), Some(ahead(-1)), Some(ahead(1)), "timeout", "uncertain resolve"),
        ("failed", failed.clone(), Some(Gate::State), since, None, "131026 the provider's words", "resend --message"),
        (
            "sent again",
            Facts { resent_as: Some(again), ..failed },
            Some(Gate::State),
            since,
            None,
            "sent again as",
            "why 0",
        ),
        ("expired", ended(MessageState::Expired), Some(Gate::State), since, None, "not called in time", ""),
        ("cancelled", ended(MessageState::Cancelled), Some(Gate::State), since, None, "given up", "messages show"),
        ("suppressed", ended(MessageState::Suppressed), Some(Gate::State), since, None, "does not want", "nothing"),
        ("accepted", ended(MessageState::Accepted), None, since, None, "told by its callbacks", ""),
        (
            "silent",
            Facts { state_since: Some(ahead(-60)), ..ended(MessageState::Accepted) },
            None,
            Some(ahead(-60)),
            None,
            "nothing since",
            "webhook",
        ),
        ("sent", ended(MessageState::Sent), None, since, None, "sent it on", ""),
        ("delivered", ended(MessageState::Delivered), None, since, None, "reached", ""),
        ("read", ended(MessageState::Read), None, since, None, "opened", ""),
    ]
}

fn told(why: &Why) -> String {
    let steps = why.next.iter().map(|step| format!("{} {}", step.what, step.command.as_deref().unwrap_or_default()));
    steps.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_situation_is_named_with_what_to_do() {
    for (name, facts, gate, since, until, says, step) in
        in_time().into_iter().chain(in_turn()).chain(under_holds()).chain(never_called()).chain(through())
    {
        let why = explain(&facts);
        assert_eq!((why.gate, why.since, why.until), (gate, since, until), "{name}: {why:#?}");
        assert!(why.summary.contains(says), "{name}: {}", why.summary);
        assert!(told(&why).contains(step), "{name}: {}", told(&why));
        let stopping = why.gates.iter().filter(|checked| checked.verdict == Verdict::Stops).count();
        assert_eq!(stopping, usize::from(gate.is_some()), "{name}");
    }
}

#[test]
fn the_first_closed_gate_stops_and_the_others_are_told() {
    let both = Facts {
        batch: BatchFacts { send_at: ahead(60), ..due().batch },
        holds: vec![hold("everything", "person", Resume::Person), hold("batch:x", "approval", Resume::Person)],
        has_worker: false,
        ..due()
    };
    let why = explain(&both);
    assert_eq!(why.gate, Some(Gate::SendAt));
    let closed: Vec<Gate> = why.gates.iter().filter(|c| c.verdict == Verdict::WillStop).map(|c| c.gate).collect();
    assert_eq!(closed, [Gate::Hold, Gate::Approval, Gate::Worker]);
    let order: Vec<Gate> = why.gates.iter().map(|checked| checked.gate).collect();
    let mut sorted = order.clone();
    sorted.sort_by_key(|gate| Gate::ALL.iter().position(|other| other == gate));
    assert_eq!(order, sorted, "gates are listed in the order of their enum");
}
