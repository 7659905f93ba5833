//! A process that is stopped beyond its lease in the middle of its calls, and goes on.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use campaign_dispatch::simulator::{Fault, FaultAction, FaultMatch};
use secrecy::ExposeSecret as _;
use sqlx::PgConnection;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    process::{Child, Command},
    sync::watch,
};
use uuid::Uuid;

use super::support::{
    eventually::eventually,
    world::{KEY, Plan, World},
};

const SOON: Duration = Duration::from_secs(30);

/// A kernel asks for a connection again 1, 3, 7, 15, 31 and 63 s after it first did.
const ASKED_AGAIN: Duration = Duration::from_secs(70);

/// What was carried by connections, by the port of the caller's end.
type Carried = Arc<Mutex<HashMap<u16, Vec<u8>>>>;

/// A way to the provider that can be shut: then a connection that is new waits in its caller's kernel.
struct Relay {
    address: SocketAddr,
    carried: Carried,
    is_open: watch::Sender<bool>,
}

impl Relay {
    fn start(provider: &str) -> Self {
        let provider: SocketAddr = provider.strip_prefix("http://").unwrap().parse().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        // So few that a test can fill the queue of those that are not accepted yet.
        let listener = socket.listen(1).unwrap();
        let (is_open, open) = watch::channel(true);
        let relay = Self { address: listener.local_addr().unwrap(), carried: Carried::default(), is_open };
        tokio::spawn(accept(listener, open, provider, Arc::clone(&relay.carried)));
        relay
    }

    /// How many calls were written.
    fn calls(&self) -> usize {
        let carried = self.carried.lock().unwrap();
        carried.values().map(|bytes| String::from_utf8_lossy(bytes).matches("POST /").count()).sum()
    }

    /// How many bytes each of these carried that stands.
    fn carried_by(&self, ports: &HashSet<u16>) -> Vec<usize> {
        let carried = self.carried.lock().unwrap();
        ports.iter().filter_map(|port| carried.get(port)).map(Vec::len).collect()
    }

    /// Shuts it, and fills the queue; whoever comes now waits until what is returned is dropped and it is open again.
    async fn shut(&self) -> Vec<TcpStream> {
        self.is_open.send(false).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(self.address)).await
        {
            waiting.push(stream.unwrap());
        }
        waiting
    }

    fn open(&self) {
        self.is_open.send(true).unwrap();
    }

    /// The ports of those that wait for a connection.
    fn waiting(&self) -> HashSet<u16> {
        // sl, local address, remote address, state (02: the connection was asked for), …; numbers in hexadecimal.
        let remote = format!("0100007F:{:04X}", self.address.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row.get(2) == Some(&remote.as_str()) && row.get(3) == Some(&"02"))
            .map(|row| u16::from_str_radix(row[1].split_once(':').unwrap().1, 16).unwrap())
            .collect()
    }
}

async fn accept(listener: TcpListener, mut open: watch::Receiver<bool>, provider: SocketAddr, carried: Carried) {
    while open.wait_for(|is_open| *is_open).await.is_ok() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = open.wait_for(|is_open| !*is_open) => continue,
        };
        let (stream, from) = accepted.unwrap();
        carried.lock().unwrap().entry(from.port()).or_default();
        tokio::spawn(forward(stream, from.port(), provider, Arc::clone(&carried)));
    }
}

async fn forward(stream: TcpStream, port: u16, provider: SocketAddr, carried: Carried) -> io::Result<()> {
    let (mut calls, mut answers) = stream.into_split();
    let (mut their_answers, mut their_calls) = TcpStream::connect(provider).await?.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut their_answers, &mut answers).await });
    let mut bytes = vec![0; 1 << 16];
    loop {
        let read = calls.read(&mut bytes).await?;
        if read == 0 {
            break;
        }
        carried.lock().unwrap().entry(port).or_default().extend(&bytes[..read]);
        their_calls.write_all(&bytes[..read]).await?;
    }
    drop(their_calls);
    back.await?.map(drop)
}

