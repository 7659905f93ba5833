//! Every line of SQL. One file per table group; callers name the file: `messages::apply`, `work::claim`.
//!
//! Rules for every bulk write: synchronous commits; re-runnable, so that an ambiguous commit is run again; one lock
//! order (lease, work, message, attempt, failure, tally, hold, outbox), each by key; only the database's clock decides
//! what is due, leased or expired.

pub mod accounts;
pub mod callbacks;
pub mod checklist;
pub mod holds;
pub mod holds_list;
pub mod imports;
pub mod jobs;
pub mod leases;
pub mod messages;
pub mod outbox;
pub mod partitions;
pub mod refusals;
pub mod registry;
pub mod session;
pub mod tokens;
pub mod vault;
pub mod work;

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// The schema this version works with.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// What can go wrong with the database, by the operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address is not one.
    #[error("database.url is not a Postgres address")]
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
                // 40001, 40P01: run again. 57P0x, 08xxx, 53xxx: the server restarts, is cut off or full.
                let code = db.code().unwrap_or_default();
                matches!(code.as_ref(), "40001" | "40P01")
                    || ["57P", "08", "53"].iter().any(|class| code.starts_with(class))
            }
            _ => false,
        }
    }

    /// Whether the connection it came from is still usable.
    pub fn is_deadlock(&self) -> bool {
        matches!(self, Self::Query(_, sqlx::Error::Database(db)) if matches!(db.code().as_deref(), Some("40001" | "40P01")))
    }
}

/// An error with its causes, for the one place that logs it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A connection that is made when it is first needed and again after it broke.
#[derive(Debug)]
pub struct Link {
    store: Store,
    name: &'static str,
    open: Option<PgConnection>,
}

impl Link {
    /// A link that is not open yet; `name` shows in `pg_stat_activity`.
    pub const fn new(store: Store, name: &'static str) -> Self {
        Self { store, name, open: None }
    }

    /// The connection, opened if need be.
    pub async fn get(&mut self) -> Result<&mut PgConnection, StoreError> {
        if self.open.is_none() {
            self.open = Some(self.store.connect(self.name).await?);
        }
        self.open.as_mut().ok_or(StoreError::Connect(sqlx::Error::PoolClosed))
    }

    /// Drops the connection after an error: its state is not known.
    pub fn reset(&mut self) {
        self.open = None;
    }
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

/// What a statement runs on.
pub type Connection = PgConnection;

/// Ends a transaction so that what it did stays.
pub async fn commit(transaction: Transaction<'static, Postgres>, what: &'static str) -> Result<(), StoreError> {
    transaction.commit().await.doing(what)
}

/// How to reach the database, and a pool for everything that is not hot.
#[derive(Debug, Clone)]
pub struct Store {
    options: PgConnectOptions,
    pool: PgPool,
}

impl Store {
    /// Reads the address; connects lazily.
    pub fn new(url: &SecretString, connections: u32) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.expose_secret().parse().map_err(StoreError::Url)?;
        // A plan made while a table was empty is ruinous later: plan with the values of each call.
        let options = options
            .application_name("campaign-dispatch")
            .options([("plan_cache_mode", "force_custom_plan"), ("idle_in_transaction_session_timeout", "60000")])
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(options.clone());
        Ok(Self { options, pool })
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

    /// A connection of one's own, for a hot path.
    pub async fn connect(&self, name: &str) -> Result<PgConnection, StoreError> {
        let options = self.options.clone().application_name(&format!("campaign-dispatch {name}"));
        PgConnection::connect_with(&options).await.map_err(StoreError::Connect)
    }

    /// Brings the schema up to date.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.connect("migrate").await?;
        MIGRATIONS.run(&mut connection).await.map_err(StoreError::Migrate)
    }

    /// Refuses a schema that is older or newer than this program's.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or_default();
        let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&self.pool)
            .await
            .doing("look for the schema")?;
        let found: i64 = if exists {
            sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
                .fetch_one(&self.pool)
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
}
