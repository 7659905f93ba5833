//! Hours of the wall clock in which people may be written to.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike as _, Days, NaiveDate, NaiveTime, TimeDelta, Utc, Weekday};
use chrono_tz::Tz;

use super::instant;

/// Days that are looked at: windows come again every week.
const LOOK_AHEAD: u64 = 9;

/// Part of some days of the week: from a time until before another. Without an end, until midnight.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Windows(pub Vec<Span>);

impl Windows {
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
