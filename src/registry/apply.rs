//! Makes the registry what a file says: all of it in one transaction, or nothing and every reason at once.
//!
//! Applying twice changes nothing: each object is compared with what stands. What a file does not name stays. The
//! status of a template or number drives its hold: one that cannot be sent with opens it, one that can closes it.
//! Applies wait for each other (the registry's version row is locked first), so nothing moves between the comparison
//! and the commit.

mod objects;
mod secrets;

use std::collections::{BTreeMap, HashMap};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        ids::{AccountId, TenantId},
        named,
    },
    providers,
    registry::{
        Problem,
        file::{AccountEntry, DEFAULT_TENANT, RegistryFile},
    },
    store::{
        Connection, Store, StoreError, accounts, commit,
        registry::bump,
        vault::{Vault, VaultError},
    },
};

/// A registry file with the secrets its accounts name, fetched where the file lies.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryUpdate {
    /// The file.
    pub registry: RegistryFile,
    /// Secrets by name, by `<tenant>/<account>`. An account that exists may be left out: it keeps the ones it has.
    #[serde(default)]
    pub secrets: BTreeMap<String, BTreeMap<String, SecretString>>,
}

named! {
    /// What became of one object.
    pub enum Became {
        /// It is new.
        Created = "created",
        /// It changed.
        Updated = "updated",
        /// It was so already.
        Unchanged = "unchanged",
    }
}

/// One object of the file.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Change {
    /// tenant, producer, account, number or template.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub became: Became,
}

/// What applying a file did.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Applied {
    /// Every object, in the order of the file.
    pub changes: Vec<Change>,
}

impl Applied {
    /// How many objects became this.
    pub fn count(&self, became: Became) -> usize {
        self.changes.iter().filter(|c| c.became == became).count()
    }
}

/// Why nothing was applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The file cannot be made so.
    #[error("the registry was refused")]
    Refused(Vec<Problem>),
    /// The secrets could not be sealed.
    #[error("could not seal an account's credentials")]
    Vault(#[from] VaultError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What applying needs beside the file.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// The database.
    pub store: &'a Store,
    /// Seals secrets.
    pub vault: &'a Vault,
    /// The adapters there are.
    pub providers: &'a providers::Registry,
}

/// Makes the registry what `update` says, on behalf of `tenant`: only `default` may write for others.
pub async fn apply(means: Means<'_>, tenant: TenantId, update: &RegistryUpdate) -> Result<Applied, ApplyError> {
    let mut transaction = means.store.begin().await?;
    accounts::lock(&mut transaction).await?;
    let default = accounts::find_tenant(&mut transaction, DEFAULT_TENANT).await?;
    let mut applying = Applying {
        connection: &mut transaction,
        means,
        only: (Some(tenant) != default).then_some(tenant),
        secrets: &update.secrets,
        tenants: HashMap::new(),
        accounts: HashMap::new(),
        problems: by_itself(&update.registry),
        applied: Applied::default(),
    };
    applying.file(&update.registry).await?;
    let Applying { problems, applied, .. } = applying;
    if !problems.is_empty() {
        return Err(ApplyError::Refused(problems));
    }
    if applied.count(Became::Unchanged) < applied.changes.len() {
        bump(&mut transaction).await?;
    }
    commit(transaction, "commit the registry").await?;
    Ok(applied)
}

fn by_itself(file: &RegistryFile) -> Vec<Problem> {
    file.problems().into_iter().map(|p| Problem::new(p.field, "invalid", p.reason)).collect()
}

/// An account of this file or of the database, as numbers and templates refer to it.
type AccountKey = (String, String);

struct Applying<'a> {
    connection: &'a mut Connection,
    means: Means<'a>,
    only: Option<TenantId>,
    secrets: &'a BTreeMap<String, BTreeMap<String, SecretString>>,
    tenants: HashMap<String, Option<TenantId>>,
    // None: the account was refused or is not known, which was said once already.
    accounts: HashMap<AccountKey, Option<AccountId>>,
    problems: Vec<Problem>,
    applied: Applied,
}

