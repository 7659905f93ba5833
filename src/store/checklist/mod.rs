//! What operators ask: read-only, by keyset, on the indexes there are.
//!
//! A page is found in two steps inside one statement: its keys on the narrow tables, then its rows in the views of the
//! schema `checklist`, which any other tool reads too. No statement may read a column that is not in the index it
//! walks for more rows than a page has.

pub mod batches;
mod by_time;
pub mod failures;
pub mod history;
pub mod imports;
pub mod lists;
pub mod load;
pub mod messages;
pub mod refused;
pub mod reports;
pub mod which;
pub mod why;

use sqlx::PgConnection;

use crate::{
    domain::ids::TenantId,
    store::{Doing as _, StoreError},
};

/// The rows of a tenant's numbers that read `business_number` (one per account that has it).
pub async fn number_ids(
    connection: &mut PgConnection,
    tenant: TenantId,
    business_number: &str,
) -> Result<Vec<i32>, StoreError> {
    sqlx::query_scalar!(
        "SELECT n.id FROM business_number n JOIN account a ON a.id = n.account_id
         WHERE a.tenant_id = $1 AND n.business_number = $2 ORDER BY n.id",
        tenant.0,
        business_number
    )
    .fetch_all(connection)
    .await
    .doing("look for a number")
}

/// The rows of a tenant's numbers of an account, of a channel, or of both.
pub async fn number_ids_of(
    connection: &mut PgConnection,
    tenant: TenantId,
    account: Option<&str>,
    channel: Option<&str>,
) -> Result<Vec<i32>, StoreError> {
    sqlx::query_scalar!(
        "SELECT n.id FROM business_number n JOIN account a ON a.id = n.account_id
         WHERE a.tenant_id = $1 AND ($2::text IS NULL OR a.name = $2) AND ($3::text IS NULL OR a.channel = $3) ORDER BY n.id",
        tenant.0,
        account,
        channel
    )
    .fetch_all(connection)
    .await
    .doing("look for the numbers of an account")
}

/// The rows of a tenant's templates of a name or of the provider's code, of a category, or of both: one for each account and
/// language.
pub async fn template_ids(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: Option<&str>,
    category: Option<&str>,
) -> Result<Vec<i32>, StoreError> {
    sqlx::query_scalar!(
        "SELECT t.id FROM template t JOIN account a ON a.id = t.account_id
         WHERE a.tenant_id = $1 AND ($2::text IS NULL OR $2 IN (t.name, t.provider_template_id)) AND ($3::text IS NULL OR t.category = $3) ORDER BY t.id",
        tenant.0,
        name,
        category
    )
    .fetch_all(connection)
    .await
    .doing("look for templates")
}

/// All numbers of a tenant, as people write them.
pub async fn business_numbers(connection: &mut PgConnection, tenant: TenantId) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        "SELECT DISTINCT n.business_number FROM business_number n JOIN account a ON a.id = n.account_id
         WHERE a.tenant_id = $1 ORDER BY 1",
        tenant.0
    )
    .fetch_all(connection)
    .await
    .doing("list numbers")
}

/// The channels a tenant has accounts of, by name.
pub async fn channels(connection: &mut PgConnection, tenant: TenantId) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!("SELECT DISTINCT channel FROM account WHERE tenant_id = $1 ORDER BY 1 DESC", tenant.0)
        .fetch_all(connection)
        .await
        .doing("list channels")
}

/// The rows of all numbers of a tenant.
pub async fn all_number_ids(connection: &mut PgConnection, tenant: TenantId) -> Result<Vec<i32>, StoreError> {
    number_ids_of(connection, tenant, None, None).await
}
