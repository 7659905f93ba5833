//! The loop that writes outcomes in bulk; what they mean is decided in `judge`.
//!
//! An outcome is a fact: it is guarded by (batch, seq, attempt) and never by the lease. A worker that lost its lease
//! or its database settles what it knows, before anything else, and runs a group again until it is committed.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinHandle,
    time::Instant,
};

use super::{
    agenda::Hunger,
    gate::{Gates, Stop},
};
use crate::{
    domain::{ids::MessageKey, message::MessageEvent, retry::PERSIST},
    settings::Settings,
    store::{
        Session, Store, chain,
        messages::{self, Change, Next, Rules},
    },
};

/// How often a small group is written at most: under a light load several outcomes share a transaction all the same, and
/// leave the database and the disk to those who wait for them.
const SMALL_GROUP_EVERY: Duration = Duration::from_millis(50);
/// Changes that are worth a transaction at once.
const WORTH_ONE: usize = 64;

/// A change, with the permit of the call it comes from.
type Unsettled = (Change, Option<OwnedSemaphorePermit>);

/// Takes changes from every actor; the loop writes them.
#[derive(Debug, Clone)]
pub struct Settler {
    queue: Rc<std::cell::RefCell<Option<mpsc::UnboundedSender<Unsettled>>>>,
}

impl Settler {
    /// Settles a change, sooner or later and for certain.
    pub fn settle(&self, change: Change) {
        self.put((change, None));
    }

    /// Settles the outcome of a call, which keeps its permit until that is written: however slow the database is, no more
    /// calls are unsettled than may be in flight.
    pub fn settle_call(&self, change: Change, permit: OwnedSemaphorePermit) {
        self.put((change, Some(permit)));
    }

    fn put(&self, change: Unsettled) {
        if let Some(queue) = self.queue.borrow().as_ref() {
            // The loop outlives every sender: it ends only after `close`.
            queue.send(change).ok();
        }
    }

    /// No more changes will come; the loop ends when all are written.
    pub fn close(&self) {
        self.queue.borrow_mut().take();
    }
}

/// Starts the loop on the current thread.
pub(super) fn start(
    store: &Store,
    settings: &Settings,
    gates: Arc<Gates>,
    hunger: Rc<Hunger>,
) -> (Settler, JoinHandle<()>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let rules = Rules { grace: Duration::from_secs(settings.uncertain.grace_s), events: settings.events.wanted() };
    let most = settings.dispatch.settle_max;
    let session = Session::new(store.clone(), "settle");
    let task = tokio::task::spawn_local(run(session, receiver, most, rules, (gates, hunger)));
    (Settler { queue: Rc::new(std::cell::RefCell::new(Some(sender))) }, task)
}

/// While one group is being written the next one gathers, so groups grow with the load; after a small one it gathers a
/// little longer. The first outcome after a pause is written at once, and so is a failure.
async fn run(
    mut session: Session,
    mut queue: mpsc::UnboundedReceiver<Unsettled>,
    most: usize,
    rules: Rules,
    (gates, hunger): (Arc<Gates>, Rc<Hunger>),
) {
    let mut taken = Vec::with_capacity(most);
    let mut not_before = Instant::now();
    while queue.recv_many(&mut taken, most).await > 0 {
        // Bad news is written at once: it may stop the rest of an account.
        while taken.len() < WORTH_ONE && taken.iter().all(|(change, _)| change.failure.is_none()) {
            tokio::select! {
                () = tokio::time::sleep_until(not_before) => break,
                more = queue.recv() => match more {
                    Some(more) => taken.push(more),
                    None => break,
                },
            }
        }
        not_before = Instant::now() + SMALL_GROUP_EVERY;
        let (group, permits): (Vec<Change>, Vec<_>) = taken.drain(..).unzip();
        let outcome = write(&mut session, &group, rules).await;
        for hold in &outcome.holds_opened {
            tracing::error!(hold.scope = %hold.scope, hold.cause = hold.cause, detail = hold.detail,
                "a hold was opened; mend the cause, then `campaign-dispatch holds close`");
            metrics::counter!("holds_opened_total").increment(1);
        }
        if !outcome.holds_opened.is_empty() || outcome.holds_closed > 0 {
            gates.nudge();
        }
        // The rest of a batch may go now, or another of its first messages.
        outcome.canaries.iter().for_each(|number| hunger.come(*number));
        metrics::counter!("dispatch_settled_total").increment(group.len() as u64);
        drop(permits);
    }
}

async fn write(session: &mut Session, group: &[Change], rules: Rules) -> messages::Outcome {
    for tries in 1.. {
        let done = match session.connection().await {
            Ok(connection) => messages::apply(connection, group, rules).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(outcome) => return outcome,
            Err(error) => {
                session.reset();
                tracing::warn!(error = %chain(&error), outcomes = group.len(), "could not settle; trying again");
                tokio::time::sleep(PERSIST.wait_after(tries)).await;
            }
        }
    }
    messages::Outcome::default()
}

/// Uncharged, back to where it came from.
pub(super) fn not_called(key: MessageKey, attempt: i16, stop: Option<Stop>) -> Change {
    let next = match stop {
        Some(Stop::Held(hold)) => Next::ParkUnder(hold),
        Some(Stop::Cancelled) => return Change::new(key, attempt, MessageEvent::Cancelled),
        Some(Stop::LeaseLost | Stop::Blind | Stop::TooLate) | None => Next::Ready,
    };
    Change { next, ..Change::new(key, attempt, MessageEvent::Returned) }
}

/// Uncharged, after a pause: what is needed to send it is not known to this process yet.
pub(super) fn in_a_moment(key: MessageKey, attempt: i16) -> Change {
    after(key, attempt, Duration::from_secs(1))
}

/// Uncharged, when so much time has passed.
pub(super) fn after(key: MessageKey, attempt: i16, after: Duration) -> Change {
    let next = Next::Wait { after, charged: false };
    Change { next, ..Change::new(key, attempt, MessageEvent::Returned) }
}
