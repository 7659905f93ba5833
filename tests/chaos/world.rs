//! Everything a run needs: a database of its own, the simulator, several `serve`, and relays between all of them.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use campaign_dispatch::broker::Topology;
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{
    children::{self, Environment, Process},
    rare::Counters,
    registry::{self, ACCOUNTS, Number, WABAS},
    relays::Relay,
    services::{Services, address, through},
    simulator::Simulator,
    wire::Wire,
};

/// How a world is set up.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) workers: usize,
    /// Each number's limit, and its account: 0 or 1.
    pub(crate) limits: Vec<(u32, usize)>,
    pub(crate) seed: u64,
    pub(crate) is_cluster: bool,
    /// Whether connections go through relays. Without: nothing stands between sender and judge.
    pub(crate) relayed: bool,
    /// More settings of `serve`.
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// A `serve` with its relays.
#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) postgres: Option<Relay>,
    pub(crate) rabbitmq: Option<Relay>,
}

/// The world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) began: Instant,
    /// Faults done so far.
    pub(crate) rounds: AtomicU64,
    pub(crate) folder: PathBuf,
    pub(crate) numbers: Vec<Number>,
    pub(crate) serves: Vec<Arc<Serve>>,
    pub(crate) simulator: Arc<Simulator>,
    /// Between every `serve` and the simulator.
    pub(crate) provider: Option<Relay>,
    /// Between the simulator and every `serve`.
    pub(crate) hook: Relay,
    pub(crate) services: Services,
    pub(crate) counters: Arc<Counters>,
    pub(crate) topology: Topology,
    pub(crate) amqp: String,
    pub(crate) token: String,
    environment: Environment,
    admin: String,
    database: String,
}

