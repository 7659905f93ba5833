//! Tenants, producers, accounts, numbers and templates as people write them. Read back by [`super::registry`].

use sqlx::{PgConnection, types::Json};

use crate::{
    domain::{
        ids::{AccountId, NumberId, TemplateId, TenantId},
        terms::AccountTerms,
        uncertain::UncertainOverrides,
    },
    store::{Doing as _, StoreError},
};

/// What an account says, apart from its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountFields {
    /// The Meta business it belongs to.
    pub portfolio: Option<String>,
    /// What recipients are reached through.
    pub channel: String,
    /// The adapter.
    pub provider: String,
    /// Where the provider's API is.
    pub base_url: String,
    /// The API's version.
    pub api_version: String,
    /// The provider's id of the account.
    pub waba_id: String,
    /// Its own policies for uncertain messages.
    pub uncertain: UncertainOverrides,
    /// What forecasts go by.
    pub terms: AccountTerms,
}

/// An account as it stands.
#[derive(Debug)]
pub struct AccountRecord {
    /// Row id.
    pub id: AccountId,
    /// What it says.
    pub fields: AccountFields,
    /// Its sealed secrets.
    pub credentials: Vec<u8>,
}

/// What a number says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberFields {
    /// The provider's id of it.
    pub provider_number_id: String,
    /// Messages a second; absent is unlimited.
    pub limit_per_s: Option<i32>,
    /// The provider's word for its state.
    pub status: String,
}

/// What a template says.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateFields {
    /// The provider's own code of it.
    pub provider_template_id: Option<String>,
    /// What it is for.
    pub category: String,
    /// The provider's word for its state.
    pub status: String,
    /// How its variables are written.
    pub parameter_format: String,
    /// Its parts in the provider's shape.
    pub components: serde_json::Value,
}

/// Lets one change of the registry in at a time, so that what was read stays true until the commit.
pub async fn lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("SELECT version FROM registry_version FOR UPDATE")
        .fetch_one(connection)
        .await
        .doing("lock the registry")?;
    Ok(())
}

/// The tenant of this name.
pub async fn find_tenant(connection: &mut PgConnection, name: &str) -> Result<Option<TenantId>, StoreError> {
    let id = sqlx::query_scalar!("SELECT id FROM tenant WHERE name = $1", name)
        .fetch_optional(connection)
        .await
        .doing("look for a tenant")?;
    Ok(id.map(TenantId))
}

/// Adds a tenant.
pub async fn insert_tenant(connection: &mut PgConnection, name: &str) -> Result<TenantId, StoreError> {
    sqlx::query_scalar!("INSERT INTO tenant (name) VALUES ($1) RETURNING id", name)
        .fetch_one(connection)
        .await
        .doing("add a tenant")
        .map(TenantId)
}

/// Whose jobs this producer publishes.
pub async fn find_producer(connection: &mut PgConnection, name: &str) -> Result<Option<TenantId>, StoreError> {
    let id = sqlx::query_scalar!("SELECT tenant_id FROM producer WHERE name = $1", name)
        .fetch_optional(connection)
        .await
        .doing("look for a producer")?;
    Ok(id.map(TenantId))
}

/// Adds a producer.
pub async fn insert_producer(connection: &mut PgConnection, name: &str, tenant: TenantId) -> Result<(), StoreError> {
    sqlx::query!("INSERT INTO producer (name, tenant_id) VALUES ($1, $2)", name, tenant.0)
        .execute(connection)
        .await
        .doing("add a producer")?;
    Ok(())
}

/// The names of a tenant's accounts.
pub async fn account_names(connection: &mut PgConnection, tenant: TenantId) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!("SELECT name FROM account WHERE tenant_id = $1 ORDER BY name", tenant.0)
        .fetch_all(connection)
        .await
        .doing("list accounts")
}

/// The account of this name.
pub async fn find_account(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Option<AccountRecord>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT id, portfolio, channel, provider, base_url, api_version, waba_id, credentials,
                  uncertain AS "uncertain: Json<UncertainOverrides>", terms AS "terms: Json<AccountTerms>"
           FROM account WHERE tenant_id = $1 AND name = $2"#,
        tenant.0,
        name
    )
    .fetch_optional(connection)
    .await
    .doing("look for an account")?;
    Ok(row.map(|row| AccountRecord {
        id: AccountId(row.id),
        fields: AccountFields {
            portfolio: row.portfolio,
            channel: row.channel,
            provider: row.provider,
            base_url: row.base_url,
            api_version: row.api_version,
            waba_id: row.waba_id,
            uncertain: row.uncertain.0,
            terms: row.terms.0,
        },
        credentials: row.credentials,
    }))
}

/// Adds an account.
pub async fn insert_account(
    connection: &mut PgConnection,
    tenant: TenantId,
    name: &str,
    fields: &AccountFields,
    credentials: &[u8],
    app_digest: &[u8],
) -> Result<AccountId, StoreError> {
    sqlx::query_scalar!(
        "INSERT INTO account (tenant_id, name, portfolio, channel, provider, base_url, api_version, waba_id,
                              credentials, app_digest, uncertain, terms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id",
        tenant.0,
        name,
        fields.portfolio,
        fields.channel,
        fields.provider,
        fields.base_url,
        fields.api_version,
        fields.waba_id,
        credentials,
        app_digest,
        Json(fields.uncertain) as _,
        Json(&fields.terms) as _
    )
    .fetch_one(connection)
    .await
    .doing("add an account")
    .map(AccountId)
}

