//! Composition: one process with roles, started in order and drained in order.

mod telemetry;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use telemetry::{init_tracing, metrics_handle};

use crate::{
    broker::{Broker, BrokerError, BrokerOptions},
    callbacks, campaigns,
    dispatch::Dispatch,
    domain::{address, named},
    http::{self, Check, HttpState, Readiness},
    intake::{self, Intake},
    providers::{self, http::HttpClient},
    settings::{Settings, SettingsError},
    store::{Store, StoreError, chain, messages::Rules, registry::Directory, vault::Vault},
    upkeep::{
        self, Nudge, Upkeep,
        alarms::Watch,
        alive::Heart,
        janitor::Janitor,
        notify::{CannotNotify, Notifier, Ways},
    },
};

named! {
    /// What a process does. Together they are the whole product; any number of processes may share them.
    pub enum Role {
        /// Takes jobs from the queues and makes the messages of large audiences.
        Intake = "intake",
        /// Sends.
        Dispatch = "dispatch",
        /// Applies callbacks.
        Callbacks = "callbacks",
        /// Answers the API and takes callbacks.
        Http = "http",
        /// Fires campaigns by the clock.
        Campaigns = "campaigns",
        /// Repairs, and publishes what is owed.
        Upkeep = "upkeep",
    }
}

