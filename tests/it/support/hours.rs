//! Windows by the clock that is real: open in one zone now, and elsewhere at another time.

use chrono::{DateTime, DurationRound as _, TimeDelta, Timelike as _, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};

/// Two hours of every day.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TwoHours {
    first: u32,
}

impl TwoHours {
    /// Those that are open in a zone for an hour at least.
    pub(crate) fn open_in(zone: Tz, at: DateTime<Utc>) -> Self {
        Self { first: at.with_timezone(&zone).hour() }
    }

    /// As jobs and campaigns say it; over midnight as two.
    pub(crate) fn spans(self) -> Value {
        let hour = |hour: u32| format!("{hour:02}:00");
        match self.first {
            23 => json!([{"from": "23:00", "until": "24:00"}, {"from": "00:00", "until": "01:00"}]),
            first => json!([{"from": hour(first), "until": hour(first + 2)}]),
        }
    }

    /// When they are open next in a zone.
    pub(crate) fn next(self, zone: Tz, from: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
        let is_open = |at: &DateTime<Utc>| {
            let hour = at.with_timezone(&zone).hour();
            hour == self.first || hour == (self.first + 1) % 24
        };
        let minute = from.duration_trunc(TimeDelta::minutes(1)).unwrap();
        let mut minutes = (0..3000).map(|n| minute + TimeDelta::minutes(n));
        let opens = minutes.find(is_open).unwrap();
        (opens, minutes.find(|at| !is_open(at)).unwrap())
    }
}
