//! When calls of unknown outcome, or malformed ones, are too many to go on.

use std::collections::VecDeque;

/// So many in a row are too many.
const IN_A_ROW: usize = 5;
/// Of the last so many outcomes …
const WINDOW: usize = 50;
/// … a fifth are too many.
const TOO_MANY: usize = WINDOW / 5;

/// The last outcomes of a number or a provider, as far as they were known or not.
#[derive(Debug, Default, Clone)]
pub struct Doubts {
    /// Whether each was uncertain.
    last: VecDeque<bool>,
    uncertain: usize,
    in_a_row: usize,
}

impl Doubts {
    /// Records an outcome; says why when they have become too many, once for the same outcomes.
    pub fn record(&mut self, is_uncertain: bool) -> Option<String> {
        self.in_a_row = if is_uncertain { self.in_a_row + 1 } else { 0 };
        if self.last.len() == WINDOW && self.last.pop_front() == Some(true) {
            self.uncertain -= 1;
        }
        self.last.push_back(is_uncertain);
        self.uncertain += usize::from(is_uncertain);
        let why = if self.in_a_row >= IN_A_ROW {
            format!("{IN_A_ROW} calls in a row had no outcome")
        } else if is_uncertain && self.last.len() == WINDOW && self.uncertain >= TOO_MANY {
            format!("{} of the last {WINDOW} calls had no outcome", self.uncertain)
        } else {
            return None;
        };
        *self = Self::default();
        Some(why)
    }
}

/// Malformed requests of one batch in a row; the third is too many.
pub const MALFORMED_IN_A_ROW: u8 = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_in_a_row_are_too_many_and_four_are_not() {
        let mut doubts = Doubts::default();
        for _ in 0..9 {
            for _ in 0..4 {
                assert_eq!(doubts.record(true), None);
            }
            for _ in 0..40 {
                assert_eq!(doubts.record(false), None);
            }
        }
        let told: Vec<bool> = (0..5).map(|_| doubts.record(true).is_some()).collect();
        assert_eq!(told, [false, false, false, false, true]);
        assert_eq!(doubts.record(true), None, "the same outcomes are not told twice");
    }

    #[test]
    fn a_fifth_of_fifty_is_too_many() {
        let mut doubts = Doubts::default();
        let told: Vec<usize> = (1..=50).filter(|i| doubts.record(i % 5 == 0).is_some()).collect();
        assert_eq!(told, [50]);
        let told = (1..=500).filter(|i| doubts.record(i % 6 == 0).is_some()).count();
        assert_eq!(told, 0, "a sixth is not");
    }

    proptest! {
        #[test]
        fn it_tells_exactly_when_the_last_outcomes_say_so(outcomes in prop::collection::vec(prop::bool::weighted(0.15), 0..400)) {
            let (mut doubts, mut since) = (Doubts::default(), Vec::new());
            for outcome in outcomes {
                since.push(outcome);
                let last = &since[since.len().saturating_sub(50)..];
                let row = since.iter().rev().take_while(|uncertain| **uncertain).count();
                let many = last.len() == 50 && outcome && last.iter().filter(|uncertain| **uncertain).count() >= 10;
                let told = doubts.record(outcome).is_some();
                prop_assert_eq!(told, row >= 5 || many);
                if told { since.clear(); }
            }
        }
    }
}
