//! What to do about a call whose outcome nobody knows: the written policy, by account and category.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{lane::Lane, named};

named! {
    /// What the policy says once the grace is over.
    pub enum UncertainPolicy {
        /// Wait for evidence or a person, a week by default; then it failed.
        Hold = "hold",
        /// Call again while the message lives: the recipient may get it twice.
        Resend = "resend",
        /// It failed; a callback that comes later lifts it.
        Fail = "fail",
    }
}

named! {
    /// What was decided about such a message, by the policy or by a person.
    pub enum Decided {
        /// The call was taken.
        Sent = "sent",
        /// It was not, and is not made again.
        Failed = "failed",
        /// It is made again.
        Resend = "resend",
    }
}

/// Policies by category; what is absent is as in the settings.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(deny_unknown_fields)]
pub struct UncertainOverrides {
    /// For marketing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marketing: Option<UncertainPolicy>,
    /// For utility.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utility: Option<UncertainPolicy>,
    /// For authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<UncertainPolicy>,
}

impl UncertainOverrides {
    /// What is said about a category.
    pub const fn of(&self, lane: Lane) -> Option<UncertainPolicy> {
        match lane {
            Lane::Marketing => self.marketing,
            Lane::Utility => self.utility,
            Lane::Authentication => self.authentication,
        }
    }

    /// Whether nothing is said.
    pub const fn is_empty(&self) -> bool {
        self.marketing.is_none() && self.utility.is_none() && self.authentication.is_none()
    }
}

/// What the policy makes of a message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet; ask again after this.
    Wait(Duration),
    /// This.
    Now(Decided),
}

/// Decides about a message whose grace is over: `age` since the call, `left` of its life, and `give_up` after which
/// even one that waits for a person has failed.
///
/// ```
/// use std::time::Duration;
/// use campaign_dispatch::domain::uncertain::{Decided, UncertainPolicy, Verdict, decide};
/// let (minute, week) = (Duration::from_mins(1), Duration::from_hours(168));
/// assert_eq!(decide(UncertainPolicy::Resend, minute, minute, week), Verdict::Now(Decided::Resend));
/// assert_eq!(decide(UncertainPolicy::Resend, minute, Duration::ZERO, week), Verdict::Now(Decided::Failed));
/// ```
pub fn decide(policy: UncertainPolicy, age: Duration, left: Duration, give_up: Duration) -> Verdict {
    match policy {
        UncertainPolicy::Hold if age < give_up => Verdict::Wait(give_up.saturating_sub(age)),
        UncertainPolicy::Resend if !left.is_zero() => Verdict::Now(Decided::Resend),
        UncertainPolicy::Hold | UncertainPolicy::Resend | UncertainPolicy::Fail => Verdict::Now(Decided::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const WEEK: Duration = Duration::from_hours(168);

    #[test]
    fn a_hold_waits_a_week_after_the_call_and_no_longer() {
        for left in [Duration::ZERO, MINUTE, WEEK] {
            assert_eq!(decide(UncertainPolicy::Hold, MINUTE, left, WEEK), Verdict::Wait(WEEK.saturating_sub(MINUTE)));
            assert_eq!(decide(UncertainPolicy::Hold, WEEK, left, WEEK), Verdict::Now(Decided::Failed));
        }
    }

    #[test]
    fn only_resend_calls_again_and_only_within_the_messages_life() {
        for policy in UncertainPolicy::ALL {
            for age in [MINUTE, WEEK] {
                for left in [Duration::ZERO, MINUTE] {
                    let again = decide(*policy, age, left, WEEK) == Verdict::Now(Decided::Resend);
                    assert_eq!(again, *policy == UncertainPolicy::Resend && left > Duration::ZERO, "{policy} {age:?}");
                }
            }
        }
    }

    #[test]
    fn no_policy_waits_for_ever() {
        for policy in UncertainPolicy::ALL {
            let verdict = decide(*policy, WEEK, MINUTE, WEEK);
            assert!(matches!(verdict, Verdict::Now(_)), "{policy}: {verdict:?}");
        }
    }

    #[test]
    fn an_override_is_of_its_category() {
        let overrides = UncertainOverrides { marketing: Some(UncertainPolicy::Fail), ..UncertainOverrides::default() };
        assert_eq!(overrides.of(Lane::Marketing), Some(UncertainPolicy::Fail));
        assert_eq!((overrides.of(Lane::Utility), overrides.of(Lane::Authentication)), (None, None));
        assert!(!overrides.is_empty() && UncertainOverrides::default().is_empty());
    }
}
