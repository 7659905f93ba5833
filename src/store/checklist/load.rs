//! What a number has to send, and what of an import will not be.

use std::{collections::HashSet, time::Duration};

use futures_util::TryStreamExt as _;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{address::Address, forecast::Load, ids::NumberId, lane::Lane},
    store::{Doing as _, StoreError, registry::Account},
};

/// Recipients that get nothing, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct LeftOut {
    /// Why, for machines.
    pub code: String,
    /// How many.
    pub recipients: i64,
}

/// The ready work of a number by what takes turns, and batches whose messages are still being made. What waits under a
/// hold is not among it.
pub async fn of_number(connection: &mut PgConnection, number: NumberId) -> Result<Vec<Load>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT lane::text AS "lane!", count(*)::integer AS "messages!",
                  greatest(extract(epoch FROM min(wake_at) - now()), 0)::float8 AS "due_s!"
           FROM work WHERE stage = 'ready' AND number_id = $1
           GROUP BY lane, turn_group, wake_at > now()
           UNION ALL
           SELECT b.lane::text, (i.good - b.recipients)::integer, greatest(extract(epoch FROM b.send_at - now()), 0)::float8
           FROM batch b JOIN import i ON i.id = b.import_id
           WHERE b.state = 'planning' AND b.number_id = $1 AND b.cancelled_at IS NULL"#,
        number.0
    )
    .fetch_all(connection)
    .await
    .doing("read what a number has to send")?;
    let loads = rows.into_iter().filter_map(|row| {
        Some(Load {
            lane: row.lane.parse::<Lane>().ok()?,
            messages: u32::try_from(row.messages).ok()?,
            due_in: Duration::try_from_secs_f64(row.due_s).unwrap_or(Duration::MAX),
        })
    });
    Ok(loads.collect())
}

/// Reads whom an import is for, holding one at a time: address and zone.
pub async fn visit_import(
    connection: &mut PgConnection,
    import: Uuid,
    mut see: impl FnMut(Address, Option<String>),
) -> Result<(), StoreError> {
    let mut rows =
        sqlx::query!("SELECT recipient, time_zone FROM import_row WHERE import_id = $1", import).fetch(connection);
    while let Some(row) = rows.try_next().await.doing("go through an import")? {
        see(Address::from_store(row.recipient), row.time_zone);
    }
    Ok(())
}

/// Where recipients are looked for.
#[derive(Debug, Clone, Copy)]
pub enum Among<'a> {
    /// These.
    These(&'a [&'a str]),
    /// The rows of an import.
    Import(Uuid),
    /// The members of an audience group.
    Group(&'a str),
}

/// Who of them would not be called, were the messages claimed now.
pub async fn suppressed(
    connection: &mut PgConnection,
    account: &Account,
    lane: Lane,
    among: Among<'_>,
) -> Result<HashSet<Address>, StoreError> {
    let (tenant, id, is_marketing) = (account.tenant.0, account.id.0, lane == Lane::Marketing);
    let people = match among {
        Among::These(these) => {
            sqlx::query_scalar!(
                "SELECT s.recipient FROM suppression s
                 WHERE s.recipient = ANY($1) AND s.tenant_id = $2 AND s.lifted_at IS NULL
                   AND (s.account_id IS NULL OR s.account_id = $3) AND (s.scope <> 'marketing' OR $4)",
                these as &[&str],
                tenant,
                id,
                is_marketing
            )
            .fetch_all(connection)
            .await
        }
        Among::Import(import) => {
            sqlx::query_scalar!(
                "SELECT s.recipient FROM import_row r JOIN suppression s ON s.recipient = r.recipient
                 WHERE r.import_id = $1 AND s.tenant_id = $2 AND s.lifted_at IS NULL
                   AND (s.account_id IS NULL OR s.account_id = $3) AND (s.scope <> 'marketing' OR $4)",
                import,
                tenant,
                id,
                is_marketing
            )
            .fetch_all(connection)
            .await
        }
        Among::Group(name) => {
            sqlx::query_scalar!(
                "SELECT s.recipient
                 FROM audience a JOIN audience_member m ON m.audience_id = a.id JOIN suppression s ON s.recipient = m.recipient
                 WHERE a.name = $1 AND a.tenant_id = $2 AND s.tenant_id = $2 AND s.lifted_at IS NULL
                   AND (s.account_id IS NULL OR s.account_id = $3) AND (s.scope <> 'marketing' OR $4)",
                name,
                tenant,
                id,
                is_marketing
            )
            .fetch_all(connection)
            .await
        }
    };
    Ok(people.doing("read who is suppressed")?.into_iter().map(Address::from_store).collect())
}

/// The people whom the numbers of an account's portfolio have written to in the last 24 hours, at most so many. Of batches
/// that were due in the last three days: few live longer.
pub async fn written_to(
    connection: &mut PgConnection,
    account: &Account,
    most: usize,
) -> Result<HashSet<Address>, StoreError> {
    let mut people = HashSet::new();
    let mut rows = sqlx::query_scalar!(
        "SELECT m.recipient
         FROM account a
         JOIN business_number n ON n.account_id = a.id
         JOIN batch b ON b.number_id = n.id AND b.batch_id >= uuid_floor(now() - interval '3 days')
         JOIN message m ON m.batch_id = b.batch_id
         WHERE a.tenant_id = $1 AND (a.id = $2 OR a.portfolio = $3) AND m.accepted_at > now() - interval '24 hours'
         -- what is left unread when there are enough is read to the end all the same
         LIMIT 1000000",
        account.tenant.0,
        account.id.0,
        account.portfolio
    )
    .fetch(connection);
    while people.len() < most {
        let Some(recipient) = rows.try_next().await.doing("read whom a portfolio has written to")? else {
            break;
        };
        people.insert(Address::from_store(recipient));
    }
    Ok(people)
}

/// The refused rows of an import by reason, the most frequent first.
pub async fn refused_rows(connection: &mut PgConnection, import: Uuid) -> Result<Vec<LeftOut>, StoreError> {
    sqlx::query_as!(
        LeftOut,
        r#"SELECT code, count(*) AS "recipients!"
           FROM (SELECT DISTINCT ON (row) code FROM import_rejected WHERE import_id = $1 ORDER BY row, field) first
           GROUP BY code ORDER BY 2 DESC, 1"#,
        import
    )
    .fetch_all(connection)
    .await
    .doing("count the refused rows of an import")
}
