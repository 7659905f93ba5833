//! Every line of SQL. One file per table group; callers name the file: `messages::apply`, `work::claim`.
//!
//! Rules for every bulk write: synchronous commits, but for steps that are done again; re-runnable, so that an ambiguous
//! commit is run again; one lock order (lease, work, message, attempt, failure, tally, hold, outbox), each by key; only the
//! database's clock decides what is due, leased or expired.

pub mod accounts;
pub mod acts;
pub mod alarms;
pub mod alive;
pub mod audiences;
pub mod audit;
pub mod callbacks;
pub mod campaigns;
pub mod checklist;
pub mod control;
mod events;
pub mod frozen;
pub mod holds;
pub mod holds_list;
pub mod import_rows;
pub mod imports;
pub mod jobs;
pub mod leases;
pub mod messages;
pub mod notifications;
pub mod outbox;
pub mod partitions;
pub mod plan;
pub mod received;
pub mod refusals;
pub mod registry;
pub mod resends;
pub mod retention;
pub mod rounds;
pub mod session;
pub mod suppressions;
pub mod tokens;
pub mod traffic;
pub mod vault;
pub mod work;

pub use session::{Connection, Session, commit};

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// How long a first connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The schema this version works with.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// What can go wrong with the database, by the operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address is not one.
    #[error(
        "database.url is not a Postgres address (set DATABASE_URL, for example postgres://user:password@host/database)"
    )]
    Url(#[source] sqlx::Error),
    /// No connection.
    #[error("could not connect to Postgres")]
    Connect(#[source] sqlx::Error),
    /// A statement failed.
    #[error("could not {0}")]
    Query(&'static str, #[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("could not migrate the database")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The schema is not the one this version knows.
    #[error("the database is at schema version {found}, this program knows {known}: {advice}")]
    Schema {
        /// Version in the database.
        found: i64,
        /// Version of this program.
        known: i64,
        /// What to do.
        advice: &'static str,
    },
}

impl StoreError {
    /// Whether running the same again may succeed: a lost connection, a deadlock, a serialisation failure.
    pub fn is_transient(&self) -> bool {
        let (Self::Query(_, error) | Self::Connect(error)) = self else {
            return false;
        };
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => true,
            sqlx::Error::Database(db) => {
                // 40001, 40P01: run again. 25P03: this process stood still for too long. 57P0x, 08xxx, 53xxx: the server
                // restarts, is cut off or full.
                let code = db.code().unwrap_or_default();
                matches!(code.as_ref(), "40001" | "40P01" | "25P03")
                    || ["57P", "08", "53"].iter().any(|class| code.starts_with(class))
            }
            _ => false,
        }
    }

    /// Whether somebody else held a lock for longer than could be waited.
    pub fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::Query(_, sqlx::Error::Database(db)) if db.code().as_deref() == Some("55P03"))
    }

    /// Whether the connection it came from is still usable.
    pub fn is_deadlock(&self) -> bool {
        matches!(self, Self::Query(_, sqlx::Error::Database(db)) if matches!(db.code().as_deref(), Some("40001" | "40P01")))
    }
}

/// An error with its causes, for the one place that logs it. What an error says of its own cause is not said twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// Names the operation of a failed statement.
pub(crate) trait Doing<T> {
    /// Wraps the error as "could not `what`".
    fn doing(self, what: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::Query(what, error))
    }
}

/// A fault point that is told to fail looks like a connection that was lost.
impl From<crate::fault::Injected> for StoreError {
    fn from(injected: crate::fault::Injected) -> Self {
        Self::Query("pass a fault point", sqlx::Error::Io(std::io::Error::other(injected)))
    }
}

/// How to reach the database, and a pool for everything that is not hot.
#[derive(Debug, Clone)]
pub struct Store {
    options: Arc<PgConnectOptions>,
    pool: PgPool,
    sizes: session::Sizes,
}

impl Store {
    /// Reads the address; connects lazily.
    pub fn new(url: &SecretString, connections: u32) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.expose_secret().parse().map_err(StoreError::Url)?;
        // A plan made while a table was empty is ruinous later: plan with the values of each call. To compile a plan over
        // the partitions takes seconds, to run it milliseconds.
        let options = options
            .application_name("campaign-dispatch")
            .options([
                ("plan_cache_mode", "force_custom_plan"),
                ("jit", "off"),
                ("idle_in_transaction_session_timeout", "60000"),
            ])
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(options.clone());
        Ok(Self { options: Arc::new(options), pool, sizes: session::Sizes::default() })
    }

    /// The pool of API, imports and checks.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection of the pool.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.pool.acquire().await.map_err(StoreError::Connect)
    }

    /// A transaction on a connection of the pool; dropped without [`commit`], nothing happened.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.pool.begin().await.map_err(StoreError::Connect)
    }

    /// A connection of one's own.
    pub async fn connect(&self, name: &str) -> Result<PgConnection, StoreError> {
        connect(PgConnectOptions::clone(&self.options), name).await
    }

    /// A connection for a hot path: its statements are planned once, until it is told to forget the plans, and read by
    /// index whatever the planner believes of a table's size. A transaction in which the process says nothing for `idle_ms`
    /// ends, and so do its locks: those who work on the same batches do not wait for a process that stands still.
    async fn connect_hot(&self, name: &str, idle_ms: &str) -> Result<PgConnection, StoreError> {
        let hot = [
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("idle_in_transaction_session_timeout", idle_ms),
        ];
        connect(PgConnectOptions::clone(&self.options).options(hot), name).await
    }

    /// Brings the schema up to date.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.connect("migrate").await?;
        MIGRATIONS.run(&mut connection).await.map_err(StoreError::Migrate)
    }

    /// Refuses a schema that is older or newer than this program's. On a connection of its own, so that a database that
    /// cannot be reached says why at once.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let late = |_| StoreError::Connect(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
        let mut connection = tokio::time::timeout(CONNECT_WITHIN, self.connect("check")).await.map_err(late)??;
        let checked = schema_fits(&mut connection).await;
        // What was asked is answered: a goodbye that fails changes nothing.
        connection.close().await.ok();
        checked
    }

    /// As [`Store::check_schema`], on a connection of the pool: for what is asked again and again.
    pub async fn check_schema_again(&self) -> Result<(), StoreError> {
        schema_fits(&mut *self.acquire().await?).await
    }
}

async fn connect(options: PgConnectOptions, name: &str) -> Result<PgConnection, StoreError> {
    let options = options.application_name(&format!("campaign-dispatch {name}"));
    PgConnection::connect_with(&options).await.map_err(StoreError::Connect)
}

/// Refuses a schema that is older or newer than this program's.
async fn schema_fits(connection: &mut Connection) -> Result<(), StoreError> {
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or_default();
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .doing("look for the schema")?;
    let found: i64 = if exists {
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
            .fetch_one(&mut *connection)
            .await
            .doing("read the schema version")?
    } else {
        0
    };
    if found == known {
        return Ok(());
    }
    let advice = if found < known { "run `campaign-dispatch migrate`" } else { "this program is too old for it" };
    Err(StoreError::Schema { found, known, advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let refused = std::io::Error::other("connection refused");
        let error = StoreError::Connect(sqlx::Error::Io(refused));
        let told = chain(&error);
        assert!(told.starts_with("could not connect to Postgres: "), "{told}");
        assert_eq!(told.matches("connection refused").count(), 1, "{told}");
        let error = Store::new(&"x".into(), 1).unwrap_err();
        assert_eq!(chain(&error).matches("is not a Postgres address").count(), 1);
        assert!(chain(&error).contains("DATABASE_URL"));
    }
}
