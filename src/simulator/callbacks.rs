//! Callbacks owed: which statuses each accepted message will get, when, and what became of them.
//!
//! Statuses wait in one queue per account, ordered by when they are due; [`crate::simulator::delivery`] posts them in
//! batches. A status is owed until its POST is answered with 200, however long that takes: the provider tries for days.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{
    domain::Category,
    simulator::{effects::CallbackEffects, gate::Recipient, locked, stalls::nanos, wire, world::Number},
};

/// A message whose callbacks are owed.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) number: Arc<Number>,
    pub(super) id: String,
    pub(super) recipient: Recipient,
    pub(super) opaque: Option<String>,
    pub(super) category: Category,
}

/// What a callback says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Sent,
    Delivered,
    Read,
    Failed(u32),
}

/// A status that is owed.
#[derive(Debug, Clone)]
pub(super) struct Owed {
    /// When, in nanoseconds since the start.
    pub(super) due: u64,
    /// Keeps those due at once in the order they were planned.
    order: u64,
    pub(super) told: Told,
    /// Signed wrongly, posted once, and meant to be refused.
    pub(super) is_forged: bool,
    pub(super) message: Arc<Accepted>,
}

impl PartialEq for Owed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Owed {}

impl PartialOrd for Owed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Owed {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// When statuses are told, and to whom the last one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telling {
    /// Milliseconds from the acceptance to `sent`, as many again to `delivered`, and again to `read`.
    pub delay_ms: u64,
    /// The share of messages that are read, from 0 to 1.
    pub read_share: f64,
}

impl Default for Telling {
    fn default() -> Self {
        Self { delay_ms: 50, read_share: 1.0 }
    }
}

/// What became of the callbacks of one account, or of all. Figures count statuses unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallbackCounts {
    /// Planned and not yet acknowledged: waiting, on the wire, or to be tried again.
    pub owed: u64,
    /// Written in at least one POST.
    pub sent: u64,
    /// In a POST that was answered with 200.
    pub acknowledged: u64,
    /// POSTs that were not answered with 200; their statuses stay owed and are tried again.
    pub failed_posts: u64,
    /// Not planned because no callback URL was known for the account when the message was accepted.
    pub without_url: u64,
    /// Wrongly signed ones posted.
    pub forged: u64,
    /// Wrongly signed ones that were answered with 200: each is a fault of the receiver.
    pub forged_taken: u64,
}

impl CallbackCounts {
    pub(super) fn add(&mut self, other: Self) {
        self.owed += other.owed;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.failed_posts += other.failed_posts;
        self.without_url += other.without_url;
        self.forged += other.forged;
        self.forged_taken += other.forged_taken;
    }
}

/// The queue of one account.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    /// Rings when the queue was empty or the URL changed.
    pub(super) bell: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: BinaryHeap<Reverse<Owed>>,
    url: Option<String>,
    /// What is due waits until this ends.
    withheld: bool,
    planned: u64,
    counts: CallbackCounts,
    /// Grows with each reset, so that answers to what was posted before it are not counted.
    epoch: u64,
}

/// Statuses that go out in one POST.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) statuses: Vec<Owed>,
    pub(super) is_forged: bool,
    epoch: u64,
}

impl Outbox {
    /// Plans the statuses of a message accepted at `at`.
    pub(super) fn plan(&self, message: Accepted, at: u64, telling: Telling, effects: CallbackEffects) {
        if effects.none {
            return;
        }
        let was_empty = {
            let mut queue = locked(&self.queue);
            let statuses = statuses(&message, telling, effects);
            if queue.url.is_none() {
                queue.counts.without_url += statuses.len() as u64;
                return;
            }
            let was_empty = queue.waiting.is_empty();
            let message = Arc::new(message);
            for (told, after, is_forged) in statuses {
                queue.planned += 1;
                if !is_forged {
                    queue.counts.owed += 1;
                }
                let (due, order) = (at.saturating_add(nanos(after)), queue.planned);
                queue.waiting.push(Reverse(Owed { due, order, told, is_forged, message: Arc::clone(&message) }));
            }
            was_empty
        };
        if was_empty {
            self.bell.notify_one();
        }
    }

    /// Takes up to `most` statuses that are due, forged ones apart from the others.
    pub(super) fn take_due(&self, now: u64, most: usize) -> Option<Post> {
        let mut queue = locked(&self.queue);
        if queue.withheld {
            return None;
        }
        let is_forged = queue.waiting.peek().filter(|first| first.0.due <= now)?.0.is_forged;
        let mut statuses = Vec::new();
        while statuses.len() < most
            && queue.waiting.peek().is_some_and(|first| first.0.due <= now && first.0.is_forged == is_forged)
            && let Some(Reverse(owed)) = queue.waiting.pop()
        {
            statuses.push(owed);
        }
        let count = statuses.len() as u64;
        if is_forged {
            queue.counts.forged += count;
        } else {
            queue.counts.sent += count;
        }
        Some(Post { statuses, is_forged, epoch: queue.epoch })
    }

    pub(super) fn is_empty(&self) -> bool {
        locked(&self.queue).waiting.is_empty()
    }

    /// Notes an answer to a POST. Returns whether the POST still counts: after a reset it need not be tried again.
    pub(super) fn answered(&self, post: &Post, is_taken: bool) -> bool {
        let mut queue = locked(&self.queue);
        if queue.epoch != post.epoch {
            return false;
        }
        let count = post.statuses.len() as u64;
        match (post.is_forged, is_taken) {
            (true, true) => queue.counts.forged_taken += count,
            (true, false) => {}
            (false, true) => {
                queue.counts.acknowledged += count;
                queue.counts.owed -= count;
            }
            (false, false) => queue.counts.failed_posts += 1,
        }
        true
    }

    pub(super) fn url(&self) -> Option<String> {
        locked(&self.queue).url.clone()
    }

    pub(super) fn set_url(&self, url: Option<String>) {
        locked(&self.queue).url = url;
        self.bell.notify_one();
    }

    /// Withholds what is due, or lets it go.
    pub(super) fn withhold(&self, withheld: bool) {
        locked(&self.queue).withheld = withheld;
        self.bell.notify_one();
    }

    pub(super) fn counts(&self) -> CallbackCounts {
        locked(&self.queue).counts
    }

    pub(super) fn clear(&self) {
        let mut queue = locked(&self.queue);
        let (url, withheld, epoch) = (queue.url.take(), queue.withheld, queue.epoch + 1);
        *queue = Queue { url, withheld, epoch, ..Queue::default() };
    }
}

/// What will be told of a message, when after its acceptance, and whether it is forged.
fn statuses(message: &Accepted, telling: Telling, effects: CallbackEffects) -> Vec<(Told, Duration, bool)> {
    let step = Duration::from_millis(telling.delay_ms);
    let is_read = wire::falls_under(telling.read_share, wire::digest(&message.id));
    let mut told = match effects.failed {
        Some(code) => vec![Told::Failed(code)],
        None if is_read => vec![Told::Sent, Told::Delivered, Told::Read],
        None => vec![Told::Sent, Told::Delivered],
    };
    if effects.reordered {
        told.reverse();
    }
    let copies = if effects.duplicated { 2 } else { 1 };
    let mut planned = Vec::with_capacity(told.len() * copies + 1);
    let mut after = effects.late;
    for told in told {
        after += step;
        for copy in 0..copies {
            // A copy goes out a moment later, so that it is a POST of its own.
            planned.push((told, after + Duration::from_millis(25) * u32::from(copy > 0), false));
        }
    }
    if effects.forged {
        planned.push((Told::Failed(131_026), step, true));
    }
    planned
}
