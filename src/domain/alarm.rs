//! What people on duty are told: which alarms stand, when each is told, and in which words.
//!
//! An alarm is raised once when it begins, told again now and then while it lasts, and told once more when it is over. What
//! is seen is read by `store::alarms`; whether that is an alarm is decided here.

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{address::Address, event::EventKind, ids::TenantId, named};

named! {
    /// What somebody must look at.
    pub enum AlarmKind {
        /// A hold that only a person ends.
        Hold = "hold",
        /// A batch of which too many messages fail.
        BatchFailing = "batch_failing",
        /// A campaign that fires later than it should, or not at all.
        LateFiring = "late_firing",
        /// An account whose messages are accepted, and the provider says nothing more about them.
        WebhookSilent = "webhook_silent",
        /// Messages of a number of which nobody knows for long whether they were sent.
        Uncertain = "uncertain",
        /// Events, answers and firings that are not published.
        Outbox = "outbox",
        /// Messages in the broker with a routing key that nobody takes.
        Unrouted = "unrouted",
        /// A batch whose tally is not what a recount finds.
        Tally = "tally",
        /// A number with due messages and no process that sends them.
        NoWorker = "no_worker",
    }
}

/// Rows are counted up to this many: an alarm is no report.
pub const COUNTED: i64 = 1000;
/// A batch that has ended is an alarm for so long at least.
const ENDED_BATCH: TimeDelta = TimeDelta::hours(1);
/// Alarms of one message to people that are told one by one.
const TOLD: usize = 10;

/// From when on something is an alarm.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Failed messages of a batch, in percent of those that have an outcome …
    pub failing_percent: i64,
    /// … when so many have one.
    pub failing_over: i64,
    /// Accepted messages of an account that a callback should have come for.
    pub silent_accepted: i64,
    /// How old uncertain messages may be.
    pub uncertain: TimeDelta,
    /// How old what is to be published may be.
    pub outbox: TimeDelta,
    /// How long messages that nobody takes may lie in the broker.
    pub unrouted: TimeDelta,
    /// How long due messages of a number may be without a process that sends them.
    pub no_worker: TimeDelta,
    /// How long until an alarm that lasts is told again; `None` is never.
    pub remind: Option<TimeDelta>,
}

/// Something that may be an alarm, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// What.
    pub kind: AlarmKind,
    /// What it is about: one alarm of a kind for each.
    pub subject: String,
    /// Whose it is; absent when it concerns everybody.
    pub tenant: Option<TenantId>,
    /// What it covers.
    pub scope: String,
    /// What people call that, where the scope does not say it.
    pub name: String,
    /// Why, in a sentence.
    pub detail: String,
    /// Messages, or things, that it concerns.
    pub count: i64,
    /// Of how many, where it is a share.
    pub of: i64,
    /// When it began; absent when only looking tells, which then counts from the first look.
    pub since: Option<DateTime<Utc>>,
    /// Whether it goes on: the batch has messages left, the provider has said nothing since the alarm was raised.
    pub goes_on: bool,
}

/// An alarm that was seen before and is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Its row.
    pub id: i64,
    /// What.
    pub kind: AlarmKind,
    /// What it is about.
    pub subject: String,
    /// When it began.
    pub since: DateTime<Utc>,
    /// When it was raised; absent when it has not lasted long enough.
    pub raised_at: Option<DateTime<Utc>>,
    /// When it was told last.
    pub told_at: Option<DateTime<Utc>>,
}

