//! Hours of the wall clock by which each recipient lives.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::Windows;
use crate::domain::{address::Address, zones};

/// When recipients may be written to, on their own wall clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    /// The hours.
    pub windows: Windows,
    /// Days of the recipient's calendar without any.
    pub closed: BTreeSet<NaiveDate>,
    /// The clock of recipients of whom nothing says where they live.
    pub zone: Tz,
}

/// The part of a window in which a message may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Opening {
    /// Not before.
    pub at: DateTime<Utc>,
    /// Not at this time or later; absent is as long as the message lives.
    pub until: Option<DateTime<Utc>>,
}

impl Hours {
    /// The first window that is open in all these zones from `from` on and opens before `end`.
    pub fn opening(&self, zones: &[Tz], from: DateTime<Utc>, end: DateTime<Utc>) -> Option<Opening> {
        let (mut at, zones) = (from, if zones.is_empty() { std::slice::from_ref(&self.zone) } else { zones });
        while at < end {
            let (mut latest, mut until) = (at, end);
            for zone in zones {
                let (opens, closes) = self.windows.first_open(*zone, &self.closed, at)?;
                latest = latest.max(opens);
                until = closes.map_or(until, |closes| until.min(closes));
            }
            if latest == at {
                return Some(Opening { at, until: Some(until).filter(|until| *until < end) });
            }
            // Where it is closed until then it cannot be open in all of them.
            at = latest;
        }
        None
    }
}

/// Finds the windows of many recipients, those of one zone once.
#[derive(Debug)]
pub struct Finder<'a> {
    hours: &'a Hours,
    from: DateTime<Utc>,
    end: DateTime<Utc>,
    found: HashMap<Cow<'static, [Tz]>, Option<Opening>>,
}

impl<'a> Finder<'a> {
    /// For messages that may go out from `from` on and live until `end`.
    pub fn new(hours: &'a Hours, from: DateTime<Utc>, end: DateTime<Utc>) -> Self {
        Self { hours, from, end, found: HashMap::new() }
    }

    /// The window of a recipient, whose zone may be known; none when none opens while the message lives.
    pub fn find(&mut self, recipient: &Address, time_zone: Option<&str>) -> Option<Opening> {
        let zones = zones::of(recipient, time_zone);
        if let Some(found) = self.found.get(&zones) {
            return *found;
        }
        let opening = self.hours.opening(&zones, self.from, self.end);
        self.found.insert(zones, opening);
        opening
    }
}

#[cfg(test)]
mod tests {
    use chrono::{NaiveTime, TimeDelta, Timelike as _};
    use proptest::prelude::*;

    use super::*;
    use crate::domain::schedule::Span;

    const ZONES: [&str; 8] = [
        "Asia/Tokyo",
        "America/New_York",
        "Europe/Berlin",
        "Asia/Kathmandu",
        "Pacific/Honolulu",
        "Pacific/Chatham",
        "Australia/Lord_Howe",
        "America/St_Johns",
    ];

    fn zone(name: &str) -> Tz {
        name.parse().unwrap()
    }

