//! A strict, wire-exact stand-in for the WhatsApp Cloud API (`campaign-dispatch simulate`).
//!
//! People rehearse on it, and every proof about sending is counted in it: it checks each call as the provider does
//! ([`gate`]), notes when it arrived ([`limits`]) and whether its message was taken before ([`ledger`]), tells by signed
//! callbacks what became of it ([`callbacks`], [`delivery`]) and misbehaves on request ([`faults`]).
//!
//! ```text
//! POST /v25.0/{number}/messages ─▶ arrival noted ─▶ gate ─▶ faults ─▶ ledger + callbacks planned ─▶ answer
//! ```
//!
//! A number's limit is enforced as a half-open sliding second: a call is refused with 130429 when more than `limit` calls
//! arrived in the second that ends with it, refused ones included. The time is taken before the body is read. The
//! simulator records its own stalls ([`stalls`]) and does not judge seconds that touch one.
//!
//! # Recipients that misbehave
//!
//! By the last four digits of the recipient, unless switched off: 0026, 0049, 0050, 0472, 0403, 0042 are accepted and
//! fail by callback with 131026, 131049, 131050, 130472, 130403, 131042. 9000 is refused with 500/131000; 9001 is taken
//! and the connection cut; 9002 answers after 5 s; 9003 is 502 with HTML, not taken; 9004 is taken and answered with
//! 500/131000; 9005 is refused with 131008; 9006 is cut and not taken; 9007 is held for quality and then sent; 9008 is
//! held and then dropped. Callbacks: 9010 none, 9011 twice, 9012 reordered, 9013 5 s late, 9014 a forged one too.
//!
//! # Control
//!
//! Everything under `/_sim/` ([`control`]): ledger, faults, webhooks, settings, reset. It needs no token: the simulator
//! is for a machine of one's own, and listens on 127.0.0.1 unless told otherwise.

mod answer;
mod callbacks;
pub mod cli;
mod connection;
mod control;
mod delivery;
mod effects;
mod errors;
mod faults;
mod gate;
mod ledger;
mod limits;
mod parameters;
mod report;
mod stalls;
mod template;
#[cfg(test)]
mod tests;
mod wire;
mod world;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{
    callbacks::{CallbackCounts, Telling},
    faults::{Fault, FaultAction, FaultMatch, FaultSpecError, SUFFIXES},
    ledger::Totals,
    report::{Judgement, LedgerReport, MessageLine, NumberReport},
    world::RegistryProblem,
};
use self::{
    connection::{Cut, CuttableListener},
    delivery::Posting,
    effects::Faults,
    ledger::Ledger,
    stalls::{Clock, Stalls},
    world::World,
};
use crate::registry::file::RegistryFile;

/// How a simulator is set up.
#[derive(Debug, Clone)]
pub struct SimulatorSettings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The accounts, numbers and templates it stands in for.
    pub registry: RegistryFile,
    /// The folder that file paths of the registry's credentials are relative to.
    pub base_dir: PathBuf,
    /// Where each account's callbacks go, by WABA id. May be set later ([`Running::set_webhook`]).
    pub webhooks: BTreeMap<String, String>,
    /// Decides every draw of a probability.
    pub seed: u64,
    /// When statuses are told.
    pub telling: Telling,
    /// Statuses in one callback POST at most.
    pub callback_batch: usize,
    /// Callback POSTs of one account on the wire at most.
    pub callback_concurrency: usize,
    /// Faults in force from the start.
    pub faults: Vec<Fault>,
    /// Whether recipients misbehave by their last four digits ([`SUFFIXES`]).
    pub suffix_faults: bool,
    /// Whether to ask for a higher priority of the thread that watches for stalls.
    pub raise_ticker: bool,
}

impl SimulatorSettings {
    /// The usual settings: a free port of 127.0.0.1, callbacks after 50, 100 and 150 ms, no faults but by suffix.
    pub fn new(registry: RegistryFile, base_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            registry,
            base_dir: base_dir.into(),
            webhooks: BTreeMap::new(),
            seed: 1,
            telling: Telling::default(),
            callback_batch: 100,
            callback_concurrency: 8,
            faults: Vec::new(),
            suffix_faults: true,
            raise_ticker: false,
        }
    }
}

