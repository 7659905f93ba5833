//! A database of one's own, made from the migrations.

use campaign_dispatch::store::Store;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};

/// A fresh database; [`Db::drop`] removes it.
pub(crate) struct Db {
    pub(crate) store: Store,
    pub(crate) name: String,
    server: PgConnectOptions,
}

impl Db {
    pub(crate) async fn new() -> Self {
        let url = std::env::var("DATABASE_URL").expect("DATABASE_URL");
        let server: PgConnectOptions = url.parse().unwrap();
        let name = format!("it_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect_with(&server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        let (base, query) = url
            .split_once('?')
            .map_or((url.as_str(), None), |(base, query)| (base, Some(query)));
        let server_url = base.rsplit_once('/').map_or(base, |(server, _)| server);
        let own = format!(
            "{server_url}/{name}{}",
            query.map(|q| format!("?{q}")).unwrap_or_default()
        );
        let store = Store::new(&SecretString::from(own), 4).unwrap();
        store.migrate().await.unwrap();
        Self {
            store,
            name,
            server,
        }
    }

    /// A single value.
    pub(crate) async fn one<T>(&self, sql: &'static str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(sql)
            .fetch_one(self.store.pool())
            .await
            .unwrap()
    }

    pub(crate) async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.store.pool()).await.unwrap();
    }

    pub(crate) async fn drop(self) {
        self.store.pool().close().await;
        let mut connection = PgConnection::connect_with(&self.server).await.unwrap();
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
}