/// What is to be done about an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Remember it: it is an alarm when it lasts.
    Note(&'a Sign),
    /// Raise one that was not noted.
    RaiseNew(&'a Sign),
    /// Raise one that has lasted long enough.
    Raise(i64, &'a Sign),
    /// Tell it again.
    Remind(i64, &'a Sign),
    /// It goes on: its count may be another.
    Keep(i64, &'a Sign),
    /// It is over, and people who heard of it are told.
    Clear(i64),
    /// It passed before it became an alarm.
    Forget(i64),
}

/// What is to be done, given everything that was seen. Kinds that could not be looked at stay as they are.
pub fn steps<'a>(
    now: DateTime<Utc>,
    limits: &Limits,
    looked_at: &[AlarmKind],
    signs: &'a [Sign],
    noted: &[Noted],
) -> Vec<Step<'a>> {
    let find = |sign: &Sign| noted.iter().find(|noted| noted.kind == sign.kind && noted.subject == sign.subject);
    let mut steps = Vec::new();
    let mut standing = Vec::new();
    for sign in signs {
        let known = find(sign);
        let since = sign.since.or(known.map(|known| known.since)).unwrap_or(now);
        let raised_at = known.and_then(|known| known.raised_at);
        if !is_one(sign, now, raised_at, limits) {
            continue;
        }
        standing.extend(known.map(|known| known.id));
        // What has been raised stays so until it is gone: an older part of it may have ended.
        let is_old = raised_at.is_some() || now - since >= patience(sign.kind, limits);
        steps.push(match known {
            None if is_old => Step::RaiseNew(sign),
            // What tells by itself since when it lasts need not be remembered.
            None if sign.since.is_some() => continue,
            None => Step::Note(sign),
            Some(known) if is_old && raised_at.is_none() => Step::Raise(known.id, sign),
            Some(known) if is_told_again(known, now, limits) => Step::Remind(known.id, sign),
            Some(known) => Step::Keep(known.id, sign),
        });
    }
    let gone = noted.iter().filter(|noted| looked_at.contains(&noted.kind) && !standing.contains(&noted.id));
    steps.extend(gone.map(|gone| if gone.raised_at.is_some() { Step::Clear(gone.id) } else { Step::Forget(gone.id) }));
    steps
}

/// Whether a sign is an alarm once it has lasted long enough.
fn is_one(sign: &Sign, now: DateTime<Utc>, raised_at: Option<DateTime<Utc>>, limits: &Limits) -> bool {
    match sign.kind {
        AlarmKind::Hold | AlarmKind::LateFiring | AlarmKind::Tally => true,
        AlarmKind::BatchFailing => {
            let fails = sign.of >= limits.failing_over.max(1) && sign.count * 100 >= limits.failing_percent * sign.of;
            // Of a batch that is over before anybody saw it, people have to hear all the same.
            fails && (sign.goes_on || raised_at.is_none_or(|at| now - at < ENDED_BATCH))
        }
        // Once raised it ends with a callback, and not because nothing more is sent.
        AlarmKind::WebhookSilent => {
            sign.count >= limits.silent_accepted.max(1) || (raised_at.is_some() && sign.goes_on)
        }
        AlarmKind::Uncertain | AlarmKind::Outbox | AlarmKind::Unrouted | AlarmKind::NoWorker => sign.count > 0,
    }
}

/// How long a sign must last before it is an alarm.
const fn patience(kind: AlarmKind, limits: &Limits) -> TimeDelta {
    match kind {
        AlarmKind::Hold
        | AlarmKind::BatchFailing
        | AlarmKind::LateFiring
        | AlarmKind::WebhookSilent
        | AlarmKind::Tally => TimeDelta::zero(),
        AlarmKind::Uncertain => limits.uncertain,
        AlarmKind::Outbox => limits.outbox,
        AlarmKind::Unrouted => limits.unrouted,
        AlarmKind::NoWorker => limits.no_worker,
    }
}

fn is_told_again(known: &Noted, now: DateTime<Utc>, limits: &Limits) -> bool {
    known.told_at.zip(limits.remind).is_some_and(|(told_at, remind)| now - told_at >= remind)
}

/// What happened to an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It began.
    Raised,
    /// It still stands.
    Reminder,
    /// It is over.
    Cleared,
}

impl News {
    /// The event that tells it; reminders are for people only.
    pub const fn event(self) -> Option<EventKind> {
        match self {
            Self::Raised => Some(EventKind::AlarmRaised),
            Self::Cleared => Some(EventKind::AlarmCleared),
            Self::Reminder => None,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Raised => "ALARM",
            Self::Reminder => "STILL",
            Self::Cleared => "OVER",
        }
    }
}

/// An alarm as it is shown and published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Alarm {
    /// Its number, the same in all that is told of it.
    pub id: i64,
    /// What.
    #[schema(inline)]
    pub kind: AlarmKind,
    /// What it covers: `everything`, `provider:<name>`, `portfolio:<tenant>/<name>`, `account:<id>`, `number:<id>`,
    /// `number:<id>:<lane>`, `template:<id>`, `batch:<id>`, `campaign:<key>`, `outbox` or `queue:<name>`.
    pub scope: String,
    /// What people call that; phone numbers are masked.
    pub name: String,
    /// Why, in a sentence; phone numbers are masked.
    pub detail: String,
    /// Messages, or things, that it concerns; rows are counted up to 1 000.
    pub count: i64,
    /// When it began.
    pub since: DateTime<Utc>,
    /// When it was raised.
    pub raised_at: DateTime<Utc>,
    /// When it was over.
    pub cleared_at: Option<DateTime<Utc>>,
    /// The command to type next.
    pub next: String,
}

