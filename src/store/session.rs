//! A database connection of one's own that is made again after it was lost.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, Executor as _, PgConnection, Postgres, Transaction};

use crate::store::{Doing as _, Store, StoreError};

/// What a statement runs on.
pub type Connection = PgConnection;

/// A transaction on a [`Session`]; dropped without [`commit`], nothing happened.
pub type Work<'a> = Transaction<'a, Postgres>;

/// How long a plan is kept. Planning costs more than a small statement itself: over the partitions, milliseconds.
const PLANS_LAST: Duration = Duration::from_mins(1);

/// A connection for a hot path, with its name in `pg_stat_activity`.
#[derive(Debug)]
pub struct Session {
    store: Store,
    name: &'static str,
    connection: Option<PgConnection>,
    planned: Instant,
}

impl Session {
    /// Connects when it is first used.
    pub fn new(store: Store, name: &'static str) -> Self {
        Self { store, name, connection: None, planned: Instant::now() }
    }

    /// The connection, made if there is none.
    pub async fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(self.store.connect_hot(self.name).await?);
            self.planned = Instant::now();
        } else if self.planned.elapsed() > PLANS_LAST {
            self.forget_plans().await?;
        }
        self.connection.as_mut().ok_or_else(|| StoreError::Connect(sqlx::Error::WorkerCrashed))
    }

    /// Plans anew what is asked from now on.
    pub async fn forget_plans(&mut self) -> Result<(), StoreError> {
        if let Some(connection) = &mut self.connection {
            connection.execute("DISCARD PLANS").await.doing("forget plans")?;
            self.planned = Instant::now();
        }
        Ok(())
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

/// Ends a transaction so that what it did stays. An error may hide a commit.
pub async fn commit(work: Work<'_>, what: &'static str) -> Result<(), StoreError> {
    let done = work.commit().await;
    // No answer came: it may have happened.
    if matches!(done, Err(sqlx::Error::Io(_) | sqlx::Error::Protocol(_))) {
        metrics::counter!("store_commits_unanswered_total").increment(1);
    }
    done.doing(what)
}
