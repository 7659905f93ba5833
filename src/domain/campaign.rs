//! What becomes of a campaign's firing: pure decisions over its rules and the moment.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::domain::{
    named,
    schedule::{Calendar, Firing, Shift, Windows},
};

/// What the job id of every firing begins with.
pub const JOB_PREFIX: &str = "campaign:";

/// A firing that begins later than this raises an alarm.
pub const LATE_ALARM: TimeDelta = TimeDelta::seconds(60);

named! {
    /// Whether a campaign fires.
    pub enum CampaignState {
        /// By its schedule, and when somebody runs it.
        Active = "active",
        /// Not until it is resumed; its firings are recorded as skipped.
        Paused = "paused",
        /// Never again.
        Archived = "archived",
    }
}

named! {
    /// What a firing does while an earlier one still has messages to send.
    pub enum Overlap {
        /// It is skipped.
        Skip = "skip",
        /// It waits until the earlier one is through.
        Wait = "wait",
        /// It goes beside it.
        Allow = "allow",
    }
}

named! {
    /// Where an occurrence stands.
    pub enum OccurrenceState {
        /// For an earlier one to be through.
        Waiting = "waiting",
        /// Its job was published, or is about to be.
        Fired = "fired",
        /// It sends nothing, for a reason.
        Skipped = "skipped",
    }
}

named! {
    /// Why an occurrence sends nothing.
    pub enum SkipReason {
        /// The campaign was paused.
        Paused = "paused",
        /// A later one was due as well: a gap is not replayed.
        Missed = "missed",
        /// Nothing ran for longer than `late_within`.
        Late = "late",
        /// An earlier one still had messages to send.
        Overlap = "overlap",
        /// No window opens while its messages would live.
        Window = "window",
        /// It waited for longer than its messages would live.
        Expired = "expired",
        /// The campaign was archived while it waited.
        Archived = "archived",
    }
}

/// When a campaign fires.
#[derive(Debug, Clone)]
pub enum Timing {
    /// At one instant.
    Once(DateTime<Utc>),
    /// Again and again.
    Cron(Box<Calendar>),
    /// When somebody says so.
    OnDemand,
}

/// What a campaign's document says about its firings.
#[derive(Debug, Clone)]
pub struct Rules {
    /// When.
    pub timing: Timing,
    /// Whose wall clock.
    pub zone: Tz,
    /// When messages may go out.
    pub windows: Windows,
    /// Days without any.
    pub except_dates: BTreeSet<NaiveDate>,
    /// How late a firing may begin.
    pub late_within: TimeDelta,
    /// What it does beside an earlier one.
    pub overlap: Overlap,
    /// How long its messages live, counted from the firing.
    pub expires_after: TimeDelta,
}

/// What is done with an occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Its job is published.
    Fire {
        /// Not before; absent is at once.
        send_at: Option<DateTime<Utc>>,
        /// Not after.
        expires_at: DateTime<Utc>,
    },
    /// It waits for an earlier one.
    Wait,
    /// It sends nothing.
    Skip(SkipReason),
}

/// Occurrences that are due, the oldest first, and when the next one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// When each was to fire.
    pub fire_at: Vec<DateTime<Utc>>,
    /// The next, which may be due as well when there were too many.
    pub next: Option<DateTime<Utc>>,
}

impl Rules {
    /// The first firing after an instant.
    pub fn next(&self, after: DateTime<Utc>) -> Option<Firing> {
        match &self.timing {
            Timing::OnDemand => None,
            Timing::Once(at) => {
                let wall = at.with_timezone(&self.zone).naive_local();
                (*at > after).then_some(Firing { at: *at, wall, shift: Shift::None })
            }
            Timing::Cron(calendar) => calendar.next(after),
        }
    }

    /// The occurrences from `first` on that are due now, at most so many.
    pub fn due(&self, first: DateTime<Utc>, now: DateTime<Utc>, most: usize) -> Due {
        let (mut fire_at, mut next) = (Vec::new(), Some(first));
        while let Some(at) = next.filter(|at| *at <= now && fire_at.len() < most) {
            fire_at.push(at);
            next = self.next(at).map(|firing| firing.at);
        }
        Due { fire_at, next }
    }

    /// Of an occurrence that the schedule made due.
    pub fn decide(
        &self,
        state: CampaignState,
        fire_at: DateTime<Utc>,
        now: DateTime<Utc>,
        is_latest: bool,
        is_running: bool,
    ) -> Decision {
        match state {
            CampaignState::Paused => Decision::Skip(SkipReason::Paused),
            CampaignState::Archived => Decision::Skip(SkipReason::Archived),
            CampaignState::Active if !is_latest => Decision::Skip(SkipReason::Missed),
            CampaignState::Active if now - fire_at > self.late_within => Decision::Skip(SkipReason::Late),
            CampaignState::Active => self.begin(fire_at, now, is_running),
        }
    }

