//! Hours of the wall clock in which people may be written to.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike as _, Days, NaiveDate, NaiveTime, TimeDelta, Utc, Weekday};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::instant;

/// Days that are looked at: windows come again every week.
const LOOK_AHEAD: u64 = 9;
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// What is far more than anybody's holidays.
pub const EXCEPT_DATES: usize = 1000;
/// What is far more than the hours of anybody's week.
const SPANS: usize = 100;

/// Some hours of some days, as people write them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`; none is every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<String>,
    /// `HH:MM`.
    pub from: String,
    /// `HH:MM`, at most `24:00`.
    pub until: String,
}

/// Something wrong with a list of windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowFault {
    /// Where in the list, as the end of a JSON pointer: `/2/from`.
    pub at: String,
    /// Stable, for machines.
    pub code: &'static str,
    /// For people.
    pub reason: String,
}

/// Part of some days of the week: from a time until before another. Without an end, until midnight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// On which days; none is every day.
    pub days: BTreeSet<u8>,
    /// From.
    pub from: NaiveTime,
    /// Until; `None` is the end of the day.
    pub until: Option<NaiveTime>,
}

impl Span {
    /// Whether it is open on this day of the week.
    fn is_on(&self, day: Weekday) -> bool {
        // Days are numbered as in cron: 0 is Sunday.
        let day = u8::try_from(day.num_days_from_sunday()).unwrap_or_default();
        self.days.is_empty() || self.days.contains(&day)
    }
}

/// The windows of a campaign. Without any it may send always.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows(pub Vec<Span>);

impl Windows {
    /// Reads what people wrote; adds to `faults` all that is wrong with it, and leaves that out.
    pub fn read(written: &[Window], faults: &mut Vec<WindowFault>) -> Self {
        if written.len() > SPANS {
            let reason = format!("has more than {SPANS} windows");
            faults.push(WindowFault { at: String::new(), code: "too_many", reason });
        }
        Self(written.iter().enumerate().filter_map(|(place, window)| span(place, window, faults)).collect())
    }

    /// The part of the first open window from `at` on: when it begins (not before `at`) and ends. `closed` days have none.
    /// `None` for the end is never; `None` for all is no window within more than a week.
    pub fn first_open(
        &self,
        zone: Tz,
        closed: &BTreeSet<NaiveDate>,
        at: DateTime<Utc>,
    ) -> Option<(DateTime<Utc>, Option<DateTime<Utc>>)> {
        if self.0.is_empty() {
            return Some((at, None));
        }
        let today = at.with_timezone(&zone).date_naive();
        let mut open: Vec<(DateTime<Utc>, DateTime<Utc>)> = (0..LOOK_AHEAD)
            .filter_map(|ahead| today.checked_add_days(Days::new(ahead)))
            .filter(|date| !closed.contains(date))
            .flat_map(|date| {
                self.0.iter().filter(move |span| span.is_on(date.weekday())).map(move |s| edges(zone, date, s))
            })
            .filter(|(from, until)| from < until)
            .collect();
        open.sort_unstable();
        let mut merged: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::with_capacity(open.len());
        for (from, until) in open {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(until),
                _ => merged.push((from, until)),
            }
        }
        let (from, until) = merged.into_iter().find(|(_, until)| *until > at)?;
        Some((from.max(at), Some(until)))
    }
}

fn edges(zone: Tz, date: NaiveDate, span: &Span) -> (DateTime<Utc>, DateTime<Utc>) {
    let from = instant(zone, date.and_time(span.from)).at;
    let until = match span.until {
        Some(until) => instant(zone, date.and_time(until)).at,
        None => instant(zone, date.and_time(NaiveTime::MIN) + TimeDelta::days(1)).at,
    };
    (from, until)
}

fn span(place: usize, window: &Window, faults: &mut Vec<WindowFault>) -> Option<Span> {
    let mut fault =
        |field: &str, code, reason| faults.push(WindowFault { at: format!("/{place}/{field}"), code, reason });
    let time = |text: &str| (text.len() == 5).then(|| NaiveTime::parse_from_str(text, "%H:%M").ok()).flatten();
    let mut days = BTreeSet::new();
    for (index, name) in window.days.iter().enumerate() {
        if let Some(day) = DAYS.iter().position(|day| day == name).and_then(|day| u8::try_from(day).ok()) {
            days.insert(day);
        } else {
            fault(&format!("days/{index}"), "unknown_word", format!("`{name}` is not one of {}", DAYS.join(", ")));
        }
    }
    let from = time(&window.from);
    if from.is_none() {
        fault("from", "ill_formed", format!("`{}` is no time: HH:MM", window.from));
    }
    let until = if window.until == "24:00" { Some(None) } else { time(&window.until).map(Some) };
    match (from, until) {
        (Some(from), Some(Some(until))) if until <= from => {
            let reason = "must be later than `from`: give a window over midnight as two";
            fault("until", "contradiction", reason.to_owned());
            None
        }
        (Some(from), Some(until)) => Some(Span { days, from, until }),
        (_, None) => {
            fault("until", "ill_formed", format!("`{}` is no time: HH:MM, at most 24:00", window.until));
            None
        }
        (None, _) => None,
    }
}
