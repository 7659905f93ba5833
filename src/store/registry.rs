//! The registry as processes keep it in memory: read whole, read again when its version moves.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::{
    domain::{
        Channel,
        hold::Route,
        ids::{AccountId, Installation, NumberId, TemplateId, TenantId},
        lane::Lane,
        template::Template,
        terms::AccountTerms,
        uncertain::UncertainOverrides,
    },
    providers::Access,
    store::{Doing as _, Store, StoreError, vault::Vault},
};

/// An account as sending and callbacks need it.
#[derive(Debug)]
pub struct Account {
    /// Row id.
    pub id: AccountId,
    /// Who owns it.
    pub tenant: TenantId,
    /// The name people use.
    pub name: String,
    /// The Meta business it belongs to.
    pub portfolio: Option<String>,
    /// What its numbers speak.
    pub channel: Channel,
    /// The adapter.
    pub provider: String,
    /// The provider's id of the account.
    pub waba_id: String,
    /// How to reach it. Absent when the credentials cannot be opened with this `secrets.key`.
    pub access: Option<Arc<Access>>,
    /// Equal for accounts that are one app at the provider.
    pub app_digest: Vec<u8>,
    /// The last part of its callback URL.
    pub hook: Uuid,
    /// Its own policies for uncertain messages.
    pub uncertain: UncertainOverrides,
    /// What forecasts go by.
    pub terms: AccountTerms,
}

/// A business number.
#[derive(Debug)]
pub struct Number {
    /// Row id.
    pub id: NumberId,
    /// Its account.
    pub account: Arc<Account>,
    /// The identity we send from.
    pub business_number: String,
    /// The provider's id of it.
    pub provider_number_id: Arc<str>,
    /// Messages a second; absent is unlimited.
    pub limit_per_s: Option<u32>,
    /// The provider's word for its state.
    pub status: String,
}

/// A template with its slots.
#[derive(Debug)]
pub struct RegisteredTemplate {
    /// Row id.
    pub id: TemplateId,
    /// Its account.
    pub account: AccountId,
    /// The provider's own code of it.
    pub provider_template_id: Option<String>,
    /// The provider's word for its state.
    pub status: String,
    /// Name, language, category, slots.
    pub template: Arc<Template>,
}

/// One version of the registry.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows with every change.
    pub version: i64,
    /// Our name inside tokens.
    pub installation: Option<Installation>,
    /// Names of tenants.
    pub tenants: HashMap<TenantId, String>,
    /// Whose job it is, by producer.
    pub producers: HashMap<String, TenantId>,
    /// Accounts.
    pub accounts: HashMap<AccountId, Arc<Account>>,
    /// Numbers.
    pub numbers: HashMap<NumberId, Arc<Number>>,
    /// Templates.
    pub templates: HashMap<TemplateId, Arc<RegisteredTemplate>>,
}

impl Snapshot {
    /// The numbers of a tenant that read `business_number`, one per account that has it.
    pub fn numbers_named<'a>(
        &'a self,
        tenant: TenantId,
        business_number: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Number>> {
        self.numbers_of(tenant).filter(move |n| n.business_number == business_number)
    }

    /// All numbers of a tenant.
    pub fn numbers_of(&self, tenant: TenantId) -> impl Iterator<Item = &Arc<Number>> {
        self.numbers.values().filter(move |n| n.account.tenant == tenant)
    }

    /// All templates of an account.
    pub fn templates_of(&self, account: AccountId) -> impl Iterator<Item = &Arc<RegisteredTemplate>> {
        self.templates.values().filter(move |t| t.account == account)
    }

    /// The account behind a callback URL.
    pub fn account_by_hook(&self, hook: Uuid) -> Option<&Arc<Account>> {
        self.accounts.values().find(|a| a.hook == hook)
    }

    /// How a message of `template` from `number` goes out, which decides the holds that cover it.
    pub fn route(&self, number: &Number, template: &RegisteredTemplate) -> Route {
        let account = &number.account;
        Route {
            provider: account.provider.clone(),
            portfolio: account.portfolio.as_ref().map(|p| format!("{}/{p}", account.tenant)),
            account: account.id,
            number: number.id,
            template: template.id,
            lane: Lane::from(template.template.category),
        }
    }
}

/// The current registry, shared by everything in the process.
#[derive(Debug, Clone)]
pub struct Directory {
    store: Store,
    vault: Vault,
    current: Arc<RwLock<Arc<Snapshot>>>,
}

impl Directory {
    /// An empty directory; [`Directory::refresh`] fills it.
    pub fn new(store: Store, vault: Vault) -> Self {
        Self { store, vault, current: Arc::default() }
    }

