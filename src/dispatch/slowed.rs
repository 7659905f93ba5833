//! Numbers that send slower than their limit: raised again with time, and written down for whoever takes them next.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use uuid::Uuid;

use super::{Shared, clock, number::Number};
use crate::store::leases::NewRate;

/// The numbers whose rate is below their limit or not written yet, by lease; empty as long as nobody throttles.
#[derive(Debug, Default)]
pub(super) struct Slowed(RefCell<HashMap<Uuid, Rc<Number>>>);

impl Slowed {
    /// Looks after this number from now on.
    pub(super) fn watch(&self, number: &Rc<Number>) {
        self.0.borrow_mut().insert(number.held.lease, Rc::clone(number));
    }

    /// Raises what has been quiet for long enough, and says which rates have to be written.
    pub(super) fn changes(&self, shared: &Shared) -> Vec<NewRate> {
        let numbers = self.0.borrow();
        let now = clock::now();
        let changed = numbers.iter().filter_map(|(lease, number)| {
            number.rise(shared, now);
            Some(NewRate { number: number.id, lease: *lease, rate: number.unwritten()? })
        });
        changed.collect()
    }

    /// These rates are written. Numbers at their limit, and those of others, need no more looking after.
    pub(super) fn written(&self, changes: &[NewRate]) {
        let mut numbers = self.0.borrow_mut();
        for change in changes {
            if let Some(number) = numbers.get(&change.lease) {
                number.written(change.rate);
            }
        }
        let now = clock::now();
        numbers.retain(|_, number| {
            let stays = number.held.is_good(now) && (number.is_slowed() || number.unwritten().is_some());
            if !stays {
                number.tell_rate();
            }
            stays
        });
        metrics::gauge!("dispatch_numbers_slowed").set(f64::from(u32::try_from(numbers.len()).unwrap_or(u32::MAX)));
    }
}
