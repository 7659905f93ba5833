//! Whose turn it is: a number's groups with due work, served equally within a lane, lanes in order.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use uuid::Uuid;

use crate::domain::{ids::HoldId, lane::Lane, pacing::Tick};

/// What is known of a number's ready work.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// By lane, in order of service: the groups with due work, next first.
    due: [VecDeque<Uuid>; 3],
    /// Groups that only the first messages may go out of: the hold, and the places left.
    canaries: HashMap<Uuid, (HoldId, usize)>,
    /// When something becomes due that is not yet.
    next_due: Option<Tick>,
}

/// A share of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) lane: Lane,
    pub(super) group: Uuid,
    pub(super) most: usize,
    /// The hold under which the first messages of the group go out.
    pub(super) canary: Option<HoldId>,
}

impl Turns {
    /// Takes over what a look found: groups that are due keep their place, new ones come last, others go.
    pub(super) fn found(&mut self, groups: impl Iterator<Item = (Lane, Uuid, Duration)>, now: Tick) {
        let mut seen: [Vec<Uuid>; 3] = Default::default();
        self.next_due = None;
        for (lane, group, due_in) in groups {
            if due_in.is_zero() {
                seen[lane as usize].push(group);
            } else {
                let at = now + due_in;
                self.next_due = Some(self.next_due.map_or(at, |next| next.min(at)));
            }
        }
        for (due, seen) in self.due.iter_mut().zip(seen) {
            due.retain(|group| seen.contains(group));
            for group in seen {
                if !due.contains(&group) {
                    due.push_back(group);
                }
            }
        }
    }

    /// Takes over which groups only the first messages may go out of.
    pub(super) fn canaries(&mut self, canaries: Vec<(Uuid, HoldId, usize)>) {
        self.canaries = canaries.into_iter().map(|(group, hold, places)| (group, (hold, places))).collect();
    }

    /// The group of the lane whose turn is next.
    pub(super) fn first(&self, lane: Lane) -> Option<Uuid> {
        self.due[lane as usize].iter().copied().find(|group| !self.canaries.contains_key(group))
    }

    /// When a look would find something new.
    pub(super) fn next_due(&self) -> Option<Tick> {
        self.next_due
    }

    /// Whether any group is known to have due work.
    pub(super) fn has_due(&self) -> bool {
        self.due.iter().any(|groups| !groups.is_empty())
    }

    /// Forgets a group that had less than it was asked for.
    pub(super) fn drained(&mut self, lane: Lane, group: Uuid) {
        self.due[lane as usize].retain(|g| *g != group);
    }

    /// Divides `room` among the groups of the urgent or the other lanes that `open` lets through.
    pub(super) fn take(&mut self, urgent: bool, room: usize, mut open: impl FnMut(Lane, Uuid) -> bool) -> Vec<Turn> {
        let mut turns = Vec::new();
        let mut room = room;
        for lane in Lane::ALL.iter().copied().filter(|lane| lane.is_urgent() == urgent) {
            let due = &mut self.due[lane as usize];
            let places =
                |canaries: &HashMap<Uuid, (HoldId, usize)>, group: &Uuid| canaries.get(group).map(|(_, left)| *left);
            let mut waiting: Vec<Uuid> = due
                .iter()
                .copied()
                .filter(|group| places(&self.canaries, group) != Some(0) && open(lane, *group))
                .collect();
            waiting.truncate(room);
            let groups = waiting.len();
            for (served, group) in waiting.into_iter().enumerate() {
                let share = room.div_ceil(groups - served);
                let most = places(&self.canaries, &group).map_or(share, |left| left.min(share));
                room -= most;
                let canary = self.canaries.get_mut(&group).map(|(hold, left)| {
                    *left -= most;
                    *hold
                });
                turns.push(Turn { lane, group, most, canary });
                due.retain(|g| *g != group);
                due.push_back(group);
            }
            if room == 0 {
                break;
            }
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);
    const C: Uuid = Uuid::from_u128(3);

    fn turns(groups: &[(Lane, Uuid)]) -> Turns {
        let mut turns = Turns::default();
        turns.found(groups.iter().map(|(lane, group)| (*lane, *group, Duration::ZERO)), Duration::ZERO);
        turns
    }

    #[test]
    fn a_step_is_shared_equally_between_groups() {
        let mut turns = turns(&[(Lane::Marketing, A), (Lane::Marketing, B)]);
        let taken = turns.take(false, 20, |_, _| true);
        assert_eq!(taken.iter().map(|t| t.most).collect::<Vec<_>>(), [10, 10]);
    }

    #[test]
    fn small_steps_go_round() {
        let mut turns = turns(&[(Lane::Marketing, A), (Lane::Marketing, B), (Lane::Marketing, C)]);
        let order: Vec<Uuid> = (0..6).flat_map(|_| turns.take(false, 1, |_, _| true)).map(|t| t.group).collect();
        assert_eq!(order, [A, B, C, A, B, C]);
    }

    #[test]
    fn utility_goes_before_marketing_and_authentication_is_asked_apart() {
        let mut turns = turns(&[(Lane::Marketing, A), (Lane::Utility, B), (Lane::Authentication, C)]);
        let bulk = turns.take(false, 5, |_, _| true);
        assert_eq!(bulk.iter().map(|t| t.group).collect::<Vec<_>>(), [B]);
        assert_eq!(turns.take(true, 5, |_, _| true)[0].group, C);
    }

    #[test]
    fn a_held_group_does_not_take_a_turn() {
        let mut turns = turns(&[(Lane::Marketing, A), (Lane::Marketing, B)]);
        let taken = turns.take(false, 4, |_, group| group != A);
        assert_eq!(taken, [Turn { lane: Lane::Marketing, group: B, most: 4, canary: None }]);
    }

    #[test]
    fn of_a_batch_that_opens_with_a_canary_only_the_places_left_are_asked_for() {
        let mut turns = turns(&[(Lane::Marketing, A), (Lane::Marketing, B)]);
        turns.canaries(vec![(A, HoldId(7), 3)]);
        let taken = turns.take(false, 20, |_, _| true);
        assert_eq!(
            taken.iter().map(|t| (t.group, t.most, t.canary)).collect::<Vec<_>>(),
            [(A, 3, Some(HoldId(7))), (B, 17, None)]
        );
        let again = turns.take(false, 20, |_, _| true);
        assert_eq!(again.iter().map(|t| (t.group, t.most)).collect::<Vec<_>>(), [(B, 20)]);
        assert_eq!(turns.first(Lane::Marketing), Some(B), "a canary is no probe");
    }

    #[test]
    fn what_is_not_due_yet_is_looked_for_when_it_is() {
        let mut turns = Turns::default();
        let groups = [(Lane::Marketing, A, Duration::from_secs(9)), (Lane::Marketing, B, Duration::from_secs(4))];
        turns.found(groups.into_iter(), Duration::from_secs(100));
        assert_eq!(turns.next_due(), Some(Duration::from_secs(104)));
        assert!(turns.take(false, 9, |_, _| true).is_empty());
    }
}