impl Applying<'_> {
    async fn file(&mut self, file: &RegistryFile) -> Result<(), ApplyError> {
        // What is wrong by itself is not looked at further: the same fault would be told twice.
        if !self.problems.is_empty() {
            return Ok(());
        }
        for (row, entry) in file.tenants.iter().enumerate() {
            self.tenant_entry(row, &entry.name).await?;
        }
        for (row, entry) in file.producers.iter().enumerate() {
            self.producer(row, &entry.name, &entry.tenant).await?;
        }
        for (row, entry) in file.accounts.iter().enumerate() {
            let id = self.account(&format!("/accounts/{row}"), entry).await?;
            self.accounts.insert((entry.tenant.clone(), entry.name.clone()), id);
        }
        for (row, entry) in file.numbers.iter().enumerate() {
            self.number(&format!("/numbers/{row}"), entry).await?;
        }
        for (row, entry) in file.templates.iter().enumerate() {
            self.template(&format!("/templates/{row}"), entry).await?;
        }
        self.unused_secrets(file);
        Ok(())
    }

    fn refuse(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn became(&mut self, kind: &str, name: impl Into<String>, became: Became) {
        self.applied.changes.push(Change { kind: kind.to_owned(), name: name.into(), became });
    }

    async fn tenant_entry(&mut self, row: usize, name: &str) -> Result<(), ApplyError> {
        let found = accounts::find_tenant(self.connection, name).await?;
        if found.is_none() && self.only.is_some() {
            let reason = "only a token of the tenant `default` may add tenants";
            self.refuse(Problem::new(format!("/tenants/{row}/name"), "other_tenant", reason));
            return Ok(());
        }
        if found.is_none() {
            accounts::insert_tenant(self.connection, name).await?;
        }
        self.became("tenant", name, if found.is_some() { Became::Unchanged } else { Became::Created });
        Ok(())
    }

    /// The tenant an entry names, if the caller may write for it.
    async fn tenant(&mut self, at: &str, name: &str) -> Result<Option<TenantId>, ApplyError> {
        if let Some(known) = self.tenants.get(name) {
            return Ok(*known);
        }
        let mut found = accounts::find_tenant(self.connection, name).await?;
        if found.is_none() {
            let reason = format!("there is no tenant `{name}`: name it under `tenants`");
            self.refuse(Problem::new(format!("{at}/tenant"), "unknown_tenant", reason));
        } else if self.only.is_some() && found != self.only {
            let reason = "only a token of the tenant `default` may write for other tenants";
            self.refuse(Problem::new(format!("{at}/tenant"), "other_tenant", reason));
            found = None;
        }
        self.tenants.insert(name.to_owned(), found);
        Ok(found)
    }

    async fn producer(&mut self, row: usize, name: &str, tenant: &str) -> Result<(), ApplyError> {
        let at = format!("/producers/{row}");
        let Some(tenant) = self.tenant(&at, tenant).await? else {
            return Ok(());
        };
        let became = match accounts::find_producer(self.connection, name).await? {
            Some(owner) if owner == tenant => Became::Unchanged,
            Some(_) => {
                let reason = "belongs to another tenant already";
                self.refuse(Problem::new(format!("{at}/name"), "other_tenant", reason));
                return Ok(());
            }
            None => {
                accounts::insert_producer(self.connection, name, tenant).await?;
                Became::Created
            }
        };
        self.became("producer", name, became);
        Ok(())
    }

    /// The account a number or template belongs to: of this file, else of the database.
    async fn owner(
        &mut self,
        at: &str,
        tenant: &str,
        account: &str,
    ) -> Result<Option<(TenantId, AccountId)>, ApplyError> {
        let Some(tenant_id) = self.tenant(at, tenant).await? else {
            return Ok(None);
        };
        let key = (tenant.to_owned(), account.to_owned());
        if let Some(known) = self.accounts.get(&key) {
            return Ok(known.map(|id| (tenant_id, id)));
        }
        let found = accounts::find_account(self.connection, tenant_id, account).await?;
        if let Some(found) = found {
            self.accounts.insert(key, Some(found.id));
            return Ok(Some((tenant_id, found.id)));
        }
        let mut known = accounts::account_names(self.connection, tenant_id).await?;
        known.sort();
        let reason = format!("there is no account `{account}` of the tenant `{tenant}`");
        let problem = Problem::new(format!("{at}/account"), "unknown_account", reason);
        self.refuse(problem.near(account, known.iter().map(String::as_str)));
        Ok(None)
    }
}

/// How an account is called among the secrets.
pub fn secrets_key(entry: &AccountEntry) -> String {
    format!("{}/{}", entry.tenant, entry.name)
}
