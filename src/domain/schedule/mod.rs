//! When something happens: crontab(5) on the wall clock of a zone, mapped to instants.
//!
//! A time that does not exist happens at the first instant after the gap; a time that exists twice happens at the first
//! of the two and not again. So an expression never fires twice at one instant, and never backwards.

mod cron;
mod hours;
mod window;

use std::collections::BTreeSet;

use chrono::{DateTime, MappedLocalTime, NaiveDate, NaiveDateTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

pub use self::{
    cron::{Cron, CronError},
    hours::{Finder, Hours, Opening},
    window::{EXCEPT_DATES, Span, Window, WindowFault, Windows},
};
use crate::domain::named;

named! {
    /// What daylight saving does to a time of the wall clock.
    pub enum Shift {
        /// Nothing.
        None = "none",
        /// The time does not exist: the first instant after the gap is taken.
        Gap = "gap",
        /// The time exists twice: the first is taken.
        Fold = "fold",
    }
}

/// A time at which something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firing {
    /// The instant.
    pub at: DateTime<Utc>,
    /// What the wall clock was meant to show.
    pub wall: NaiveDateTime,
    /// How the two differ.
    pub shift: Shift,
}

/// The most an offset from UTC can be, and room for a day that a zone leaves out.
const REACH: TimeDelta = TimeDelta::hours(50);

/// The instant of a wall-clock time, by the rule of this module.
pub fn instant(zone: Tz, wall: NaiveDateTime) -> Firing {
    match zone.from_local_datetime(&wall) {
        MappedLocalTime::Single(at) => Firing { at: at.to_utc(), wall, shift: Shift::None },
        MappedLocalTime::Ambiguous(first, second) => {
            Firing { at: first.to_utc().min(second.to_utc()), wall, shift: Shift::Fold }
        }
        MappedLocalTime::None => Firing { at: after_gap(zone, wall), wall, shift: Shift::Gap },
    }
}

/// The first instant whose wall clock shows `wall` or later.
fn after_gap(zone: Tz, wall: NaiveDateTime) -> DateTime<Utc> {
    let near = wall.and_utc();
    let (mut before, mut from) = ((near - REACH).timestamp(), (near + REACH).timestamp());
    while before + 1 < from {
        let middle = before.midpoint(from);
        let shown = DateTime::from_timestamp(middle, 0).unwrap_or(near).with_timezone(&zone).naive_local();
        if shown < wall {
            before = middle;
        } else {
            from = middle;
        }
    }
    DateTime::from_timestamp(from, 0).unwrap_or(near)
}

/// A cron expression in a zone, between two instants, but for some dates.
#[derive(Debug, Clone)]
pub struct Calendar {
    /// When, on the wall clock.
    pub cron: Cron,
    /// Whose wall clock.
    pub zone: Tz,
    /// Not before.
    pub start: Option<DateTime<Utc>>,
    /// Not at or after.
    pub end: Option<DateTime<Utc>>,
    /// Days of the wall clock without any.
    pub except_dates: BTreeSet<NaiveDate>,
}

impl Calendar {
    /// The first firing after an instant.
    pub fn next(&self, after: DateTime<Utc>) -> Option<Firing> {
        // One before the start, so that the start itself counts.
        let after = self.start.map_or(after, |start| after.max(start - TimeDelta::nanoseconds(1)));
        let mut wall = after.with_timezone(&self.zone).naive_local();
        loop {
            wall = self.cron.after(wall)?;
            if self.except_dates.contains(&wall.date()) {
                wall = wall.date().and_hms_opt(23, 59, 59)?;
                continue;
            }
            let firing = instant(self.zone, wall);
            if self.end.is_some_and(|end| firing.at >= end) {
                return None;
            }
            if firing.at > after {
                return Some(firing);
            }
        }
    }
}

#[cfg(test)]
mod tests;
