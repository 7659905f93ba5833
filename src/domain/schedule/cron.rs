//! crontab(5) expressions as wall-clock times.
//!
//! The fields are read here, because the crate counts days of the week from 1, takes seconds and wants a day to match
//! both day fields; it enumerates the times of what was read.

use std::{collections::BTreeSet, str::FromStr as _};

use chrono::{Datelike as _, NaiveDateTime, TimeZone as _, Utc};
use cron::Schedule;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const MINUTE: Field = Field { name: "minute", min: 0, max: 59, names: &[] };
const HOUR: Field = Field { name: "hour", min: 0, max: 23, names: &[] };
const DAY_OF_MONTH: Field = Field { name: "day of month", min: 1, max: 31, names: &[] };
const MONTH: Field = Field { name: "month", min: 1, max: 12, names: &MONTHS };
const DAY_OF_WEEK: Field = Field { name: "day of week", min: 0, max: 7, names: &DAYS };

/// Days one of which is the last of its month.
const MAYBE_LAST: std::ops::RangeInclusive<u32> = 28..=31;

/// Why a text is no cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// With seconds.
    #[error("has six fields: leave out the seconds, the five are minute, hour, day of month, month, day of week")]
    SixFields,
    /// Too few or too many fields.
    #[error("has {0} fields: the five are minute, hour, day of month, month, day of week")]
    Fields(usize),
    /// A word after `@` that is none.
    #[error("`{0}` is not one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly")]
    Word(String),
    /// Part of a field that is not understood.
    #[error("`{part}` is no {field}: {min} to {max}, *, lists, ranges and steps")]
    Part {
        /// Which field.
        field: &'static str,
        /// What stands there.
        part: String,
        /// The least value.
        min: u32,
        /// The greatest.
        max: u32,
    },
    /// A range from the greater to the less.
    #[error("`{part}` runs backwards: write two ranges")]
    Backwards {
        /// The range.
        part: String,
    },
    /// There is no such day.
    #[error("never happens")]
    Never,
}

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

impl Field {
    fn value(&self, text: &str) -> Option<u32> {
        let lower = text.to_ascii_lowercase();
        if let Some(place) = self.names.iter().position(|name| *name == lower) {
            return u32::try_from(place).ok().map(|place| place + self.min);
        }
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten().filter(|value| (self.min..=self.max).contains(value))
    }

    fn values(&self, text: &str) -> Result<BTreeSet<u32>, CronError> {
        text.split(',').try_fold(BTreeSet::new(), |mut values, part| {
            values.extend(self.part(part)?);
            Ok(values)
        })
    }

    fn part(&self, part: &str) -> Result<impl Iterator<Item = u32> + use<>, CronError> {
        let (name, min, max) = (self.name, self.min, self.max);
        let wrong = || CronError::Part { field: name, part: part.to_owned(), min, max };
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let step = match step {
            None => None,
            Some(step) => {
                Some(step.parse::<usize>().ok().filter(|s| *s > 0 && !step.starts_with('+')).ok_or_else(wrong)?)
            }
        };
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (self.value(first).ok_or_else(wrong)?, self.value(last).ok_or_else(wrong)?);
                // Sunday also ends the week.
                (first, if max == 7 && last == 0 && first > 0 { 7 } else { last })
            }
            None if range == "*" => (min, if max == 7 { 6 } else { max }),
            None => {
                let value = self.value(range).ok_or_else(wrong)?;
                (value, if step.is_some() { max } else { value })
            }
        };
        if first > last {
            return Err(CronError::Backwards { part: part.to_owned() });
        }
        Ok((first..=last).step_by(step.unwrap_or(1)))
    }
}

/// Days that are taken of those the crate finds: these, and the last of the month.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OrLast(BTreeSet<u32>);

#[derive(Debug, Clone)]
struct Part {
    schedule: Schedule,
    days: Option<OrLast>,
}

impl Part {
    fn after(&self, wall: NaiveDateTime) -> Option<NaiveDateTime> {
        let taken = |found: &NaiveDateTime| {
            self.days.as_ref().is_none_or(|OrLast(days)| days.contains(&found.day()) || is_last_of_month(found))
        };
        self.schedule.after(&Utc.from_utc_datetime(&wall)).map(|found| found.naive_utc()).find(taken)
    }
}

fn is_last_of_month(wall: &NaiveDateTime) -> bool {
    wall.date().succ_opt().is_none_or(|next| next.month() != wall.month())
}

