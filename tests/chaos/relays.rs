//! TCP relays between the processes: each can cut, go deaf or mute, slow down, and let through again.
//!
//! Bytes that a cut or half-open relay holds are dropped and never delivered later, as on a dead network. A delay is
//! drawn when a connection is made and stays for its life, and those towards the provider differ by less than
//! `pacing.jitter_ms`: a network whose delay varies by more could push any sender over its limit.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// What a relay does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Forwards both ways.
    Pass = 0,
    /// Half-open: takes bytes of both sides and forwards none.
    Deaf = 1,
    /// Half-open one way: forwards what is asked and drops what is answered.
    Mute = 2,
    /// Closes a connection as soon as it is made.
    Refuse = 3,
}

/// Delays of new connections: up to so many milliseconds each way, the same for a connection's life.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delays {
    pub(crate) request_ms: u64,
    pub(crate) answer_ms: u64,
}

#[derive(Debug)]
struct Conn {
    mode: AtomicU8,
    end: CancellationToken,
}

impl Conn {
    fn drops(&self, is_answer: bool) -> bool {
        let mode = self.mode.load(Ordering::Acquire);
        mode == Mode::Deaf as u8 || (is_answer && mode == Mode::Mute as u8)
    }
}

#[derive(Debug)]
struct Rules {
    mode: Mode,
    delays: Delays,
}

#[derive(Debug)]
struct Shared {
    targets: Vec<SocketAddr>,
    turn: AtomicUsize,
    rules: Mutex<Rules>,
    open: Mutex<HashMap<u64, Arc<Conn>>>,
}

/// One path of the network.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Listens on a free port; each connection goes to the next of `targets` that answers.
    pub(crate) async fn start(name: impl Into<String>, targets: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for a relay")?;
        let address = listener.local_addr()?;
        let rules = Mutex::new(Rules { mode: Mode::Pass, delays: Delays::default() });
        let shared = Arc::new(Shared { targets, turn: AtomicUsize::new(0), rules, open: Mutex::default() });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { name: name.into(), address, shared })
    }

    /// Ends about `share` of the open connections, at once and both ways.
    pub(crate) fn cut(&self, share: f64) -> usize {
        let open = locked(&self.shared.open);
        let chosen = open.values().filter(|_| rand::random::<f64>() < share);
        chosen.map(|conn| conn.end.cancel()).count()
    }

    /// Makes about `share` of the open connections half-open. They never come back: [`Relay::pass`] cuts them.
    pub(crate) fn half_open(&self, share: f64, mode: Mode) -> usize {
        let open = locked(&self.shared.open);
        let chosen = open.values().filter(|_| rand::random::<f64>() < share);
        chosen.map(|conn| conn.mode.store(mode as u8, Ordering::Release)).count()
    }

    /// What becomes of connections made from now on.
    pub(crate) fn new_connections(&self, mode: Mode, delays: Delays) {
        *locked(&self.shared.rules) = Rules { mode, delays };
    }

    /// Everything is forwarded again; what was half-open is cut.
    pub(crate) fn pass(&self) {
        self.new_connections(Mode::Pass, Delays::default());
        for conn in locked(&self.shared.open).values() {
            if conn.mode.load(Ordering::Acquire) != Mode::Pass as u8 {
                conn.end.cancel();
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    for id in 0_u64.. {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (mode, delays) = {
            let rules = locked(&shared.rules);
            (rules.mode, rules.delays)
        };
        if mode == Mode::Refuse {
            continue;
        }
        let conn = Arc::new(Conn { mode: AtomicU8::new(mode as u8), end: CancellationToken::new() });
        locked(&shared.open).insert(id, Arc::clone(&conn));
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            tokio::select! {
                () = conn.end.cancelled() => {}
                () = forward(stream, &shared, &conn, delays) => {}
            }
            locked(&shared.open).remove(&id);
        });
    }
}

async fn forward(client: TcpStream, shared: &Shared, conn: &Conn, delays: Delays) {
    let Some(server) = dial(shared).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let draw = |most: u64| Duration::from_millis(if most == 0 { 0 } else { rand::random_range(0..=most) });
    let (asked, answered) = (draw(delays.request_ms), draw(delays.answer_ms));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, asked, conn, false) => {}
        () = pump(from_server, to_client, answered, conn, true) => {}
    }
}

async fn dial(shared: &Shared) -> Option<TcpStream> {
    for _ in 0..shared.targets.len() {
        let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
        let target = shared.targets.get(turn % shared.targets.len())?;
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(target)).await {
            return Some(stream);
        }
    }
    None
}

/// Ends when either side has ended; what is still held then is dropped with it.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration, conn: &Conn, is_answer: bool) {
    let (sender, mut held) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if !conn.drops(is_answer) && sender.send((Instant::now() + delay, buffer[..count].to_vec())).await.is_err()
            {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = held.recv().await {
            if !delay.is_zero() {
                tokio::time::sleep_until(due).await;
            }
            if !conn.drops(is_answer) && to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