/// Changes an account; its secrets only when there are new ones (sealed, with the digest of the one that signs).
pub async fn update_account(
    connection: &mut PgConnection,
    id: AccountId,
    fields: &AccountFields,
    secrets: Option<(&[u8], &[u8])>,
) -> Result<(), StoreError> {
    let (credentials, app_digest) = secrets.unzip();
    sqlx::query!(
        "UPDATE account SET portfolio = $2, base_url = $3, api_version = $4, waba_id = $5, updated_at = now(),
                credentials = coalesce($6, credentials), app_digest = coalesce($7, app_digest), uncertain = $8,
                terms = $9
         WHERE id = $1",
        id.0,
        fields.portfolio,
        fields.base_url,
        fields.api_version,
        fields.waba_id,
        credentials,
        app_digest,
        Json(fields.uncertain) as _,
        Json(&fields.terms) as _
    )
    .execute(connection)
    .await
    .doing("change an account")?;
    Ok(())
}

/// The number of this account that reads `business_number`.
pub async fn find_number(
    connection: &mut PgConnection,
    account: AccountId,
    business_number: &str,
) -> Result<Option<(NumberId, NumberFields)>, StoreError> {
    let row = sqlx::query!(
        "SELECT id, provider_number_id, limit_per_s, status FROM business_number
         WHERE account_id = $1 AND business_number = $2",
        account.0,
        business_number
    )
    .fetch_optional(connection)
    .await
    .doing("look for a number")?;
    Ok(row.map(|row| {
        let fields = NumberFields {
            provider_number_id: row.provider_number_id,
            limit_per_s: row.limit_per_s,
            status: row.status,
        };
        (NumberId(row.id), fields)
    }))
}

/// Adds a number, with the lease that workers take turns on.
pub async fn insert_number(
    connection: &mut PgConnection,
    account: AccountId,
    business_number: &str,
    fields: &NumberFields,
) -> Result<NumberId, StoreError> {
    let id = sqlx::query_scalar!(
        "INSERT INTO business_number (account_id, business_number, provider_number_id, limit_per_s, status)
         VALUES ($1, $2, $3, $4, $5) RETURNING id",
        account.0,
        business_number,
        fields.provider_number_id,
        fields.limit_per_s,
        fields.status
    )
    .fetch_one(&mut *connection)
    .await
    .doing("add a number")?;
    sqlx::query!("INSERT INTO number_lease (number_id) VALUES ($1)", id)
        .execute(connection)
        .await
        .doing("add a number's lease")?;
    Ok(NumberId(id))
}

/// Changes a number.
pub async fn update_number(
    connection: &mut PgConnection,
    id: NumberId,
    fields: &NumberFields,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE business_number SET provider_number_id = $2, limit_per_s = $3, status = $4, updated_at = now()
         WHERE id = $1",
        id.0,
        fields.provider_number_id,
        fields.limit_per_s,
        fields.status
    )
    .execute(connection)
    .await
    .doing("change a number")?;
    Ok(())
}

/// The template of this account, name and language.
pub async fn find_template(
    connection: &mut PgConnection,
    account: AccountId,
    name: &str,
    language: &str,
) -> Result<Option<(TemplateId, TemplateFields)>, StoreError> {
    let row = sqlx::query!(
        "SELECT id, provider_template_id, category, status, parameter_format, components FROM template
         WHERE account_id = $1 AND name = $2 AND language = $3",
        account.0,
        name,
        language
    )
    .fetch_optional(connection)
    .await
    .doing("look for a template")?;
    Ok(row.map(|row| {
        let fields = TemplateFields {
            provider_template_id: row.provider_template_id,
            category: row.category,
            status: row.status,
            parameter_format: row.parameter_format,
            components: row.components,
        };
        (TemplateId(row.id), fields)
    }))
}

/// Adds a template.
pub async fn insert_template(
    connection: &mut PgConnection,
    account: AccountId,
    name: &str,
    language: &str,
    fields: &TemplateFields,
) -> Result<TemplateId, StoreError> {
    sqlx::query_scalar!(
        "INSERT INTO template (account_id, name, language, category, status, parameter_format, components, provider_template_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        account.0,
        name,
        language,
        fields.category,
        fields.status,
        fields.parameter_format,
        fields.components,
        fields.provider_template_id
    )
    .fetch_one(connection)
    .await
    .doing("add a template")
    .map(TemplateId)
}

/// Changes a template.
pub async fn update_template(
    connection: &mut PgConnection,
    id: TemplateId,
    fields: &TemplateFields,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE template SET category = $2, status = $3, parameter_format = $4, components = $5,
                provider_template_id = $6, updated_at = now()
         WHERE id = $1",
        id.0,
        fields.category,
        fields.status,
        fields.parameter_format,
        fields.components,
        fields.provider_template_id
    )
    .execute(connection)
    .await
    .doing("change a template")?;
    Ok(())
}
