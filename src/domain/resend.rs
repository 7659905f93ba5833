//! Which failed messages are sent again when a person asks for it, and why the others are not.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::named;

named! {
    /// Why a failed message is not sent again.
    pub enum Skip {
        /// It has not failed (any more): it arrived after all.
        Moved = "moved",
        /// It was sent again before.
        Resent = "resent",
        /// The person was sent the same text meanwhile.
        Received = "received",
        /// The same text to the same person is still to be sent, or nobody knows whether it arrived.
        UnderWay = "under_way",
        /// The same text to the same person is among these already.
        Twice = "twice",
        /// The recipient does not want it.
        OptedOut = "opted_out",
        /// Somebody said that the failure is seen to.
        Acknowledged = "acknowledged",
        /// The code says that sending the same again never makes sense.
        Never = "never",
        /// The code says that it is too soon.
        TooSoon = "too_soon",
        /// Its batch was given up.
        Cancelled = "cancelled",
        /// Its campaign is paused.
        CampaignPaused = "campaign_paused",
        /// The template cannot be sent any more.
        Template = "template",
    }
}

impl Skip {
    /// What a person should know about it.
    pub const fn explained(self) -> &'static str {
        match self {
            Self::Moved => "they have not failed any more: they arrived after all",
            Self::Resent => "they were sent again before; what became of that is shown by `why`",
            Self::Received => "the person was sent the same text meanwhile",
            Self::UnderWay => "the same text to the same person is still to be sent, or in doubt",
            Self::Twice => "the same text to the same person is among these once already",
            Self::OptedOut => "the recipient does not want such messages",
            Self::Acknowledged => "somebody has seen to them; with `acknowledged` they are sent all the same",
            Self::Never => {
                "the code says that the same again will fail again; with `against_advice` they are sent all the same"
            }
            Self::TooSoon => "the code says to wait longer: give a later `send_at`, or `against_advice`",
            Self::Cancelled => "their batch was given up",
            Self::CampaignPaused => "their campaign is paused: resume it first",
            Self::Template => "the template was rejected, disabled or deleted",
        }
    }
}

/// Whether sending the same again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Whenever.
    Now,
    /// So long after the failure.
    After(Duration),
    /// Never.
    Never,
}

named! {
    /// What became of the same text to the same person in another message.
    pub enum Same {
        /// The provider took it after the failure.
        Received = "received",
        /// It is pending or uncertain.
        UnderWay = "under_way",
    }
}

/// A failed message that a person may send again.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a row")]
pub struct Candidate {
    /// Whether it is failed or expired still.
    pub is_failed: bool,
    /// Whether it was sent again.
    pub is_resent: bool,
    /// Whether somebody has seen to it.
    pub is_acknowledged: bool,
    /// Whether the recipient does not want it.
    pub is_opt_out: bool,
    /// Whether its batch was given up.
    pub is_cancelled: bool,
    /// Whether its campaign is paused.
    pub is_campaign_paused: bool,
    /// Whether its template cannot be sent any more.
    pub is_template_dead: bool,
    /// What the code says.
    pub again: Again,
    /// When it failed.
    pub failed_at: DateTime<Utc>,
    /// What became of the same text.
    pub same: Option<Same>,
}

/// How a person wants it.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// When it is to be sent.
    pub starts: DateTime<Utc>,
    /// Also what somebody has seen to.
    pub acknowledged: bool,
    /// Also what the codes advise against.
    pub against_advice: bool,
}

/// Whether a failed message is sent again.
///
/// # Errors
/// Why not: what would reach a person twice first, then their wish, then what a person may overrule.
pub fn decide(candidate: &Candidate, terms: Terms) -> Result<(), Skip> {
    let too_soon = |wait: Duration| {
        TimeDelta::from_std(wait)
            .is_ok_and(|wait| candidate.failed_at.checked_add_signed(wait).is_none_or(|at| at > terms.starts))
    };
    let reasons = [
        (!candidate.is_failed, Skip::Moved),
        (candidate.is_resent, Skip::Resent),
        (candidate.same == Some(Same::Received), Skip::Received),
        (candidate.same == Some(Same::UnderWay), Skip::UnderWay),
        (candidate.is_opt_out, Skip::OptedOut),
        (candidate.is_cancelled, Skip::Cancelled),
        (candidate.is_campaign_paused, Skip::CampaignPaused),
        (candidate.is_template_dead, Skip::Template),
        (candidate.is_acknowledged && !terms.acknowledged, Skip::Acknowledged),
        (candidate.again == Again::Never && !terms.against_advice, Skip::Never),
        (matches!(candidate.again, Again::After(wait) if too_soon(wait)) && !terms.against_advice, Skip::TooSoon),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map_or(Ok(()), |(_, skip)| Err(skip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn good() -> Candidate {
        Candidate {
            is_failed: true,
            is_resent: false,
            is_acknowledged: false,
            is_opt_out: false,
            is_cancelled: false,
            is_campaign_paused: false,
            is_template_dead: false,
            again: Again::Now,
            failed_at: now(),
            same: None,
        }
    }

    const PLAIN: fn() -> Terms = || Terms { starts: now(), acknowledged: false, against_advice: false };

    #[test]
    fn each_reason_is_told() {
        let day = Again::After(Duration::from_hours(24));
        let cases = [
            (Candidate { is_failed: false, ..good() }, Skip::Moved),
            (Candidate { is_resent: true, ..good() }, Skip::Resent),
            (Candidate { same: Some(Same::Received), ..good() }, Skip::Received),
            (Candidate { same: Some(Same::UnderWay), ..good() }, Skip::UnderWay),
            (Candidate { is_opt_out: true, ..good() }, Skip::OptedOut),
            (Candidate { is_cancelled: true, ..good() }, Skip::Cancelled),
            (Candidate { is_campaign_paused: true, ..good() }, Skip::CampaignPaused),
            (Candidate { is_template_dead: true, ..good() }, Skip::Template),
            (Candidate { is_acknowledged: true, ..good() }, Skip::Acknowledged),
            (Candidate { again: Again::Never, ..good() }, Skip::Never),
            (Candidate { again: day, ..good() }, Skip::TooSoon),
        ];
        for (candidate, skip) in cases {
            assert_eq!(decide(&candidate, PLAIN()), Err(skip));
        }
        assert_eq!(decide(&good(), PLAIN()), Ok(()));
    }

    #[test]
    fn a_person_overrules_advice_and_nothing_else() {
        let all = Terms { acknowledged: true, against_advice: true, ..PLAIN() };
        let day = Again::After(Duration::from_hours(24));
        assert_eq!(decide(&Candidate { is_acknowledged: true, again: Again::Never, ..good() }, all), Ok(()));
        assert_eq!(decide(&Candidate { again: day, ..good() }, all), Ok(()));
        assert_eq!(
            decide(&Candidate { again: day, ..good() }, Terms { starts: now() + TimeDelta::days(1), ..PLAIN() }),
            Ok(())
        );
        for twice in [
            Candidate { is_failed: false, ..good() },
            Candidate { is_resent: true, ..good() },
            Candidate { same: Some(Same::Received), ..good() },
            Candidate { same: Some(Same::UnderWay), ..good() },
            Candidate { is_opt_out: true, ..good() },
        ] {
            assert!(decide(&twice, all).is_err(), "{twice:?}");
        }
    }
}