/// Ports below those of outgoing connections, so that a killed process finds its own free again.
fn free_port() -> anyhow::Result<u16> {
    for _ in 0..200 {
        let port = rand::random_range(20_000..30_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port")
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn with_database(url: &str, name: &str) -> anyhow::Result<String> {
    let mut url = reqwest::Url::parse(url)?;
    url.set_path(name);
    Ok(url.to_string())
}

impl World {
    /// Builds it; every `serve` is ready afterwards.
    pub(crate) async fn start(plan: &Plan) -> anyhow::Result<Self> {
        let run = format!("{:08x}", rand::random::<u32>());
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/chaos").join(&run);
        std::fs::create_dir_all(&folder)?;
        println!("logs: {}", folder.display());
        let admin = std::env::var("DATABASE_URL").context("DATABASE_URL")?;
        let amqp = std::env::var("AMQP_URL").context("AMQP_URL")?;
        // Producers go to whichever node lives.
        let producers = Relay::start("producers and RabbitMQ", brokers(&amqp)?).await?;
        let database = with_database(&admin, &format!("chaos_{run}"))?;
        let create = format!("CREATE DATABASE chaos_{run}");
        PgConnection::connect(&admin).await?.execute(sqlx::AssertSqlSafe(create)).await?;
        let numbers = registry::numbers(&plan.limits);
        let simulated = local(free_port()?);
        let wire = Wire::start()?;
        let provider = if plan.relayed { Some(wire.relay("provider", simulated).await?) } else { None };
        let base_url = format!("http://{}", provider.as_ref().map_or(simulated, |relay| relay.address));
        let registry = folder.join("registry.json");
        std::fs::write(&registry, serde_json::to_vec_pretty(&registry::registry(&numbers, &base_url))?)?;

        let mut environment = environment(&database, &amqp, &run, plan);
        children::run(&["migrate"], &environment).await?;
        let token = make_token(&environment).await?;
        environment.insert("DISPATCH__CLIENT__TOKEN".to_owned(), token.clone());
        let simulator = simulate(&registry, simulated, plan.seed, &environment, &folder).await?;
        if plan.relayed {
            wire.report_to(Arc::clone(&simulator));
        }
        let mut serves = Vec::new();
        for index in 0..plan.workers {
            serves.push(Arc::new(serve(index, plan, &environment, (&database, &amqp), &folder).await?));
        }
        let hook = Relay::start("webhook", serves.iter().map(|serve| serve.address).collect()).await?;
        let world = Self {
            began: Instant::now(),
            rounds: AtomicU64::new(0),
            folder,
            numbers,
            serves,
            simulator,
            provider,
            hook,
            services: Services::find(plan.is_cluster).await,
            counters: Arc::default(),
            topology: Topology::with_prefix(&format!("chaos-{run}")),
            amqp: through(&amqp, producers.address)?,
            token,
            environment,
            admin,
            database,
        };
        world.introduce(&registry).await?;
        Ok(world)
    }

    /// Starts every `serve`, tells them what they send from, and the simulator where callbacks go.
    async fn introduce(&self, registry: &Path) -> anyhow::Result<()> {
        for serve in &self.serves {
            serve.process.start().await?;
            self.ready(serve).await?;
        }
        self.cli(&["accounts", "apply", &registry.display().to_string()]).await?;
        for (account, waba) in ACCOUNTS.iter().zip(WABAS) {
            let shown: Value = serde_json::from_str(&self.cli(&["accounts", "show", account, "--json"]).await?)?;
            let path = shown[0]["hook_path"].as_str().or(shown["items"][0]["hook_path"].as_str());
            let path = path.context("accounts show names the callback path")?;
            self.simulator.set_webhook(waba, &format!("http://{}{path}", self.hook.address)).await?;
        }
        Ok(())
    }

    /// Waits until a `serve` has its database and broker.
    pub(crate) async fn ready(&self, serve: &Serve) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
        for _ in 0..600 {
            if let Ok(answer) = client.get(format!("http://{}/readyz", serve.address)).send().await
                && answer.text().await.is_ok_and(|text| text.contains("\"connected\""))
            {
                return Ok(());
            }
            anyhow::ensure!(!serve.process.has_ended().await, "{} ended by itself; see its log", serve.process.name);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("{} does not become ready", serve.process.name)
    }

    /// Runs a command of the program against one `serve` after the other until one answers.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut last = Ok(String::new());
        for serve in &self.serves {
            let mut environment = self.environment.clone();
            environment.insert("DISPATCH__CLIENT__URL".to_owned(), format!("http://{}", serve.address));
            last = children::run(arguments, &environment).await;
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// A connection to the database that no relay stands before.
    pub(crate) async fn connect(&self) -> anyhow::Result<PgConnection> {
        for _ in 0..100 {
            if let Ok(connection) = PgConnection::connect(&self.database).await {
                return Ok(connection);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(PgConnection::connect(&self.database).await?)
    }

    /// The account's registry file, with the environment that its secrets are read from.
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(crate) fn relays(&self) -> Vec<&Relay> {
        let own = self.serves.iter().flat_map(|serve| [&serve.postgres, &serve.rabbitmq]).flatten();
        own.chain(&self.provider).chain([&self.hook]).collect()
    }

    /// Prints a line with its time.
    pub(crate) fn say(&self, text: &str) {
        println!("{:7.1}s  {text}", self.began.elapsed().as_secs_f64());
    }

    /// Ends everything and takes away what it left in the servers; after a failure the database stays, to be looked at.
    pub(crate) async fn finish(self, keep: bool) -> anyhow::Result<()> {
        for serve in &self.serves {
            serve.process.thaw().await.ok();
            serve.process.terminate(Duration::from_secs(40)).await.ok();
            serve.process.kill().await?;
        }
        self.simulator.process.kill().await?;
        let connection = lapin::Connection::connect(&self.amqp, lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let description = self.topology.describe();
        for queue in description.queues {
            channel.queue_delete(queue.name.into(), lapin::options::QueueDeleteOptions::default()).await?;
        }
        for exchange in description.exchanges {
            channel.exchange_delete(exchange.name.into(), lapin::options::ExchangeDeleteOptions::default()).await?;
        }
        if keep {
            println!("kept for a look: {}", self.folder.display());
        } else {
            let name = self.database.rsplit('/').next().unwrap_or_default();
            let drop = format!("DROP DATABASE {name} WITH (FORCE)");
            PgConnection::connect(&self.admin).await?.execute(sqlx::AssertSqlSafe(drop)).await?;
            std::fs::remove_dir_all(&self.folder)?;
        }
        Ok(())
    }
}

fn environment(database: &str, amqp: &str, run: &str, plan: &Plan) -> Environment {
    let mut all: Vec<(&str, String)> = vec![
        ("DATABASE_URL", database.to_owned()),
        ("AMQP_URL", amqp.to_owned()),
        ("DISPATCH__BROKER__PREFIX", format!("chaos-{run}")),
        ("DISPATCH__BROKER__HEARTBEAT_S", "5".to_owned()),
        ("DISPATCH__BROKER__CONFIRM_TIMEOUT_MS", "5000".to_owned()),
        ("DISPATCH__SECRETS__KEY", "07".repeat(32)),
        ("DISPATCH__HTTP__REQUESTS_PER_S", "100000".to_owned()),
        // Faults of a quarter of an hour must not use a message up; a real provider is not this bad.
        ("DISPATCH__RETRY__CHARGED_CAP", "1000".to_owned()),
        ("DISPATCH__RETRY__CEILING_S", "5".to_owned()),
        ("DISPATCH__INTAKE__EXPIRES_AUTHENTICATION_S", "86400".to_owned()),
        // The shortest grace that is allowed with these timeouts.
        ("DISPATCH__PROVIDER__TIMEOUT_MS", "8000".to_owned()),
        ("DISPATCH__PROVIDER__CONNECT_TIMEOUT_MS", "2000".to_owned()),
        ("DISPATCH__UNCERTAIN__GRACE_S", "48".to_owned()),
        ("CHAOS_VERIFY", "verify".to_owned()),
        ("NO_COLOR", "1".to_owned()),
    ];
    if plan.relayed && cfg!(debug_assertions) {
        // Between the instant a call is logged and its bytes a build without optimisation on a busy machine may stand still
        // for longer than the jitter that the pace allows for.
        all.push(("DISPATCH__PACING__JITTER_MS", "40".to_owned()));
    }
    all.extend(plan.settings.iter().map(|(name, value)| (*name, value.clone())));
    let mut all: Environment = all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for account in 0..2 {
        all.insert(format!("CHAOS_TOKEN_{account}"), format!("token-{account}"));
        all.insert(format!("CHAOS_SECRET_{account}"), format!("secret-{account}"));
    }
    all
}

/// The first token is made on the database itself.
async fn make_token(environment: &Environment) -> anyhow::Result<String> {
    let command = "tokens create --name chaos --scope admin,operate,publish,read,pii --producer chaos --json";
    let made = children::run(&command.split(' ').collect::<Vec<_>>(), environment).await?;
    let made: Value = serde_json::from_str(&made)?;
    Ok(made["token"].as_str().context("tokens create prints the token")?.to_owned())
}

async fn simulate(
    registry: &Path,
    address: SocketAddr,
    seed: u64,
    environment: &Environment,
    folder: &Path,
) -> anyhow::Result<Arc<Simulator>> {
    let (registry, address_, seed) = (registry.display().to_string(), address.to_string(), seed.to_string());
    let mut arguments = vec!["simulate", "--registry", &registry, "--listen", &address_, "--seed", &seed];
    arguments.extend("--no-suffix-faults --callback-delay-ms 100 --read-share 0.5".split(' '));
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let process = Process::new("simulate", &arguments, environment.clone(), folder);
    Ok(Arc::new(Simulator::start(process, address).await?))
}

async fn serve(
    index: usize,
    plan: &Plan,
    environment: &Environment,
    (database, amqp): (&str, &str),
    folder: &Path,
) -> anyhow::Result<Serve> {
    let address_ = local(free_port()?);
    let mut environment = environment.clone();
    environment.insert("DISPATCH__HTTP__LISTEN".to_owned(), address_.to_string());
    let (mut postgres, mut rabbitmq) = (None, None);
    if plan.relayed {
        let relay = Relay::start(format!("serve-{index} and Postgres"), vec![address(database)?]).await?;
        environment.insert("DATABASE_URL".to_owned(), through(database, relay.address)?);
        postgres = Some(relay);
        let relay = Relay::start(format!("serve-{index} and RabbitMQ"), brokers(amqp)?).await?;
        environment.insert("AMQP_URL".to_owned(), through(amqp, relay.address)?);
        rabbitmq = Some(relay);
    }
    let process = Process::new(&format!("serve-{index}"), &["serve".to_owned()], environment, folder);
    Ok(Serve { process, address: address_, postgres, rabbitmq })
}

/// The broker, or every node of the cluster: a relay takes the next one when a node is down.
fn brokers(amqp: &str) -> anyhow::Result<Vec<SocketAddr>> {
    match std::env::var("CHAOS_AMQP_NODES") {
        Ok(nodes) => nodes.split_whitespace().map(address).collect(),
        Err(_) => Ok(vec![address(amqp)?]),
    }
}
