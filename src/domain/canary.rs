//! The first messages of a large marketing batch: a few go out, and what becomes of them decides about the rest.

use crate::domain::failure::{FailureClass, FaultScope, Reaction};

/// What a call let through by a canary says about its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// The provider answered, and no fault of template, number, account or portfolio stands in the way. A recipient's
    /// failure is none.
    Good,
    /// Such a fault.
    Faulty,
    /// Nothing: it was not called, must come again, or nobody knows. Another message may go in its place.
    Nothing,
}

/// What a refusal of this class says.
pub const fn says(class: FailureClass) -> Says {
    match class.reaction() {
        Reaction::Fail => Says::Good,
        Reaction::Park(FaultScope::Template | FaultScope::Number | FaultScope::Account | FaultScope::Portfolio) => {
            Says::Faulty
        }
        Reaction::Park(FaultScope::Provider) | Reaction::Later { .. } | Reaction::Unknown => Says::Nothing,
    }
}

/// What becomes of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Too few outcomes to say.
    Wait,
    /// The rest goes out.
    Pass,
    /// A person looks first.
    Stay,
}

/// Decides after `good + faulty` of `messages` outcomes: `fault_percent` of faults and more stop the batch, and so they do
/// as soon as the rest could not change that.
pub fn verdict(messages: i32, fault_percent: i32, good: i32, faulty: i32) -> Verdict {
    let (messages, limit) = (i64::from(messages), i64::from(fault_percent));
    if i64::from(faulty) * 100 >= limit * messages && faulty > 0 {
        Verdict::Stay
    } else if i64::from(good) + i64::from(faulty) >= messages {
        Verdict::Pass
    } else {
        Verdict::Wait
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thirty_percent_of_faults_stop_a_batch() {
        assert_eq!(verdict(20, 30, 15, 5), Verdict::Pass);
        assert_eq!(verdict(20, 30, 14, 6), Verdict::Stay);
        assert_eq!(verdict(20, 30, 0, 6), Verdict::Stay);
        assert_eq!(verdict(20, 30, 14, 5), Verdict::Wait);
        assert_eq!(verdict(20, 30, 0, 0), Verdict::Wait);
    }

    #[test]
    fn only_faults_of_what_the_batch_shares_count() {
        assert_eq!(says(FailureClass::Recipient), Says::Good);
        assert_eq!(says(FailureClass::Template), Says::Faulty);
        assert_eq!(says(FailureClass::Portfolio), Says::Faulty);
        assert_eq!(says(FailureClass::Provider), Says::Nothing);
        assert_eq!(says(FailureClass::ThrottledNumber), Says::Nothing);
        assert_eq!(says(FailureClass::Uncertain), Says::Nothing);
    }

    proptest! {
        #[test]
        fn every_canary_with_all_its_outcomes_is_decided_by_the_share_of_faults(
            messages in 1i32..200, percent in 1i32..=100, faulty in 0i32..200,
        ) {
            let faulty = faulty.min(messages);
            let decided = verdict(messages, percent, messages - faulty, faulty);
            let expected = if faulty * 100 >= percent * messages { Verdict::Stay } else { Verdict::Pass };
            prop_assert_eq!(decided, expected);
        }
    }
}
