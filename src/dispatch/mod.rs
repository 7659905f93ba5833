//! Claim, pace, send, settle: one actor per leased number, all of them on one current-thread runtime.
//!
//! Nothing is sent unless this process holds the number's lease, the copy of the holds is fresh, and the process has
//! not been frozen ([`gate`]); a call asks once more as it is written. An outcome is a fact: it is settled whatever
//! became of the lease meanwhile ([`settle`]). The line that sends is in [`send`].

pub mod clock;
pub mod gate;
pub mod settle;

mod agenda;
mod claim;
mod in_flight;
mod judge;
mod leases;
mod number;
mod pairs;
mod send;
mod slowed;
mod traffic;
mod turns;

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker::Wakes,
    providers,
    settings::Settings,
    store::{Store, registry::Directory},
};

/// Everything dispatch needs from the process around it.
#[derive(Debug)]
pub struct Dispatch {
    /// Settings of the process.
    pub settings: Arc<Settings>,
    /// The database.
    pub store: Store,
    /// The registry.
    pub directory: Directory,
    /// The adapters.
    pub providers: providers::Registry,
    /// Numbers that have new work, or no holder any more.
    pub wakes: Wakes,
}

/// What the parts of a running dispatch share.
#[derive(Debug)]
struct Shared {
    settings: Arc<Settings>,
    store: Store,
    directory: Directory,
    providers: providers::Registry,
    wakes: Wakes,
    gates: Arc<gate::Gates>,
    freeze: clock::FreezeGuard,
    settle: settle::Settler,
    /// Calls that ended accepted: counted for every message, so looked up once.
    accepted: metrics::Counter,
    traffic: traffic::Traffic,
    judge: judge::Judge,
    in_flight: in_flight::InFlight,
    hunger: Rc<agenda::Hunger>,
    slowed: slowed::Slowed,
    pairs: pairs::Pairs,
    /// Calls under way.
    calls: TaskTracker,
    /// Ends calls that outlive the drain.
    abandon: CancellationToken,
}

impl Dispatch {
    /// Runs on a thread of its own until `stop`, then drains: calls end, outcomes are settled, leases are given up.
    ///
    /// # Errors
    ///
    /// When the thread or its runtime cannot be made.
    pub fn spawn(self, stop: CancellationToken) -> std::io::Result<tokio::sync::oneshot::Receiver<()>> {
        let (done, finished) = tokio::sync::oneshot::channel();
        // Sends on one thread cost 1.7 times less than on two (measured with a stub that answers at once).
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("dispatch".to_owned()).spawn(move || {
            let local = tokio::task::LocalSet::new();
            runtime.block_on(local.run_until(self.run(stop)));
            // Nobody left to tell is no error: the process is ending anyway.
            done.send(()).ok();
        })?;
        Ok(finished)
    }

    async fn run(self, stop: CancellationToken) {
        let settings = Arc::clone(&self.settings);
        let hunger = Rc::new(agenda::Hunger::default());
        let gates = Arc::new(gate::Gates::new(Duration::from_millis(settings.dispatch.hold_refresh_ms)));
        let (settler, settling) = settle::start(&self.store, &settings, Arc::clone(&gates), Rc::clone(&hunger));
        let judge = judge::Judge::new(&settings, self.providers.clone());
        let shared = Rc::new(Shared {
            store: self.store,
            directory: self.directory,
            providers: self.providers,
            wakes: self.wakes,
            gates: Arc::clone(&gates),
            freeze: clock::FreezeGuard::start(),
            settle: settler,
            accepted: send::counted("accepted"),
            traffic: traffic::Traffic::default(),
            judge,
            in_flight: in_flight::InFlight::new(settings.dispatch.in_flight_max),
            hunger,
            slowed: slowed::Slowed::default(),
            pairs: pairs::Pairs::new(&settings.pacing),
            calls: TaskTracker::new(),
            abandon: CancellationToken::new(),
            settings,
        });
        let background = CancellationToken::new();
        let refresh = tokio::task::spawn_local(gate::keep_fresh(
            gates,
            shared.store.clone(),
            shared.directory.clone(),
            background.clone(),
        ));
        let (lease_events, events) = mpsc::unbounded_channel();
        let keeper = leases::Keeper::new(&shared, lease_events);
        let keeping = tokio::task::spawn_local(keeper.run(background.clone()));

        let counting = tokio::task::spawn_local(traffic::keep_written(Rc::clone(&shared), background.clone()));

        let (claimer, express) = claim::claimers(&shared, events);
        tokio::join!(claimer.run(stop.clone()), express.run(stop));

        let drain = Duration::from_secs(shared.settings.dispatch.drain_s);
        shared.calls.close();
        if tokio::time::timeout(drain, shared.calls.wait()).await.is_err() {
            tracing::warn!("calls are still open at the end of the drain; their messages become uncertain");
            shared.abandon.cancel();
            shared.calls.wait().await;
        }
        shared.settle.close();
        if tokio::time::timeout(drain, settling).await.is_err() {
            tracing::error!(
                "the database did not take the last outcomes; their messages become uncertain after their claim"
            );
        }
        // The leases end last: until every outcome is settled, nobody else needs the numbers.
        background.cancel();
        keeping.await.ok();
        counting.await.ok();
        refresh.await.ok();
    }
}
