//! A database for each test, copied from one that was migrated once.

use std::{fmt, sync::OnceLock};

use campaign_dispatch::store::Store;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

/// A database of one's own. It is left behind when a test fails, and dropped when it succeeds.
pub(crate) struct Database {
    name: String,
    url: SecretString,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn server() -> String {
    std::env::var("DATABASE_URL").expect("DATABASE_URL: start the services with `deploy/services.sh up`")
}

fn with_database(name: &str) -> String {
    let server = server();
    let (base, query) = server.split_once('?').map_or((server.as_str(), None), |(base, query)| (base, Some(query)));
    let (base, _) = base.rsplit_once('/').expect("DATABASE_URL names a database");
    query.map_or_else(|| format!("{base}/{name}"), |query| format!("{base}/{name}?{query}"))
}

/// A connection to the server's own database.
pub(crate) async fn admin() -> PgConnection {
    PgConnection::connect(&server()).await.expect("Postgres answers at DATABASE_URL")
}

/// The name of the migrated database of this build of the schema.
fn template() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        for migration in campaign_dispatch::store::MIGRATIONS.iter() {
            migration.checksum.hash(&mut hasher);
        }
        format!("dispatch_test_{:016x}", hasher.finish())
    })
}

impl Database {
    /// A fresh database with the current schema.
    pub(crate) async fn create() -> Self {
        let mut admin = admin().await;
        // One test process makes the template; the others wait for it here.
        admin.execute("SELECT pg_advisory_lock(7262014)").await.unwrap();
        let template = template();
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(template)
            .fetch_one(&mut admin)
            .await
            .unwrap();
        if !exists {
            let making = format!("{template}_{}", Uuid::new_v4().simple());
            admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {making}"))).await.unwrap();
            let store = Store::new(&SecretString::from(with_database(&making)), 1).unwrap();
            store.migrate().await.unwrap();
            store.pool().close().await;
            admin.execute(sqlx::AssertSqlSafe(format!("ALTER DATABASE {making} RENAME TO {template}"))).await.unwrap();
        }
        let name = format!("dispatch_test_{}", Uuid::new_v4().simple());
        admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE {template}"))).await.unwrap();
        admin.execute("SELECT pg_advisory_unlock(7262014)").await.unwrap();
        let url = SecretString::from(with_database(&name));
        let database = Self { name, url };
        // Tokens of two databases must differ, as those of two installations do.
        let mut connection = database.connect().await;
        connection.execute("UPDATE installation SET name = substr(md5(gen_random_uuid()::text), 1, 8)").await.unwrap();
        database
    }

    /// Its address.
    pub(crate) fn url(&self) -> &SecretString {
        &self.url
    }

    /// A connection.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(self.url.expose_secret()).await.unwrap()
    }

    /// Drops it.
    pub(crate) async fn drop(self) {
        let mut admin = admin().await;
        admin
            .execute(sqlx::AssertSqlSafe(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)))
            .await
            .unwrap();
    }
}

/// A database of one's own with a store on it.
pub(crate) struct Db {
    pub(crate) store: Store,
    database: Database,
}

impl Db {
    pub(crate) async fn new() -> Self {
        let database = Database::create().await;
        Self { store: Store::new(database.url(), 4).unwrap(), database }
    }

    /// A single value.
    pub(crate) async fn one<T>(&self, sql: &'static str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(sql).fetch_one(self.store.pool()).await.unwrap()
    }

    pub(crate) async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.store.pool()).await.unwrap();
    }

    pub(crate) async fn drop(self) {
        self.store.pool().close().await;
        self.database.drop().await;
    }
}