    /// Of an occurrence that is in time, or whose campaign somebody runs, or that waited.
    pub fn begin(&self, fire_at: DateTime<Utc>, now: DateTime<Utc>, is_running: bool) -> Decision {
        let end = fire_at + self.expires_after;
        match self.overlap {
            Overlap::Skip if is_running => return Decision::Skip(SkipReason::Overlap),
            _ if end <= now => return Decision::Skip(SkipReason::Expired),
            Overlap::Wait if is_running => return Decision::Wait,
            Overlap::Skip | Overlap::Wait | Overlap::Allow => {}
        }
        let at = fire_at.max(now);
        match self.windows.first_open(self.zone, &self.except_dates, at) {
            Some((from, until)) if from < end => Decision::Fire {
                send_at: (from > at).then_some(from),
                // What is left when the window closes is not sent at night.
                expires_at: until.map_or(end, |until| until.min(end)),
            },
            _ => Decision::Skip(SkipReason::Window),
        }
    }
}

/// Reads a length of time: `90s`, `15m`, `24h`, `2d`.
pub fn period(text: &str) -> Option<TimeDelta> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
    let count: i64 = is_number.then(|| count.parse().ok()).flatten()?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    TimeDelta::try_seconds(count.checked_mul(seconds)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::schedule::{Cron, Span};

    fn utc(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(&format!("2026-12-01T{text}Z")).unwrap().to_utc()
    }

    fn rules(overlap: Overlap) -> Rules {
        let zone: Tz = "UTC".parse().unwrap();
        let cron = Cron::parse("* * * * *").unwrap();
        let except_dates = BTreeSet::new();
        let calendar = Calendar { cron, zone, start: None, end: None, except_dates: except_dates.clone() };
        Rules {
            timing: Timing::Cron(Box::new(calendar)),
            zone,
            windows: Windows::default(),
            except_dates,
            late_within: TimeDelta::minutes(15),
            overlap,
            expires_after: TimeDelta::hours(24),
        }
    }

    #[test]
    fn of_a_gap_only_the_latest_runs() {
        let rules = rules(Overlap::Skip);
        let due = rules.due(utc("09:00:00"), utc("09:03:30"), 500);
        assert_eq!(due.fire_at, ["09:00:00", "09:01:00", "09:02:00", "09:03:00"].map(utc));
        assert_eq!(due.next, Some(utc("09:04:00")));
        // Too many at once: the rest is found by the next look, and none of these is the latest.
        assert_eq!(rules.due(utc("09:00:00"), utc("09:03:30"), 2).next, Some(utc("09:02:00")));
        let decide = |at, is_latest| rules.decide(CampaignState::Active, utc(at), utc("09:03:30"), is_latest, false);
        assert_eq!(decide("09:02:00", false), Decision::Skip(SkipReason::Missed));
        assert!(matches!(decide("09:03:00", true), Decision::Fire { send_at: None, .. }));
    }

    #[test]
    fn what_is_too_late_is_skipped() {
        let rules = rules(Overlap::Skip);
        let decide = |now| rules.decide(CampaignState::Active, utc("09:00:00"), utc(now), true, false);
        assert!(matches!(decide("09:15:00"), Decision::Fire { .. }));
        assert_eq!(decide("09:15:01"), Decision::Skip(SkipReason::Late));
    }

    #[test]
    fn an_earlier_one_that_still_sends_decides() {
        let begin = |overlap, now| rules(overlap).begin(utc("09:00:00"), now, true);
        assert_eq!(begin(Overlap::Skip, utc("09:00:00")), Decision::Skip(SkipReason::Overlap));
        assert_eq!(begin(Overlap::Wait, utc("09:00:00")), Decision::Wait);
        assert_eq!(begin(Overlap::Wait, utc("09:00:00") + TimeDelta::hours(24)), Decision::Skip(SkipReason::Expired));
        assert!(matches!(begin(Overlap::Allow, utc("09:00:00")), Decision::Fire { .. }));
    }

    #[test]
    fn nothing_is_sent_outside_the_windows() {
        let mut rules = rules(Overlap::Skip);
        let hour = |hour| chrono::NaiveTime::from_hms_opt(hour, 0, 0).unwrap();
        rules.windows = Windows(vec![Span { days: BTreeSet::new(), from: hour(9), until: Some(hour(18)) }]);
        let begin = |at| rules.begin(utc(at), utc(at), false);
        let until = utc("18:00:00");
        assert_eq!(begin("10:00:00"), Decision::Fire { send_at: None, expires_at: until });
        assert_eq!(begin("07:00:00"), Decision::Fire { send_at: Some(utc("09:00:00")), expires_at: until });
        rules.expires_after = TimeDelta::hours(1);
        assert_eq!(rules.begin(utc("07:00:00"), utc("07:00:00"), false), Decision::Skip(SkipReason::Window));
    }

    #[test]
    fn a_paused_campaign_records_what_it_skips() {
        let decision =
            rules(Overlap::Skip).decide(CampaignState::Paused, utc("09:00:00"), utc("09:00:00"), true, false);
        assert_eq!(decision, Decision::Skip(SkipReason::Paused));
    }

    #[test]
    fn periods_are_read() {
        assert_eq!(["90s", "15m", "24h", "2d"].map(period), [90, 900, 86_400, 172_800].map(TimeDelta::try_seconds));
        assert_eq!(["", "m", "15", "-1m", "1w", "１m", "99999999999999999999d"].map(period), [None; 7]);
    }
}
