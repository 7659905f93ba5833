//! The role `dispatch_reader` reads the views of the schema `checklist`, and nothing else.

use sqlx::{
    Connection as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};

async fn texts(connection: &mut PgConnection, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(connection).await.unwrap()
}

/// What the database says of a refusal.
async fn refusal(connection: &mut PgConnection, sql: String) -> Option<String> {
    let error = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await.err()?;
    Some(error.as_database_error()?.code()?.into_owned())
}

const RELATIONS: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'checklist')
     ORDER BY 1";
const VIEWS: &str =
    "SELECT format('%I.%I', schemaname, viewname) FROM pg_views WHERE schemaname = 'checklist' ORDER BY 1";
const BARE_COLUMNS: &str =
    "SELECT c.relname || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
     WHERE c.relnamespace = 'checklist'::regnamespace AND a.attnum > 0 AND col_description(c.oid, a.attnum) IS NULL";

#[sqlx::test(migrator = "campaign_dispatch::store::MIGRATIONS")]
async fn a_reader_reads_the_views_and_nothing_else(_: PgPoolOptions, options: PgConnectOptions) {
    let mut owner = PgConnection::connect_with(&options).await.unwrap();
    let login = format!("reader_{}", uuid::Uuid::new_v4().simple());
    let create = format!("CREATE ROLE {login} LOGIN PASSWORD 'reads' IN ROLE dispatch_reader");
    sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut owner).await.unwrap();
    let views = texts(&mut owner, VIEWS).await;
    let relations = texts(&mut owner, RELATIONS).await;
    assert!(relations.contains(&"public.message".to_owned()) && relations.contains(&"public.account".to_owned()));
    for view in ["batches", "sent", "received", "pending", "failed", "uncertain", "failures_by_code", "holds"] {
        assert!(views.contains(&format!("checklist.{view}")), "{view}: {views:?}");
    }
    assert_eq!(texts(&mut owner, BARE_COLUMNS).await, Vec::<String>::new(), "every column is commented");

    let mut reader = PgConnection::connect_with(&options.username(&login).password("reads")).await.unwrap();
    for view in &views {
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {view}"))).fetch_one(&mut reader).await;
        assert_eq!(rows.unwrap().get::<i64, _>(0), 0, "{view}");
        for change in [format!("DELETE FROM {view}"), format!("TRUNCATE {view}")] {
            assert!(refusal(&mut reader, change.clone()).await.is_some(), "{change}");
        }
    }
    for relation in &relations {
        let denied = refusal(&mut reader, format!("SELECT * FROM {relation}")).await;
        assert_eq!(denied.as_deref(), Some("42501"), "{relation}: insufficient_privilege");
    }
    for act in ["CREATE TABLE public.mine (a int)", "CREATE TABLE checklist.mine (a int)", "CREATE SCHEMA mine"] {
        assert_eq!(refusal(&mut reader, act.to_owned()).await.as_deref(), Some("42501"), "{act}");
    }
    reader.close().await.unwrap();
    let drop = format!("DROP ROLE {login}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&mut owner).await.unwrap();
}