    fn utc(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    fn span(days: &[u8], from: u32, until: u32) -> Span {
        let time = |quarters: u32| NaiveTime::from_hms_opt(quarters / 4, quarters % 4 * 15, 0);
        Span { days: days.iter().copied().collect(), from: time(from).unwrap(), until: time(until) }
    }

    fn hours(spans: Vec<Span>) -> Hours {
        Hours { windows: Windows(spans), closed: BTreeSet::new(), zone: zone("UTC") }
    }

    /// From and until, as `17T09:00`.
    fn told(hours: &Hours, zones: &[&str], from: &str, life_h: i64) -> String {
        let zones: Vec<Tz> = zones.iter().map(|name| zone(name)).collect();
        let opening = hours.opening(&zones, utc(from), utc(from) + TimeDelta::hours(life_h));
        let shown = |at: DateTime<Utc>| at.format("%dT%H:%M").to_string();
        opening.map_or("none".to_owned(), |o| format!("{} {}", shown(o.at), o.until.map_or("end".to_owned(), shown)))
    }

    #[test]
    fn each_zone_has_its_own_hours_and_several_have_those_they_share() {
        let day = hours(vec![span(&[], 36, 72)]);
        let told = |zones: &[&str], from, life| told(&day, zones, from, life);
        assert_eq!(told(&["Asia/Tokyo"], "2026-06-17T03:00:00Z", 24), "17T03:00 17T09:00");
        assert_eq!(told(&["America/New_York"], "2026-06-17T03:00:00Z", 24), "17T13:00 17T22:00");
        assert_eq!(told(&[], "2026-06-17T03:00:00Z", 24), "17T09:00 17T18:00");
        assert_eq!(told(&["America/New_York", "Pacific/Honolulu"], "2026-06-17T03:00:00Z", 24), "17T19:00 17T22:00");
        // Nine hours each, and thirteen apart.
        assert_eq!(told(&["Asia/Tokyo", "America/New_York"], "2026-06-17T03:00:00Z", 24 * 30), "none");
        // It must open while the message lives; it need not close.
        assert_eq!(told(&["America/New_York"], "2026-06-17T03:00:00Z", 10), "none");
        assert_eq!(told(&["America/New_York"], "2026-06-17T03:00:00Z", 11), "17T13:00 end");
    }

    #[test]
    fn the_clocks_change_and_the_calendars_differ() {
        let mut hours = hours(vec![span(&[0], 36, 72)]);
        // The Sunday on which New York goes forward: nine is four hours after UTC, not five.
        assert_eq!(told(&hours, &["America/New_York"], "2026-03-07T12:00:00Z", 48), "08T13:00 08T22:00");
        assert_eq!(told(&hours, &["America/New_York"], "2026-03-01T12:00:00Z", 48), "01T14:00 01T23:00");
        // Sunday begins in Tokyo while it is Saturday in New York; the closed day is each one's own.
        assert_eq!(told(&hours, &["Asia/Tokyo"], "2026-03-07T12:00:00Z", 48), "08T00:00 08T09:00");
        hours.closed.insert(NaiveDate::from_ymd_opt(2026, 3, 8).unwrap());
        assert_eq!(told(&hours, &["Asia/Tokyo"], "2026-03-07T12:00:00Z", 48), "none");
        assert_eq!(told(&hours, &["Asia/Tokyo"], "2026-03-07T12:00:00Z", 24 * 9), "15T00:00 15T09:00");
    }

    #[test]
    fn a_recipient_is_told_by_the_zone_the_number_or_the_fallback() {
        let day = hours(vec![span(&[], 36, 72)]);
        let from = utc("2026-06-17T03:00:00Z");
        let mut finder = Finder::new(&day, from, from + TimeDelta::hours(24));
        let mut opens = |to: &str, own| {
            let opening = finder.find(&Address::from_store(to.to_owned()), own);
            opening.map(|opening| opening.at.hour())
        };
        assert_eq!(opens("+819012345678", None), Some(3));
        assert_eq!(opens("+819012345678", Some("America/New_York")), Some(13));
        // Open from Adak to New York.
        assert_eq!(opens("+12125552368", None), Some(19));
        assert_eq!(opens("sato@example.jp", None), Some(9));
        assert_eq!(opens("+80012345678", None), Some(9));
    }

    /// Whether the clock of a zone stands within the hours, told without the code under test.
    fn is_open(hours: &Hours, zone: Tz, at: DateTime<Utc>) -> bool {
        use chrono::Datelike as _;
        let wall = at.with_timezone(&zone).naive_local();
        let day = u8::try_from(wall.weekday().num_days_from_sunday()).unwrap();
        !hours.closed.contains(&wall.date())
            && hours.windows.0.iter().any(|span| {
                (span.days.is_empty() || span.days.contains(&day))
                    && wall.time() >= span.from
                    && span.until.is_none_or(|until| wall.time() < until)
            })
    }

    proptest! {
        // All offsets of these zones are whole quarters, and no clock changes after four in the morning.
        #[test]
        fn the_first_moment_that_is_open_in_all_zones_is_found(
            places in proptest::collection::btree_set(0..ZONES.len(), 1..4),
            spans in proptest::collection::vec(
                (proptest::collection::btree_set(0_u8..7, 0..4), 16_u32..90, 1_u32..40), 1..4),
            closed in 0_u64..7,
            from in 0_i64..35_000,
            life in 1_i64..500,
        ) {
            let spans = spans.into_iter().map(|(days, from, length)| {
                span(&days.into_iter().collect::<Vec<_>>(), from, (from + length).min(96))
            });
            let mut hours = hours(spans.collect());
            let quarter = |n: i64| utc("2026-01-01T00:00:00Z") + TimeDelta::minutes(15 * n);
            hours.closed.insert(quarter(from).date_naive() + chrono::Days::new(closed));
            let zones: Vec<Tz> = places.into_iter().map(|place| zone(ZONES[place])).collect();
            let all_open = |n: i64| zones.iter().all(|zone| is_open(&hours, *zone, quarter(n)));
            let end = from + life;
            let first = (from..end).find(|n| all_open(*n));
            let closes = first.and_then(|first| (first..end).find(|n| !all_open(*n)));
            let found = hours.opening(&zones, quarter(from), quarter(end));
            let expected = first.map(|first| Opening { at: quarter(first), until: closes.map(quarter) });
            prop_assert_eq!(found, expected);
        }
    }
}