/// Why a process does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The database is not there or not as it must be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker's address is wrong.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// No HTTP client.
    #[error(transparent)]
    Client(#[from] providers::http::NoHttpClient),
    /// The address cannot be listened on.
    #[error("could not listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody on duty can be told anything.
    #[error(transparent)]
    Notify(#[from] CannotNotify),
    /// The dispatch thread did not start.
    #[error("could not start the dispatch thread: {0}")]
    Thread(std::io::Error),
    /// A task ended that never should.
    #[error("`{0}` ended by itself; the process stops so that its service manager starts it anew")]
    TaskEnded(&'static str),
}

/// A running process.
pub struct Server {
    /// Where the API listens, with the role http.
    pub address: Option<SocketAddr>,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<Result<(), AppError>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts the drain; [`Server::ended`] says when it is over.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until everything has ended.
    pub async fn ended(&mut self) -> Result<(), AppError> {
        (&mut self.done).await.unwrap_or(Err(AppError::TaskEnded("supervisor")))
    }
}

/// Starts the roles. Postgres must be there, with the right schema; RabbitMQ may come later.
pub async fn start(settings: Arc<Settings>, roles: &[Role]) -> Result<Server, AppError> {
    raise_open_files(settings.dispatch.in_flight_max);
    let store = Store::new(&settings.database.url, settings.database.connections)?;
    store.check_schema().await?;
    // Before anything is sent: the database may have gone back in time.
    let mut heart = Heart::new(&store, &settings);
    heart.beat().await?;
    let directory = Directory::new(store.clone(), Vault::new(settings.secret_key()?));
    directory.refresh().await?;
    address::warm_up();
    let providers = providers::registry(&HttpClient::new(&settings.provider)?);

    let stop = CancellationToken::new();
    // The broker outlives the drain: what is owed at the end is still published.
    let broker_stop = CancellationToken::new();
    let broker = Broker::start(&BrokerOptions::from_settings(&settings.broker), broker_stop.clone())?;
    let (intake, lanes) =
        Intake::new(store.clone(), directory.clone(), &broker, settings.intake.clone(), settings.canary.clone());
    let nudge = roles.contains(&Role::Upkeep).then(Arc::<Nudge>::default);
    let parts = Parts { settings, store, directory, providers, broker, intake, nudge };

    let mut tasks = Tasks::default();
    let address = if roles.contains(&Role::Http) { Some(parts.listen(&mut tasks, &stop).await?) } else { None };
    parts.take_jobs(&mut tasks, lanes, roles, &stop);
    if roles.contains(&Role::Callbacks) {
        let (store, directory) = (&parts.store, parts.directory.clone());
        let applier = callbacks::Applier::new(store, directory, parts.providers.clone(), Arc::clone(&parts.settings));
        tasks.spawn("callbacks", applier.run(parts.broker.clone(), stop.clone()));
    }
    if roles.contains(&Role::Campaigns) {
        let settings = parts.settings.campaigns.clone();
        let ticker = campaigns::Ticker::new(&parts.store, settings, parts.intake.outbox_nudge());
        tasks.spawn("campaigns", ticker.run(stop.clone()));
    }
    if let Some(nudge) = &parts.nudge {
        let (store, settings) = (&parts.store, || Arc::clone(&parts.settings));
        let upkeep = Upkeep::new(store, parts.broker.clone(), settings(), Arc::clone(nudge));
        tasks.spawn("upkeep", upkeep.run(stop.clone()));
        tasks.spawn("janitor", Janitor::new(store, settings(), Arc::clone(nudge), stop.clone()).run());
        parts.keep_watch(&mut tasks, nudge, &stop)?;
        tasks.spawn("sign of life", heart.run(stop.clone()));
    }
    if roles.contains(&Role::Dispatch) {
        let ended = parts.dispatch().spawn(stop.clone()).map_err(AppError::Thread)?;
        tasks.spawn("dispatch", async move {
            ended.await.ok();
        });
    }
    // Publishing what is owed ends after everything that may owe.
    let relay_stop = CancellationToken::new();
    let mut last = Tasks::default();
    if roles.contains(&Role::Upkeep) {
        let relay = upkeep::outbox::Relay::new(parts.store.clone(), &parts.broker, parts.intake.outbox_nudge());
        last.spawn("outbox", relay.run(relay_stop.clone()));
    }
    let done = tokio::spawn(supervise(tasks, last, stop.clone(), relay_stop, broker_stop, parts.broker));
    Ok(Server { address, stop, done })
}

/// Runs the roles until a signal, then drains. A second signal ends at once.
pub async fn serve(settings: Arc<Settings>, roles: &[Role]) -> Result<(), AppError> {
    let drain_s = settings.dispatch.drain_s;
    let mut server = start(settings, roles).await?;
    if let Some(address) = server.address {
        tracing::info!(%address, "serving; SIGTERM drains within {drain_s} s, which must be less than the service manager's kill");
    }
    tokio::select! {
        ended = server.ended() => return ended,
        () = signalled() => {}
    }
    tracing::info!("draining; a second signal ends at once");
    server.stop();
    tokio::select! {
        ended = server.ended() => ended,
        () = signalled() => {
            tracing::warn!("ending at once; open calls become uncertain after their claim");
            Ok(())
        }
    }
}

async fn signalled() {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
    let terminated = async {
        match &mut terminate {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}

/// What every role is made of.
struct Parts {
    settings: Arc<Settings>,
    store: Store,
    directory: Directory,
    providers: providers::Registry,
    broker: Broker,
    intake: Intake,
    /// Wakes upkeep, with that role.
    nudge: Option<Arc<Nudge>>,
}

impl Parts {
    async fn listen(&self, tasks: &mut Tasks, stop: &CancellationToken) -> Result<SocketAddr, AppError> {
        let address = self.settings.http.listen;
        let listen = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen.await.map_err(|source| AppError::Listen { address, source })?;
        let receiver = callbacks::Receiver::start(
            self.directory.clone(),
            self.providers.clone(),
            &self.broker,
            self.settings.callbacks.group_max,
            stop.clone(),
        );
        let state = HttpState {
            store: self.store.clone(),
            directory: self.directory.clone(),
            intake: self.intake.clone(),
            providers: self.providers.clone(),
            metrics: metrics_handle(),
            readiness: self.readiness(),
            settings: self.settings.http.clone(),
            inline_bytes: self.settings.intake.inline_bytes,
            campaigns: self.settings.campaigns.clone(),
            rules: Rules {
                grace: Duration::from_secs(self.settings.uncertain.grace_s),
                events: self.settings.events.wanted(),
            },
            upkeep: self.nudge.clone(),
            broker: self.broker.clone(),
        };
        let router = http::router(state).merge(callbacks::routes(receiver));
        let (stop, directory) = (stop.clone(), self.directory.clone());
        tasks.spawn("directory", keep_directory(directory, stop.clone()));
        tasks.spawn("http", async move {
            let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
            tokio::select! {
                ended = serving => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the API ended");
                    }
                }
                // Idle keep-alive connections do not end by themselves.
                () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_secs(5)).await } => {}
            }
        });
        Ok(address)
    }

    fn take_jobs(&self, tasks: &mut Tasks, lanes: [intake::IntakeLane; 2], roles: &[Role], stop: &CancellationToken) {
        let queues = roles.contains(&Role::Intake);
        if queues || roles.contains(&Role::Http) {
            for mut lane in lanes {
                if !queues {
                    lane.leave_queue();
                }
                tasks.spawn("intake", lane.run(stop.clone()));
            }
        }
        if queues {
            tasks.spawn("planner", self.intake.planner().run(stop.clone()));
            tasks.spawn(
                "dead letters",
                intake::dead::DeadLetters::new(self.store.clone(), self.directory.clone(), &self.broker)
                    .run(stop.clone()),
            );
        }
    }

    /// Looks for alarms, and tells them to people.
    fn keep_watch(&self, tasks: &mut Tasks, nudge: &Arc<Nudge>, stop: &CancellationToken) -> Result<(), CannotNotify> {
        let (store, settings) = (&self.store, || Arc::clone(&self.settings));
        let notifier = Notifier::new(store, Ways::new(&self.settings.notify)?);
        let watch = Watch::new(store, self.broker.clone(), settings(), Arc::clone(nudge), &notifier);
        tasks.spawn("alarms", watch.run(self.intake.outbox_nudge(), stop.clone()));
        tasks.spawn("notifications", notifier.run(stop.clone()));
        Ok(())
    }

    fn dispatch(&self) -> Dispatch {
        Dispatch {
            settings: Arc::clone(&self.settings),
            store: self.store.clone(),
            directory: self.directory.clone(),
            providers: self.providers.clone(),
            wakes: self.broker.wakes().clone(),
        }
    }

    /// Ready when Postgres answers with the right schema. The broker is told and does not count: jobs by HTTP and the
    /// sending go on without it.
    fn readiness(&self) -> Readiness {
        let (store, broker) = (self.store.clone(), self.broker.clone());
        Arc::new(move || {
            let (store, broker) = (store.clone(), broker.clone());
            Box::pin(async move {
                let schema = store.check_schema_again().await.map_err(|error| chain(&error));
                let detail = schema.as_ref().err().cloned().unwrap_or_default();
                let connected =
                    if broker.is_connected() { "connected" } else { "not connected; jobs by AMQP and callbacks wait" };
                vec![
                    Check { name: "postgres".into(), ok: schema.is_ok(), detail },
                    Check { name: "rabbitmq".into(), ok: true, detail: connected.to_owned() },
                ]
            })
        })
    }
}