    /// What is known now.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key that seals credentials.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Reads the registry again if its version moved; says whether it did.
    pub async fn refresh(&self) -> Result<bool, StoreError> {
        let mut connection = self.store.pool().acquire().await.map_err(StoreError::Connect)?;
        let version = version(&mut connection).await?;
        if version == self.current().version {
            return Ok(false);
        }
        let snapshot = Arc::new(load(&mut connection, &self.vault).await?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        Ok(true)
    }
}

/// The registry's version.
pub async fn version(connection: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!("SELECT version FROM registry_version")
        .fetch_one(connection)
        .await
        .doing("read the registry's version")
}

/// Tells every process that the registry changed. In the transaction that changes it.
pub async fn bump(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("UPDATE registry_version SET version = version + 1")
        .execute(connection)
        .await
        .doing("move the registry's version")?;
    Ok(())
}

/// Reads everything. The version is read first: a change in between is read again next time.
async fn load(connection: &mut PgConnection, vault: &Vault) -> Result<Snapshot, StoreError> {
    let version = version(connection).await?;
    let installation: String = sqlx::query_scalar!("SELECT name FROM installation")
        .fetch_one(&mut *connection)
        .await
        .doing("read the installation")?;
    let tenants =
        sqlx::query!("SELECT id, name FROM tenant").fetch_all(&mut *connection).await.doing("read tenants")?;
    let producers = sqlx::query!("SELECT name, tenant_id FROM producer")
        .fetch_all(&mut *connection)
        .await
        .doing("read producers")?;
    let accounts = load_accounts(connection, vault).await?;
    let numbers = load_numbers(connection, &accounts).await?;
    let templates = load_templates(connection).await?;
    Ok(Snapshot {
        version,
        installation: Some(Installation(installation.into())),
        tenants: tenants.into_iter().map(|row| (TenantId(row.id), row.name)).collect(),
        producers: producers.into_iter().map(|row| (row.name, TenantId(row.tenant_id))).collect(),
        accounts,
        numbers,
        templates,
    })
}

async fn load_accounts(
    connection: &mut PgConnection,
    vault: &Vault,
) -> Result<HashMap<AccountId, Arc<Account>>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT id, tenant_id, name, portfolio, channel, provider, base_url, api_version, waba_id, credentials, app_digest,
                  hook, uncertain AS "uncertain: Json<UncertainOverrides>", terms AS "terms: Json<AccountTerms>"
           FROM account"#
    )
    .fetch_all(connection)
    .await
    .doing("read accounts")?;
    let mut accounts = HashMap::with_capacity(rows.len());
    for row in rows {
        let Ok(channel) = row.channel.parse() else { continue };
        let access = match vault.open(&row.credentials) {
            Ok(credentials) => Some(Arc::new(Access::new(&row.base_url, &row.api_version, credentials))),
            Err(error) => {
                tracing::error!(account.name = row.name, %error, "an account cannot be used; apply it again, or set the right secrets.key");
                None
            }
        };
        let account = Account {
            id: AccountId(row.id),
            tenant: TenantId(row.tenant_id),
            name: row.name,
            portfolio: row.portfolio,
            channel,
            provider: row.provider,
            waba_id: row.waba_id,
            access,
            app_digest: row.app_digest,
            hook: row.hook,
            uncertain: row.uncertain.0,
            terms: row.terms.0,
        };
        accounts.insert(account.id, Arc::new(account));
    }
    Ok(accounts)
}

async fn load_numbers(
    connection: &mut PgConnection,
    accounts: &HashMap<AccountId, Arc<Account>>,
) -> Result<HashMap<NumberId, Arc<Number>>, StoreError> {
    let rows = sqlx::query!(
        "SELECT id, account_id, business_number, provider_number_id, limit_per_s, status FROM business_number"
    )
    .fetch_all(connection)
    .await
    .doing("read numbers")?;
    let numbers = rows.into_iter().filter_map(|row| {
        let number = Number {
            id: NumberId(row.id),
            account: Arc::clone(accounts.get(&AccountId(row.account_id))?),
            business_number: row.business_number,
            provider_number_id: row.provider_number_id.into(),
            limit_per_s: row.limit_per_s.and_then(|limit| u32::try_from(limit).ok()),
            status: row.status,
        };
        Some((number.id, Arc::new(number)))
    });
    Ok(numbers.collect())
}

async fn load_templates(
    connection: &mut PgConnection,
) -> Result<HashMap<TemplateId, Arc<RegisteredTemplate>>, StoreError> {
    let rows = sqlx::query!(
        "SELECT id, account_id, name, language, provider_template_id, category, status, parameter_format, components FROM template"
    )
    .fetch_all(connection)
    .await
    .doing("read templates")?;
    let templates = rows.into_iter().filter_map(|row| {
        let (category, format) = (row.category.parse().ok()?, row.parameter_format.parse().ok()?);
        let template = Template::parse(&row.name, &row.language, category, format, &row.components)
            .inspect_err(|problems| {
                tracing::error!(template.name = row.name, ?problems, "a stored template is not readable");
            })
            .ok()?;
        let registered = RegisteredTemplate {
            id: TemplateId(row.id),
            account: AccountId(row.account_id),
            provider_template_id: row.provider_template_id,
            status: row.status,
            template: Arc::new(template),
        };
        Some((registered.id, Arc::new(registered)))
    });
    Ok(templates.collect())
}