impl Alarm {
    /// Masks what was read of it, and finds the command.
    pub fn new(id: i64, raised_at: DateTime<Utc>, sign: &Sign, since: DateTime<Utc>) -> Self {
        let name = Address::from_store(sign.name.clone());
        Self {
            id,
            kind: sign.kind,
            scope: sign.scope.clone(),
            name: if name.is_phone() { name.masked() } else { sign.name.clone() },
            detail: without_numbers(&sign.detail),
            count: sign.count,
            since,
            raised_at,
            cleared_at: None,
            next: next(sign.kind, &sign.subject, &sign.name),
        }
    }

    /// What it covers, with what people call that where the scope does not say it.
    pub fn place(&self) -> String {
        let Self { scope, name, .. } = self;
        if name.is_empty() || scope.contains(name.as_str()) { scope.clone() } else { format!("{scope} ({name})") }
    }
}

/// The command to type next.
fn next(kind: AlarmKind, subject: &str, name: &str) -> String {
    let id = subject.split_once(':').map_or(subject, |(_, id)| id);
    let words = match kind {
        AlarmKind::Hold => format!("holds show {id}"),
        AlarmKind::BatchFailing => format!("failures --batch {id}"),
        AlarmKind::LateFiring => format!("campaigns show {name}"),
        AlarmKind::WebhookSilent => format!("accounts show {name}"),
        AlarmKind::Uncertain => "uncertain list".to_owned(),
        AlarmKind::Outbox => "check".to_owned(),
        AlarmKind::Unrouted => "topology".to_owned(),
        AlarmKind::Tally => format!("batches show {id}"),
        AlarmKind::NoWorker => "serve --roles dispatch".to_owned(),
    };
    format!("campaign-dispatch {words}")
}

/// What people are told: one message for all that one look found.
pub fn text(news: &[(News, Alarm)]) -> String {
    let mut lines: Vec<String> = news.iter().take(TOLD).map(|(news, alarm)| told(*news, alarm)).collect();
    if news.len() > TOLD {
        lines.push(format!("and {} more: campaign-dispatch status", news.len() - TOLD));
    }
    lines.join("\n")
}

fn told(news: News, alarm: &Alarm) -> String {
    let Alarm { kind, detail, count, since, next, .. } = alarm;
    let place = alarm.place();
    let since = since.format("%Y-%m-%d %H:%M UTC");
    let word = news.word();
    if news == News::Cleared {
        return format!("{word} {kind}: {place}, since {since}");
    }
    let at_least = if *count >= COUNTED { "at least " } else { "" };
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    format!("{word} {kind}: {place}, count {at_least}{count}, since {since}{detail}\n  next: {next}")
}

/// A text with phone numbers masked: what somebody wrote, or a provider said, may name one.
fn without_numbers(text: &str) -> String {
    let (mut clean, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric() || c == '+') {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-'))).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        clean.push_str(before);
        // A date has eight digits, and an id has letters.
        let digits = word.chars().filter(char::is_ascii_digit).count();
        let is_number = digits >= 9 && !word.contains(|c: char| c.is_ascii_alphabetic());
        clean.push_str(&if is_number { Address::from_store(word.to_owned()).masked() } else { word.to_owned() });
        rest = after;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests;