/// A process that only sends, with a lease of three seconds.
fn serve(world: &World) -> Child {
    Command::new(env!("CARGO_BIN_EXE_campaign-dispatch"))
        .args(["serve", "--roles", "dispatch"])
        .env("DATABASE_URL", world.database.url().expose_secret())
        // No role of it needs the broker.
        .env("AMQP_URL", "amqp://127.0.0.1:1")
        .env("DISPATCH__SECRETS__KEY", hex::encode(KEY))
        // It shall still be connecting when it goes on.
        .env("DISPATCH__PROVIDER__CONNECT_TIMEOUT_MS", "14000")
        .env("DISPATCH__LEASE__TTL_S", "3")
        .env("DISPATCH__LEASE__RENEW_S", "1")
        .env("DISPATCH__LEASE__MARGIN_S", "1")
        .env("DISPATCH__DISPATCH__POLL_MS", "100")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Sends a signal to a process of ours.
async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().await.unwrap().success());
}

/// Where processes that start from now on find the provider; those that run do not read it again.
async fn provider_is_at(connection: &mut PgConnection, url: &str) {
    sqlx::query("UPDATE account SET base_url = $1").bind(url).execute(connection).await.unwrap();
}

/// Waits until another worker than `but` holds the number.
async fn holder(connection: &mut PgConnection, but: Option<Uuid>) -> Uuid {
    eventually("somebody holds the number", SOON, async || {
        sqlx::query_scalar(
            "SELECT worker_id FROM number_lease WHERE worker_id IS DISTINCT FROM $1 AND worker_id IS NOT NULL",
        )
        .bind(but)
        .fetch_optional(&mut *connection)
        .await
        .unwrap()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_frozen_past_its_lease_writes_nothing_more_and_settles_what_it_knows() {
    const AT_ONCE: usize = 4;
    let world = World::start(Plan::default()).await;
    let relay = Relay::start(&world.simulator.url());
    let number = world.number(1);
    let mut connection = world.database.connect().await;
    provider_is_at(&mut connection, &format!("http://{}", relay.address)).await;
    // Long enough under way that a process can be stopped meanwhile.
    world.simulator.add_fault(Fault { when: FaultMatch::default(), action: FaultAction::Slow(1_000) });
    let mut frozen = serve(&world);
    let first = holder(&mut connection, None).await;
    // These leave connections behind that are free.
    world.batch(number, "offer", 0, i32::try_from(AT_ONCE).unwrap()).await;
    world.all_called(SOON).await;

    // Some of these go out on free connections, the others wait for one.
    let queue = relay.shut().await;
    let batch = world.batch(number, "offer", 10_000, 20).await;
    let waiting = eventually("calls are under way, others wait for a connection", SOON, async || {
        let waiting = relay.waiting();
        (!waiting.is_empty() && relay.calls() > AT_ONCE).then_some(waiting)
    })
    .await;
    signal(&frozen, "STOP").await;
    drop(queue);
    relay.open();
    provider_is_at(&mut connection, &world.simulator.url()).await;
    let mut other = serve(&world);
    eventually("a connection stands", ASKED_AGAIN, async || (!relay.carried_by(&waiting).is_empty()).then_some(()))
        .await;
    holder(&mut connection, Some(first)).await;
    let written = relay.calls();
    world.batch(number, "offer", 20_000, 10).await;
    eventually("the other one sends", SOON, async || {
        (world.ledger().totals.accepted > u64::try_from(written).unwrap()).then_some(())
    })
    .await;

    signal(&frozen, "CONT").await;
    let counts = world.all_called(SOON).await;
    assert_eq!(relay.calls(), written, "nothing is written after the lease");
    assert!(relay.carried_by(&waiting).iter().all(|bytes| *bytes == 0));
    assert_eq!((counts.sent(), counts.of("uncertain")), (34, 0), "{counts:?}");
    // No callback tells of these: whoever called knows, and the others were called by who holds the number now.
    let known: i64 =
        sqlx::query_scalar("SELECT count(*) FROM message WHERE batch_id = $1 AND attempt = 1 AND state = 'accepted'")
            .bind(batch.0)
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(usize::try_from(known).unwrap(), written - AT_ONCE);
    let totals = world.ledger().totals;
    assert_eq!((totals.accepted, totals.doubled), (34, 0));

    for child in [&mut frozen, &mut other] {
        signal(child, "TERM").await;
        assert!(tokio::time::timeout(SOON, child.wait()).await.unwrap().unwrap().success());
    }
    drop(connection);
    world.finish().await;
}