/// A crontab(5) expression: five fields, names, lists, ranges, steps, `@daily` and its like. As day of the month `L` is
/// the last one. Day of the month and day of the week both restricted (neither begins with `*`) mean either of them.
#[derive(Debug, Clone)]
pub struct Cron {
    parts: Vec<Part>,
}

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let text = text.trim();
        let text = if text.starts_with('@') { word(text)? } else { text };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(if fields.len() == 6 { CronError::SixFields } else { CronError::Fields(fields.len()) });
        };
        let minute = list(&MINUTE.values(minute)?);
        let hour = list(&HOUR.values(hour)?);
        let (days, or_last) = days_of_month(day)?;
        let month = list(&MONTH.values(month)?);
        // The crate counts from 1, which is Sunday.
        let weekdays: BTreeSet<u32> = DAY_OF_WEEK.values(weekday)?.iter().map(|day| day % 7 + 1).collect();
        let part = |days: &str, weekdays: &str, or_last| {
            let text = format!("0 {minute} {hour} {days} {month} {weekdays} *");
            let schedule = Schedule::from_str(&text).map_err(|_| CronError::Never)?;
            Ok(Part { schedule, days: or_last })
        };
        let is_either = !day.starts_with('*') && !weekday.starts_with('*');
        let parts = if is_either {
            vec![part(&list(&days), "*", or_last)?, part("*", &list(&weekdays), None)?]
        } else {
            vec![part(&list(&days), &list(&weekdays), or_last)?]
        };
        let cron = Self { parts };
        let epoch = chrono::DateTime::UNIX_EPOCH.naive_utc();
        cron.after(epoch).map(|_| cron).ok_or(CronError::Never)
    }

    /// The first wall-clock time after this one.
    pub fn after(&self, wall: NaiveDateTime) -> Option<NaiveDateTime> {
        self.parts.iter().filter_map(|part| part.after(wall)).min()
    }
}

fn word(text: &str) -> Result<&'static str, CronError> {
    Ok(match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return Err(CronError::Word(text.to_owned())),
    })
}

/// The days to look at, and which of them are taken when `L` is among them.
fn days_of_month(text: &str) -> Result<(BTreeSet<u32>, Option<OrLast>), CronError> {
    let is_last = |part: &&str| part.eq_ignore_ascii_case("l");
    let named: Vec<&str> = text.split(',').filter(|part| !is_last(part)).collect();
    if named.len() == text.split(',').count() {
        return Ok((DAY_OF_MONTH.values(text)?, None));
    }
    let days = if named.is_empty() { BTreeSet::new() } else { DAY_OF_MONTH.values(&named.join(","))? };
    Ok((days.iter().copied().chain(MAYBE_LAST).collect(), Some(OrLast(days))))
}

fn list(values: &BTreeSet<u32>) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told() {
        let told = |text: &str| Cron::parse(text).map(|_| ()).unwrap_err();
        assert_eq!(told("0 0 9 * * *"), CronError::SixFields);
        assert_eq!(told("0 9 * *"), CronError::Fields(4));
        assert_eq!(told("@reboot"), CronError::Word("@reboot".to_owned()));
        assert_eq!(told("0 0 30 2 *"), CronError::Never);
        assert_eq!(told("0 22-2 * * *"), CronError::Backwards { part: "22-2".to_owned() });
        for text in [
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
            "*/0 * * * *",
            "? * * * *",
            "1- * * * *",
            "1,, * * * *",
            "* * * foo *",
            "+1 * * * *",
            "* * * * 1#2",
            "*/+2 * * * *",
        ] {
            assert!(matches!(told(text), CronError::Part { .. }), "{text}");
        }
    }

    #[test]
    fn zero_and_seven_are_sunday_and_names_read_the_same() {
        let next = |text: &str| {
            let wall = chrono::NaiveDate::from_ymd_opt(2026, 11, 24).unwrap().and_hms_opt(0, 0, 0).unwrap();
            Cron::parse(text).unwrap().after(wall).unwrap().to_string()
        };
        for text in ["0 9 * * 0", "0 9 * * 7", "0 9 * * SUN", "0 9 * nov sun", "0 9 * 11 7"] {
            assert_eq!(next(text), "2026-11-29 09:00:00", "{text}");
        }
        assert_eq!(next("0 9 * * fri-sun"), "2026-11-27 09:00:00");
        assert_eq!(next("@weekly"), "2026-11-29 00:00:00");
        assert_eq!(next("0 9 L * *"), "2026-11-30 09:00:00");
    }
}
