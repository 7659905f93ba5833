//! A database connection of one's own that is made again after it was lost.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, Executor as _, PgConnection, Postgres, Transaction};

use crate::store::{Doing as _, Store, StoreError};

/// What a statement runs on.
pub type Connection = PgConnection;

/// A transaction on a [`Session`]; dropped without [`commit`], nothing happened.
pub type Work<'a> = Transaction<'a, Postgres>;

/// How often a process looks whether a table has grown; a session may hear of it as long again after that.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a statement that is expected any moment is run with nothing to do. The database forgets its plan whenever a
/// table in it is vacuumed, several times a minute, and planning takes longer than the statement itself: this pays for it.
pub const REHEARSE: Duration = Duration::from_millis(25);

/// A connection for a hot path, with its name in `pg_stat_activity`.
///
/// Its plans are kept, for planning costs more than a small statement itself: over the partitions, milliseconds. But a plan
/// made while a table was empty is ruinous once it is full, so all are forgotten when a table has doubled.
#[derive(Debug)]
pub struct Session {
    store: Store,
    name: &'static str,
    /// Milliseconds that a transaction may rest.
    idle_ms: &'static str,
    connection: Option<PgConnection>,
    looked: Instant,
    sizes: i64,
}

impl Session {
    /// Connects when it is first used. Its locks outlive a process that stands still by 2 s: others send on for that long
    /// without settling.
    pub fn new(store: Store, name: &'static str) -> Self {
        Self { store, name, idle_ms: "2000", connection: None, looked: Instant::now(), sizes: 0 }
    }

    /// One whose transactions wait for the broker, up to 5 s. They must lock nothing that others wait for.
    pub fn patient(store: Store, name: &'static str) -> Self {
        Self { idle_ms: "8000", ..Self::new(store, name) }
    }

    /// The connection, made if there is none.
    pub async fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(self.store.connect_hot(self.name, self.idle_ms).await?);
            self.look().await?;
        } else if self.looked.elapsed() > LOOK_EVERY {
            match self.store.sizes.lately() {
                Some(sizes) => self.sizes_are(sizes).await?,
                None => self.look().await?,
            }
        }
        self.connection.as_mut().ok_or_else(|| StoreError::Connect(sqlx::Error::WorkerCrashed))
    }

    /// Looks at once whether the plans are still good; [`Session::connection`] does so every second.
    pub async fn look(&mut self) -> Result<(), StoreError> {
        if let Some(connection) = &mut self.connection {
            let sizes = sizes(connection).await?;
            self.store.sizes.are(sizes);
            self.sizes_are(sizes).await?;
        }
        Ok(())
    }

    async fn sizes_are(&mut self, sizes: i64) -> Result<(), StoreError> {
        if let Some(connection) = self.connection.as_mut().filter(|_| sizes != self.sizes) {
            connection.execute("DISCARD PLANS").await.doing("forget plans")?;
            self.sizes = sizes;
        }
        self.looked = Instant::now();
        Ok(())
    }

    /// Runs a statement that does nothing, so that whoever needs it next need not wait for a connection or a plan.
    pub async fn rehearse<T>(&mut self, statement: impl AsyncFnOnce(&mut Connection) -> Result<T, StoreError>) {
        let done = match self.connection().await {
            Ok(connection) => statement(connection).await.map(drop),
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.reset();
        }
    }

    /// Begins a transaction.
    pub async fn begin(&mut self) -> Result<Work<'_>, StoreError> {
        self.connection().await?.begin().await.doing("begin a transaction")
    }

    /// Drops the connection: its state is not known.
    pub fn reset(&mut self) {
        self.connection = None;
    }

    /// To be told of every error: a connection that may be broken is not used again.
    pub fn failed(&mut self, error: &StoreError) {
        if error.is_transient() && !error.is_deadlock() {
            self.connection = None;
        }
    }
}

/// What one session of a process saw of the tables' sizes, for all of them: to look costs more than most statements.
#[derive(Debug, Clone, Default)]
pub(super) struct Sizes(Arc<Mutex<Option<(Instant, i64)>>>);

impl Sizes {
    fn lately(&self) -> Option<i64> {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.filter(|(at, _)| at.elapsed() < LOOK_EVERY).map(|(_, sizes)| sizes)
    }

    fn are(&self, sizes: i64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), sizes));
    }
}

/// Another number whenever a table of some size has doubled or halved.
async fn sizes(connection: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(sum(floor(log(greatest(pg_relation_size(oid), 262144)::float8) / log(2::float8))), 0)::bigint AS "sizes!"
           FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"#
    )
    .fetch_one(connection)
    .await
    .doing("read the sizes of the tables")
}

/// Ends a transaction that did nothing, at once: one that is merely dropped stands open until its connection is used again.
pub async fn forget(work: Work<'_>) -> Result<(), StoreError> {
    work.rollback().await.doing("end a look")
}

/// Ends a transaction so that what it did stays. An error may hide a commit.
pub async fn commit(work: Work<'_>, what: &'static str) -> Result<(), StoreError> {
    let done = work.commit().await;
    count_unanswered(&done);
    done.doing(what)
}

/// Ends a transaction without waiting for the disk: for a step that is followed by another, whose commit keeps both. Until
/// then a crash of the database may undo it, whole, so that it is done again: nobody outside may be told of it before.
pub async fn commit_unflushed(mut work: Work<'_>, what: &'static str) -> Result<(), StoreError> {
    work.execute("SET LOCAL synchronous_commit = off").await.doing(what)?;
    commit(work, what).await
}

/// Counts commits of which no answer came: they may have happened.
pub(super) fn count_unanswered<T>(done: &Result<T, sqlx::Error>) {
    if matches!(done, Err(sqlx::Error::Io(_) | sqlx::Error::Protocol(_))) {
        metrics::counter!("store_commits_unanswered_total").increment(1);
    }
}