/// Follows changes of the registry for the API of a process that does not dispatch.
async fn keep_directory(directory: Directory, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = directory.refresh().await {
            tracing::debug!(error = %chain(&error), "could not read the registry");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Tasks by name, so that one that ends early is named.
#[derive(Default)]
struct Tasks(JoinSet<&'static str>);

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }
}

/// Waits for the stop, or for a task that ended without it; then ends everything in order.
async fn supervise(
    mut tasks: Tasks,
    mut last: Tasks,
    stop: CancellationToken,
    relay_stop: CancellationToken,
    broker_stop: CancellationToken,
    broker: Broker,
) -> Result<(), AppError> {
    let upkeep = async {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            metrics_handle().run_upkeep();
        }
    };
    let early = tokio::select! {
        // First: after the stop every task ends, and none of them too early.
        biased;
        () = stop.cancelled() => None,
        Some(ended) = tasks.0.join_next() => Some(ended.unwrap_or("a task (it panicked)")),
        Some(ended) = last.0.join_next() => Some(ended.unwrap_or("outbox (it panicked)")),
        () = upkeep => None,
    };
    stop.cancel();
    while tasks.0.join_next().await.is_some() {}
    relay_stop.cancel();
    while last.0.join_next().await.is_some() {}
    broker_stop.cancel();
    broker.closed().await;
    early.map_or(Ok(()), |name| Err(AppError::TaskEnded(name)))
}

/// Every open call is a connection: a process that may not have enough of them would fail calls that are due.
fn raise_open_files(in_flight_max: usize) {
    let wanted = u64::try_from(in_flight_max).unwrap_or(2000) * 2 + 1024;
    match rlimit::increase_nofile_limit(wanted.max(16_384)) {
        Ok(limit) if limit >= wanted => {}
        Ok(limit) => {
            tracing::warn!(limit, wanted, "too few open files for dispatch.in_flight_max; raise the limit (ulimit -n)");
        }
        Err(error) => tracing::warn!(%error, "could not raise the limit of open files"),
    }
}