/// Why a simulator did not start, or what was asked of it was refused.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The registry cannot be stood in for.
    #[error("the registry cannot be simulated: {}", listed(.0))]
    Registry(Vec<RegistryProblem>),
    /// The address cannot be listened on.
    #[error("could not listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that watches for stalls did not start.
    #[error("could not start the ticker")]
    Ticker(#[source] io::Error),
    /// The HTTP client for callbacks did not start.
    #[error("could not start the HTTP client for callbacks")]
    Client(#[source] reqwest::Error),
    /// A webhook names an account the registry does not have.
    #[error("no account has the WABA id {0}")]
    UnknownAccount(String),
    /// A webhook is not a URL.
    #[error("`{0}` is not an http or https URL")]
    NotAUrl(String),
    /// A number is named that the registry does not have.
    #[error("no number has the id {0}")]
    UnknownNumber(String),
}

/// All problems with the causes the enum's `Display` leaves out: this is the only place a person sees them.
fn listed(problems: &[RegistryProblem]) -> String {
    let told = problems.iter().map(|problem| match problem {
        RegistryProblem::Secret { source, .. } => format!("{problem}: {source}"),
        _ => problem.to_string(),
    });
    told.collect::<Vec<_>>().join("; ")
}

/// The state behind the handlers.
#[derive(Debug)]
pub(in crate::simulator) struct Simulator {
    clock: Clock,
    world: World,
    ledger: Ledger,
    stalls: Arc<Stalls>,
    faults: Faults,
    suffix_faults: AtomicBool,
    telling: RwLock<Telling>,
    serial: AtomicU64,
    /// Tells the message ids of one run from those of another.
    run: u32,
}

impl Simulator {
    fn set_webhook(&self, waba_id: &str, url: Option<&str>) -> Result<(), SimulatorError> {
        let account = self.world.account(waba_id).ok_or_else(|| SimulatorError::UnknownAccount(waba_id.to_owned()))?;
        if let Some(url) = url {
            let is_url = reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
            if !is_url {
                return Err(SimulatorError::NotAUrl(url.to_owned()));
            }
        }
        account.outbox.set_url(url.map(str::to_owned));
        Ok(())
    }

    /// Forgets what happened: counts, arrivals, buckets, owed callbacks. Webhooks, faults and settings stay.
    fn reset(&self) {
        self.ledger.clear();
        self.stalls.clear();
        for account in &self.world.accounts {
            account.outbox.clear();
        }
        for number in &self.world.numbers {
            let mut state = locked(&number.state);
            state.arrivals.clear();
            state.pairs.clear();
            (state.accepted, state.throttled) = (0, 0);
        }
    }
}

/// A simulator at work. It ends when told to, or when this is dropped.
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    simulator: Arc<Simulator>,
    ended: CancellationToken,
    join: JoinHandle<()>,
    _guard: DropGuard,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Running {
    /// What an account's `base_url` must be to reach it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Cancelling it ends the simulator.
    pub fn shutdown(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Sets or clears where an account's callbacks go.
    pub fn set_webhook(&self, waba_id: &str, url: Option<&str>) -> Result<(), SimulatorError> {
        self.simulator.set_webhook(waba_id, url)
    }

    /// Adds a fault and returns its id.
    pub fn add_fault(&self, fault: Fault) -> u64 {
        self.simulator.faults.add(fault)
    }

    /// Ends one fault, or all.
    pub fn clear_faults(&self, id: Option<u64>) -> usize {
        self.simulator.faults.remove(id)
    }

    /// What happened so far.
    pub fn ledger(&self) -> LedgerReport {
        report::ledger(&self.simulator)
    }

    /// Forgets what happened so far; webhooks, faults and settings stay.
    pub fn reset(&self) {
        self.simulator.reset();
    }

    /// Waits until it has ended by itself or by [`Running::shutdown`].
    pub async fn ended(&mut self) {
        // The task neither panics nor is aborted; if it were, it would have ended all the same.
        (&mut self.join).await.ok();
    }

    /// Ends it and waits until it has ended. Callbacks still owed are not told.
    pub async fn stop(mut self) {
        self.ended.cancel();
        self.ended().await;
    }
}

/// Starts a simulator on the current runtime.
pub async fn start(settings: SimulatorSettings) -> Result<Running, SimulatorError> {
    let world = World::new(&settings.registry, &settings.base_dir).map_err(SimulatorError::Registry)?;
    let simulator = Arc::new(Simulator {
        clock: Clock::start(),
        world,
        ledger: Ledger::default(),
        stalls: Arc::default(),
        faults: Faults::new(settings.seed, settings.faults),
        suffix_faults: AtomicBool::new(settings.suffix_faults),
        telling: RwLock::new(settings.telling),
        serial: AtomicU64::new(0),
        run: rand::random(),
    });
    for (waba_id, url) in &settings.webhooks {
        simulator.set_webhook(waba_id, Some(url))?;
    }
    let client = client()?;
    let refused = |source| SimulatorError::Listen { address: settings.listen, source };
    let listener = TcpListener::bind(settings.listen).await.map_err(refused)?;
    let addr = listener.local_addr().map_err(refused)?;
    simulator.stalls.watch(simulator.clock, settings.raise_ticker).map_err(SimulatorError::Ticker)?;

    let posting = Posting { batch: settings.callback_batch.max(1), concurrency: settings.callback_concurrency };
    let ended = CancellationToken::new();
    let join = tokio::spawn(serve(Arc::clone(&simulator), listener, client, posting, ended.clone()));
    Ok(Running { addr, simulator, _guard: ended.clone().drop_guard(), ended, join })
}

/// How long the end waits for calls in progress; a slow answer may take longer and is left to itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers calls and posts callbacks until `ended`, then closes the connections that wait for a call.
async fn serve(
    simulator: Arc<Simulator>,
    listener: TcpListener,
    client: reqwest::Client,
    posting: Posting,
    ended: CancellationToken,
) {
    let tracker = TaskTracker::new();
    for account in &simulator.world.accounts {
        let (account, client, ended) = (Arc::clone(account), client.clone(), ended.clone());
        tracker.spawn(delivery::run(account, client, simulator.clock, posting, ended));
    }
    tracker.close();
    let service = control::router(Arc::clone(&simulator)).into_make_service_with_connect_info::<Cut>();
    let server =
        axum::serve(CuttableListener(listener), service).with_graceful_shutdown(ended.clone().cancelled_owned());
    let patience = async {
        ended.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        _ = server => {}
        () = patience => {}
    }
    ended.cancel();
    tracker.wait().await;
    simulator.stalls.end();
}

fn client() -> Result<reqwest::Client, SimulatorError> {
    // Refused only when a provider is installed already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(10))
        .build()
        .map_err(SimulatorError::Client)
}

/// A lock is poisoned only by a panic while it was held; the simulator's counts are worth showing even then.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_locked<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_locked<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn count_up(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}
