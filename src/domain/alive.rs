//! Signs of life: whether the database may have lost what was committed, or everybody was away for long.

use std::time::Duration;

use crate::domain::named;

named! {
    /// Why everything is held until a person has looked.
    pub enum Alarm {
        /// The database goes on from another place than it stood: what was done since may be lost.
        Timeline = "timeline",
        /// Nobody gave a sign of life for long: an older copy of the database, or a long stop.
        Gap = "gap",
    }
}

/// The last sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSeen {
    /// How long ago.
    pub ago: Duration,
    /// On which timeline of Postgres.
    pub timeline: String,
}

/// What the last sign of life says, seen from `timeline`, when silence may last `gap`. Without one there is nothing
/// to compare with.
pub fn alarm(last: Option<&LastSeen>, timeline: &str, gap: Duration) -> Option<Alarm> {
    let last = last?;
    if last.timeline != timeline {
        Some(Alarm::Timeline)
    } else if last.ago > gap {
        Some(Alarm::Gap)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_timeline_or_a_long_silence_alarms() {
        let gap = Duration::from_mins(10);
        let seen = |ago, timeline: &str| LastSeen { ago, timeline: timeline.to_owned() };
        assert_eq!(alarm(None, "00000001", gap), None);
        assert_eq!(alarm(Some(&seen(gap, "00000001")), "00000001", gap), None);
        assert_eq!(alarm(Some(&seen(gap + gap, "00000001")), "00000001", gap), Some(Alarm::Gap));
        assert_eq!(alarm(Some(&seen(Duration::ZERO, "00000001")), "00000002", gap), Some(Alarm::Timeline));
        // The worse of the two is told.
        assert_eq!(alarm(Some(&seen(gap + gap, "00000001")), "00000002", gap), Some(Alarm::Timeline));
    }
}
