//! The processes under test: started, killed, frozen, thawed, and read.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    process::{Child, Command},
    sync::Mutex,
};

/// The program as cargo built it for this test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_campaign-dispatch");

/// Variables of a child.
pub(crate) type Environment = BTreeMap<String, String>;

static RAISED: OnceLock<bool> = OnceLock::new();

/// Runs this process, which is the network and the clock of the judge, before all that it starts: by `SCHED_RR`,
/// for niceness weighs nothing between the sessions that Linux groups, and the servers have sessions of their own. Refused
/// without privileges: then a busy machine leaves more seconds unjudged. To be called before there are threads.
pub(crate) fn raise_priority() {
    let own = std::process::id().to_string();
    let mut chrt = std::process::Command::new("chrt");
    chrt.args(["--rr", "--pid", "1", &own]).stdout(Stdio::null()).stderr(Stdio::null());
    RAISED.get_or_init(|| chrt.status().is_ok_and(|status| status.success()));
}

/// The words before a command that give it the usual priority again.
pub(crate) fn usual_priority() -> &'static [&'static str] {
    if RAISED.get().is_some_and(|raised| *raised) { &["chrt", "--other", "0"] } else { &[] }
}

/// A command that dies with this process: whatever happens here, nothing is left behind.
fn command(arguments: &[&str], environment: &Environment) -> Command {
    let mut words = Vec::new();
    if Path::new("/usr/bin/setpriv").exists() {
        words.extend(["/usr/bin/setpriv", "--pdeathsig", "KILL", "--"]);
    }
    // The simulator judges, and keeps ours.
    if arguments.first() != Some(&"simulate") {
        words.extend(usual_priority());
    }
    words.push(BINARY);
    words.extend(arguments);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_remove("RUST_LOG").envs(environment).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs the program to its end and returns what it wrote; an error names the command and what it said.
pub(crate) async fn run(arguments: &[&str], environment: &Environment) -> anyhow::Result<String> {
    let running = command(arguments, environment).output();
    let output = tokio::time::timeout(Duration::from_mins(1), running).await;
    let output = output.with_context(|| format!("{arguments:?} does not end"))??;
    if !output.status.success() {
        bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends a signal to a process of ours.
async fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await?;
    anyhow::ensure!(status.success(), "kill -{name} {pid} failed");
    Ok(())
}

/// A long-running process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    arguments: Vec<String>,
    environment: Environment,
    log: PathBuf,
    child: Mutex<Option<Child>>,
    /// Counts starts, so that counters of one life are not taken for those of another.
    lives: AtomicU64,
}

impl Process {
    pub(crate) fn new(name: &str, arguments: &[String], environment: Environment, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let (child, lives) = (Mutex::new(None), AtomicU64::new(0));
        Self { name: name.to_owned(), arguments: arguments.to_vec(), environment, log, child, lives }
    }

    /// Starts it, unless it runs.
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        self.start_with(&Environment::new()).await
    }

    /// Starts it with more variables, unless it runs.
    pub(crate) async fn start_with(&self, more: &Environment) -> anyhow::Result<()> {
        let mut child = self.child.lock().await;
        if let Some(running) = child.as_mut()
            && running.try_wait()?.is_none()
        {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut starting = command(&arguments, &self.environment);
        starting.envs(more);
        *child = Some(starting.stdout(log.try_clone()?).stderr(log).spawn()?);
        self.lives.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Where it writes.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Which life this is.
    pub(crate) fn life(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// The most memory this life has held at once, in MB of 2^20 bytes.
    pub(crate) async fn peak_mb(&self) -> anyhow::Result<u64> {
        let pid = self.pid().await.context("does not run")?;
        let status = tokio::fs::read_to_string(format!("/proc/{pid}/status")).await?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells no peak")?;
        Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
    }

    async fn pid(&self) -> Option<u32> {
        self.child.lock().await.as_ref().and_then(Child::id)
    }

    async fn signal(&self, name: &str) -> anyhow::Result<()> {
        match self.pid().await {
            Some(pid) => signal(pid, name).await,
            None => Ok(()),
        }
    }

    /// kill -9, and waits until it is gone.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        if let Some(child) = self.child.lock().await.as_mut() {
            child.kill().await?;
        }
        Ok(())
    }

    pub(crate) async fn freeze(&self) -> anyhow::Result<()> {
        self.signal("STOP").await
    }

    pub(crate) async fn thaw(&self) -> anyhow::Result<()> {
        self.signal("CONT").await
    }

    /// SIGTERM, then waits for its end.
    pub(crate) async fn terminate(&self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal("TERM").await?;
        let mut child = self.child.lock().await;
        let child = child.as_mut().context("was never started")?;
        let ended = tokio::time::timeout(within, child.wait()).await;
        Ok(ended.with_context(|| format!("{} does not end within {within:?}", self.name))??)
    }

    /// Whether it ended by itself: no fault here asks for that.
    pub(crate) async fn has_ended(&self) -> bool {
        self.child.lock().await.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }
}
