//! The usable rows of a file on their way to the database.

use std::fmt;

use sqlx::{PgConnection, Postgres, postgres::PgArguments, query::Query, types::Json};
use uuid::Uuid;

use crate::{
    domain::template::Params,
    store::{Doing as _, StoreError, imports::GoodRow},
};

/// Rows as they are sent. Made where the file is read: the database would wait for that.
pub struct RowsToSend {
    import: Uuid,
    fresh: Query<'static, Postgres, PgArguments>,
    doubtful: Vec<GoodRow>,
}

impl fmt::Debug for RowsToSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowsToSend").field("import", &self.import).finish_non_exhaustive()
    }
}

impl RowsToSend {
    /// Rows of an import, in two parts: those whose recipients were in no row before and are in no other of these, and those
    /// of which that is not known. The first are written in two thirds of the time.
    pub fn new(import: Uuid, fresh: &[GoodRow], doubtful: Vec<GoodRow>) -> Self {
        let fresh = sqlx::query!(
            "INSERT INTO import_row (import_id, row, recipient, ref, time_zone, params)
             SELECT $1, * FROM UNNEST($2::bigint[], $3::text[], $4::text[], $5::text[], $6::jsonb[])",
            import,
            &fresh.iter().map(|r| r.row).collect::<Vec<_>>(),
            &fresh.iter().map(|r| r.recipient.as_str()).collect::<Vec<_>>() as &[&str],
            &fresh.iter().map(|r| r.reference.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
            &fresh.iter().map(|r| r.time_zone.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
            &fresh.iter().map(|r| Json(&r.params)).collect::<Vec<_>>() as &[Json<&Params>]
        );
        Self { import, fresh, doubtful }
    }
}

/// Writes rows. Returns those whose recipient stands in the file already, with the row where it stands first.
pub async fn insert(connection: &mut PgConnection, rows: RowsToSend) -> Result<Vec<(i64, i64)>, StoreError> {
    let RowsToSend { import, fresh, doubtful } = rows;
    fresh.execute(&mut *connection).await.doing("write rows of an import")?;
    if doubtful.is_empty() {
        return Ok(Vec::new());
    }
    let places = doubtful.iter().map(|r| r.row).collect::<Vec<_>>();
    let recipients = doubtful.iter().map(|r| r.recipient.as_str()).collect::<Vec<_>>();
    // An array is read in its order, which is the file's: of two equal recipients the first is kept.
    let written = sqlx::query!(
        "INSERT INTO import_row (import_id, row, recipient, ref, time_zone, params)
         SELECT $1, * FROM UNNEST($2::bigint[], $3::text[], $4::text[], $5::text[], $6::jsonb[])
         ON CONFLICT (import_id, recipient) DO NOTHING",
        import,
        &places,
        &recipients as &[&str],
        &doubtful.iter().map(|r| r.reference.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &doubtful.iter().map(|r| r.time_zone.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &doubtful.iter().map(|r| Json(&r.params)).collect::<Vec<_>>() as &[Json<&Params>]
    )
    .execute(&mut *connection)
    .await
    .doing("write rows of an import that may stand in it")?
    .rows_affected();
    if usize::try_from(written).is_ok_and(|written| written == doubtful.len()) {
        return Ok(Vec::new());
    }
    let duplicates = sqlx::query!(
        r#"SELECT g.row AS "row!", o.row AS "first!"
           FROM UNNEST($2::bigint[], $3::text[]) AS g (row, recipient)
           JOIN import_row o ON o.import_id = $1 AND o.recipient = g.recipient AND o.row <> g.row"#,
        import,
        &places,
        &recipients as &[&str]
    )
    .fetch_all(connection)
    .await
    .doing("find repeated recipients of an import")?;
    Ok(duplicates.into_iter().map(|row| (row.row, row.first)).collect())
}
