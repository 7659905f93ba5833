//! Each gate as a sentence.

use chrono::{DateTime, TimeDelta, Utc};

use super::{CallFacts, Checked, Facts, Gate, HoldFacts, Stage, Step, Verdict, Why};
use crate::domain::{hold::Resume, message::MessageState};

/// How long callbacks usually take at most.
const RECEIPT: TimeDelta = TimeDelta::minutes(15);

fn clock(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn open(gate: Gate, detail: impl Into<String>) -> Checked {
    Checked {
        gate,
        verdict: Verdict::Open,
        detail: detail.into(),
        since: None,
        until: None,
        hold: None,
        next: Vec::new(),
    }
}

fn closed(gate: Gate, detail: impl Into<String>, next: Vec<Step>) -> Checked {
    Checked { verdict: Verdict::WillStop, next, ..open(gate, detail) }
}

/// One sentence about what no gate is asked for any more.
fn one(gate: Gate, facts: &Facts, detail: String, next: Vec<Step>) -> Why {
    let since = facts.state_since;
    let checked = Checked { verdict: Verdict::Stops, since, ..closed(gate, detail.clone(), next.clone()) };
    Why { gate: Some(gate), summary: detail, since, until: None, next, gates: vec![checked] }
}

/// What is said of a message that waits for no gate.
pub(super) fn settled(facts: &Facts) -> Option<Why> {
    Some(match facts.state {
        MessageState::Pending if facts.work.as_ref().is_some_and(|work| work.stage == Stage::Calling) => {
            let until = facts.work.as_ref().map(|work| work.wake_at);
            let detail = "it is being called: the provider's answer is awaited".to_owned();
            let next = vec![Step::say("nothing: without an answer in time it becomes uncertain")];
            Why { until, ..one(Gate::Call, facts, detail, next) }
        }
        MessageState::Pending => return None,
        MessageState::Uncertain => uncertain(facts),
        MessageState::Accepted => accepted(facts),
        MessageState::Sent | MessageState::Delivered | MessageState::Read => {
            let what = match facts.state {
                MessageState::Sent => "the provider sent it on",
                MessageState::Delivered => "it reached the recipient's device",
                _ => "the recipient opened it",
            };
            passed(facts, what.to_owned())
        }
        MessageState::Failed => ended(facts, "it failed"),
        MessageState::Expired => ended(facts, "it was not called in time"),
        MessageState::Suppressed => one(
            Gate::State,
            facts,
            "it is not sent: the recipient does not want such messages".to_owned(),
            vec![Step::say("nothing: this is the recipient's to change")],
        ),
        MessageState::Cancelled => {
            let next = vec![Step::run("see who gave it up and why", &format!("messages show {}", facts.message))];
            one(Gate::State, facts, "it was given up before it was called".to_owned(), next)
        }
    })
}

/// Nothing stops what was sent.
fn passed(facts: &Facts, detail: String) -> Why {
    let checked = Checked { since: facts.state_since, ..open(Gate::State, detail.clone()) };
    Why { gate: None, summary: detail, since: facts.state_since, until: None, next: Vec::new(), gates: vec![checked] }
}

fn accepted(facts: &Facts) -> Why {
    let is_silent = facts.state_since.is_some_and(|since| facts.now - since > RECEIPT);
    let told = if is_silent {
        "the provider took it and has told nothing since: the phone may be off, or the provider holds it back to watch quality"
    } else {
        "the provider took it; what became of it is told by its callbacks"
    };
    let mut why = passed(facts, told.to_owned());
    if is_silent {
        why.next = vec![Step::say("if no message of the number has receipts, check the webhook at the provider")];
    }
    why
}

fn uncertain(facts: &Facts) -> Why {
    let call = facts.last_call.as_ref();
    let said = call.map(|call| format!(" ({}: {})", call.code, call.reason)).unwrap_or_default();
    let resolve = |decided| format!("uncertain resolve {} --as {decided} --reason TEXT", facts.message);
    let next = vec![
        Step::say("wait: a callback settles it by itself, else the policy of the category does"),
        Step::run("it was taken, you have evidence", &resolve("sent")),
        Step::run("it was not taken, call again", &resolve("resend")),
        Step::run("it was not taken, leave it", &resolve("failed")),
    ];
    let detail = format!("it was called, and nobody knows whether the provider took it{said}");
    let why = one(Gate::Uncertain, facts, detail, next);
    Why { since: call.map(|call| call.at), until: facts.work.as_ref().map(|work| work.wake_at), ..why }
}

fn ended(facts: &Facts, what: &str) -> Why {
    let said = facts.failure.as_ref().map(|f| format!(": {} {}", f.code, f.reason)).unwrap_or_default();
    let advice = facts.advice.as_deref().map(Step::say);
    if let Some(again) = facts.resent_as {
        let next = vec![Step::run("see what became of that", &format!("why {again}"))];
        return one(Gate::State, facts, format!("{what}{said}; it was sent again as {again}"), next);
    }
    let resend = facts.may_resend.then(|| {
        let command = format!("resend --message {} --reason TEXT --dry-run", facts.message);
        Step::run("see what sending it again would do; without --dry-run it is done", &command)
    });
    one(Gate::State, facts, format!("{what}{said}"), advice.into_iter().chain(resend).collect())
}

/// All gates of a message that is to be sent; those that stop it say so.
pub(super) fn all(facts: &Facts) -> Vec<Checked> {
    let mut gates = vec![cancelled(facts), life(facts), suppressed(facts), planning(facts), send_at(facts)];
    gates.extend(window(facts));
    gates.extend(retry(facts));
    if facts.holds.is_empty() {
        gates.push(open(Gate::Hold, "no hold is open over it"));
    }
    gates.extend(facts.holds.iter().map(|hold| held(facts, hold)));
    gates.push(worker(facts));
    gates.push(rate(facts));
    gates
}

fn cancelled(facts: &Facts) -> Checked {
    match facts.batch.cancelled_at {
        Some(at) => {
            let next = vec![Step::say("nothing: it is given up within seconds")];
            Checked { since: Some(at), ..closed(Gate::Cancelled, "its batch was given up", next) }
        }
        None => open(Gate::Cancelled, "its batch was not given up"),
    }
}

fn suppressed(facts: &Facts) -> Checked {
    match &facts.suppression {
        Some(found) => {
            let lift = format!("suppressions lift {} --reason TEXT", found.id);
            let next = vec![Step::run("lift it, if the recipient asked for that", &lift)];
            let detail = format!("it will not be called: {} ({})", found.scope.reason(), found.source);
            Checked { since: Some(found.since), ..closed(Gate::Suppressed, detail, next) }
        }
        None => open(Gate::Suppressed, "its recipient is not suppressed"),
    }
}

fn life(facts: &Facts) -> Checked {
    let ends = facts.batch.expires_at;
    let next = || vec![Step::say("nothing: it expires within seconds, and can then be sent again")];
    let window = facts.work.as_ref().and_then(|work| work.until);
    if ends <= facts.now {
        return Checked { since: Some(ends), ..closed(Gate::Life, "its life has ended", next()) };
    }
    match window {
        Some(until) if until == DateTime::<Utc>::UNIX_EPOCH => {
            closed(Gate::Life, "no window of the recipient's hours opens while it lives", next())
        }
        Some(until) if until <= facts.now => Checked {
            since: Some(until),
            ..closed(Gate::Life, "the window of the recipient's hours has closed", next())
        },
        Some(_) | None => open(Gate::Life, format!("it lives until {}", clock(ends))),
    }
}

fn planning(facts: &Facts) -> Checked {
    if facts.batch.is_planned {
        return open(Gate::Planning, "all messages of its batch are made");
    }
    let next = vec![Step::run("see how far it is", &format!("batches show {}", facts.batch.id))];
    let since = Some(facts.batch.created_at);
    Checked { since, ..closed(Gate::Planning, "the messages of its batch are still being made", next) }
}

/// When the work is due, if that lies ahead. Of parked work `wake_at` says something else.
fn due(facts: &Facts) -> Option<DateTime<Utc>> {
    let work = facts.work.as_ref().filter(|work| work.stage == Stage::Ready)?;
    Some(work.wake_at).filter(|at| *at > facts.now)
}

fn send_at(facts: &Facts) -> Checked {
    let at = facts.batch.send_at;
    if at <= facts.now {
        return open(Gate::SendAt, format!("it may be sent since {}", clock(at)));
    }
    let next = vec![Step::run("give it up", &format!("batches cancel {} --reason TEXT", facts.batch.id))];
    let detail = format!("it is to be sent at {}", clock(at));
    Checked { since: Some(facts.batch.created_at), until: Some(at), ..closed(Gate::SendAt, detail, next) }
}

fn window(facts: &Facts) -> Option<Checked> {
    if !facts.batch.has_hours {
        return None;
    }
    // A wait after a call is the provider's, not the window's.
    let Some(at) = due(facts).filter(|at| *at > facts.batch.send_at && facts.last_call.is_none()) else {
        return Some(open(Gate::Window, "the window of the recipient's hours is open"));
    };
    let next = vec![Step::say("nothing: it goes out when the window opens")];
    let detail = format!("the window of the recipient's hours opens at {}", clock(at));
    Some(Checked { since: Some(facts.batch.created_at), until: Some(at), ..closed(Gate::Window, detail, next) })
}

fn retry(facts: &Facts) -> Option<Checked> {
    let at = due(facts);
    let Some(CallFacts { at: called_at, code, reason }) = &facts.last_call else {
        // Not called: it is the pace between the number and the recipient, if neither send_at nor window.
        let at = at.filter(|at| *at > facts.batch.send_at && !facts.batch.has_hours)?;
        let detail = format!("it is kept back until {}: the number wrote to this recipient a moment ago", clock(at));
        let next = vec![Step::say("nothing: it goes out by itself")];
        return Some(Checked { until: Some(at), ..closed(Gate::Retry, detail, next) });
    };
    let Some(at) = at else {
        return Some(open(Gate::Retry, format!("called before ({code} {reason}), and the wait is over")));
    };
    let mut next = vec![Step::say("nothing: it is called again by itself")];
    next.extend(facts.advice.as_deref().map(Step::say));
    let detail = format!("it was called and is called again at {}: {code} {reason}", clock(at));
    Some(Checked { since: Some(*called_at), until: Some(at), ..closed(Gate::Retry, detail, next) })
}

fn held(facts: &Facts, hold: &HoldFacts) -> Checked {
    let (gate, detail) = match (hold.cause.as_str(), hold.resume) {
        ("approval", _) => (Gate::Approval, format!("another person has to let the batch through: {}", hold.detail)),
        (_, Resume::Canary) => (Gate::Canary, format!("{}; the rest follows when they fare well", hold.detail)),
        ("canary", _) => (Gate::Canary, format!("the first messages of the batch did not fare well: {}", hold.detail)),
        (cause, _) => (Gate::Hold, format!("hold {} on {} ({cause}): {}", hold.id, hold.scope, hold.detail)),
    };
    let checked = closed(gate, detail, ends(facts, hold));
    Checked { since: Some(hold.since), until: hold.until.or(hold.probe_at), hold: Some(hold.id), ..checked }
}

/// What ends a hold.
fn ends(facts: &Facts, hold: &HoldFacts) -> Vec<Step> {
    let close = |what| Step::run(what, &format!("holds close {} --reason TEXT", hold.id));
    let batch = format!("batch:{}", facts.batch.id);
    let mut steps: Vec<Step> = hold.advice.as_deref().map(Step::say).into_iter().collect();
    let last = match (hold.cause.as_str(), hold.resume) {
        ("approval", _) => close("let it through, with another token than the one that started it"),
        ("person", _) if hold.scope == batch => {
            Step::run("let the batch go on", &format!("batches resume {} --reason TEXT", facts.batch.id))
        }
        ("campaign_paused", _) => {
            let campaign = facts.batch.campaign.as_deref().unwrap_or("KEY");
            Step::run("let the campaign go on", &format!("campaigns resume {campaign}"))
        }
        ("timeline" | "gap", _) => {
            steps.push(Step::run("first mark what may have gone out", "recover --since TIME"));
            close("then let everything go on")
        }
        (_, Resume::Canary) => Step::say("nothing: the outcomes of the first messages decide"),
        (_, Resume::Credentials) => {
            steps.push(Step::run("store new credentials: that ends it", "accounts apply FILE"));
            close("or end it yourself")
        }
        (_, Resume::Status) => {
            let what = if hold.scope.starts_with("template") { "templates" } else { "numbers" };
            let command = format!("{what} apply FILE");
            steps.push(Step::run("when the provider's status is good again, say so: that ends it", &command));
            close("or end it yourself")
        }
        (_, Resume::Probe) => {
            steps.push(Step::say("or wait: a message is let through now and then, and an accepted one ends it"));
            close("when the cause is mended")
        }
        (_, Resume::Time) => close("it ends by itself; or end it now"),
        (_, Resume::Person) => close("when the cause is mended"),
    };
    steps.push(last);
    steps
}

fn worker(facts: &Facts) -> Checked {
    if facts.has_worker {
        return open(Gate::Worker, format!("a worker sends for {}", facts.number));
    }
    let next =
        vec![Step::run("see whether the processes run", "check"), Step::run("start one", "serve --roles dispatch")];
    closed(
        Gate::Worker,
        format!("no worker sends for {}: none runs, or one is just taking it over", facts.number),
        next,
    )
}

fn rate(facts: &Facts) -> Checked {
    let Some(turn) = facts.turn.filter(|turn| turn.rate_per_s.is_some() || turn.ahead > 0) else {
        return open(Gate::Rate, "nothing is due before it");
    };
    let rate = turn.rate_per_s.map(|rate| format!(" at {rate:.0} a second")).unwrap_or_default();
    if turn.ahead == 0 {
        return open(Gate::Rate, format!("it is its turn; {} sends{rate}", facts.number));
    }
    let slowed = if turn.is_slowed { ", slowed because the provider throttled it" } else { "" };
    let ahead = turn.ahead;
    let detail = format!("it waits for its turn behind {ahead} others: {} sends{rate}{slowed}", facts.number);
    let next = vec![Step::say("nothing: its turn comes; what can wait may be paused to let it go first")];
    let since = facts.work.as_ref().map(|work| work.wake_at);
    Checked { since, until: Some(turn.at), ..closed(Gate::Rate, detail, next) }
}
