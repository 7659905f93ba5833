//! Makes the registry what a file says: all of it in one transaction, or nothing and every reason at once.
//!
//! Applying twice changes nothing: each object is compared with what stands. What a file does not name stays. The
//! status of a template or number drives its hold: one that cannot be sent with opens it, one that can closes it.
//! Applies wait for each other (the registry's version row is locked first), so nothing moves between the comparison
//! and the commit.

use std::collections::{BTreeMap, HashMap};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        hold::HoldScope,
        ids::{AccountId, TenantId},
        named,
        template::Template,
    },
    providers::{self, Credentials},
    registry::{
        Problem,
        file::{AccountEntry, DEFAULT_TENANT, NumberEntry, RegistryFile, TemplateEntry},
    },
    store::{
        Connection, Store, StoreError,
        accounts::{self, AccountFields, NumberFields, TemplateFields},
        commit, holds_list,
        registry::bump,
        vault::{Vault, VaultError},
    },
};

const TEMPLATE_CAUSE: &str = "template_status";
const NUMBER_CAUSE: &str = "number_status";
/// The secret that signs callbacks.
const APP_SECRET: &str = "app_secret";

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
pub async fn apply(
    means: Means<'_>,
    tenant: TenantId,
    update: &RegistryUpdate,
) -> Result<Applied, ApplyError> {
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
    let Applying {
        problems, applied, ..
    } = applying;
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
    file.problems()
        .into_iter()
        .map(|p| Problem::new(p.field, "invalid", p.reason))
        .collect()
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
            self.accounts
                .insert((entry.tenant.clone(), entry.name.clone()), id);
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
        self.applied.changes.push(Change {
            kind: kind.to_owned(),
            name: name.into(),
            became,
        });
    }

    async fn tenant_entry(&mut self, row: usize, name: &str) -> Result<(), ApplyError> {
        let found = accounts::find_tenant(self.connection, name).await?;
        if found.is_none() && self.only.is_some() {
            let reason = "only a token of the tenant `default` may add tenants";
            self.refuse(Problem::new(
                format!("/tenants/{row}/name"),
                "other_tenant",
                reason,
            ));
            return Ok(());
        }
        if found.is_none() {
            accounts::insert_tenant(self.connection, name).await?;
        }
        self.became(
            "tenant",
            name,
            if found.is_some() {
                Became::Unchanged
            } else {
                Became::Created
            },
        );
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
            self.refuse(Problem::new(
                format!("{at}/tenant"),
                "unknown_tenant",
                reason,
            ));
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

    async fn account(
        &mut self,
        at: &str,
        entry: &AccountEntry,
    ) -> Result<Option<AccountId>, ApplyError> {
        let before = self.problems.len();
        let required = self.check_provider(at, entry);
        let Some(tenant) = self.tenant(at, &entry.tenant).await? else {
            return Ok(None);
        };
        let found = accounts::find_account(self.connection, tenant, &entry.name).await?;
        if let Some(found) = &found
            && (found.fields.provider != entry.provider
                || found.fields.channel != entry.channel.as_str())
        {
            let reason = "the channel and provider of an account never change: give the new one another name";
            self.refuse(Problem::new(
                format!("{at}/provider"),
                "cannot_change",
                reason,
            ));
        }
        let given = self.given_secrets(at, entry, required, found.is_some());
        if self.problems.len() > before {
            return Ok(None);
        }
        let fields = AccountFields {
            portfolio: entry.portfolio.clone(),
            channel: entry.channel.to_string(),
            provider: entry.provider.clone(),
            base_url: entry.base_url.trim_end_matches('/').to_owned(),
            api_version: entry.api_version.clone(),
            waba_id: entry.waba_id.clone(),
        };
        let Some(found) = found else {
            let given = given.unwrap_or_default();
            let (sealed, digest) = (self.means.vault.seal(&given)?, self.digest(&given));
            let id = accounts::insert_account(
                self.connection,
                tenant,
                &entry.name,
                &fields,
                &sealed,
                &digest,
            )
            .await?;
            self.became("account", &entry.name, Became::Created);
            return Ok(Some(id));
        };
        let fresh = given.filter(|given| {
            !self
                .means
                .vault
                .open(&found.credentials)
                .is_ok_and(|old| same(&old, given))
        });
        if fresh.is_none() && found.fields == fields {
            self.became("account", &entry.name, Became::Unchanged);
            return Ok(Some(found.id));
        }
        let sealed = fresh
            .map(|new| Ok::<_, VaultError>((self.means.vault.seal(&new)?, self.digest(&new))))
            .transpose()?;
        let secrets = sealed
            .as_ref()
            .map(|(sealed, digest)| (sealed.as_slice(), digest.as_slice()));
        accounts::update_account(self.connection, found.id, &fields, secrets).await?;
        self.became("account", &entry.name, Became::Updated);
        Ok(Some(found.id))
    }

    /// Checks that there is such an adapter; answers the credentials it needs.
    fn check_provider(&mut self, at: &str, entry: &AccountEntry) -> &'static [&'static str] {
        let Some(provider) = self.means.providers.get(&entry.provider) else {
            let known: Vec<_> = self.means.providers.names().collect();
            let reason = format!(
                "there is no provider `{}`; known: {}",
                entry.provider,
                known.join(", ")
            );
            let problem = Problem::new(format!("{at}/provider"), "unknown_provider", reason)
                .near(&entry.provider, known);
            self.refuse(problem);
            return &[];
        };
        let (channel, required) = (provider.channel(), provider.required_credentials());
        if channel != entry.channel {
            let reason = format!("{} serves the channel {channel}", entry.provider);
            self.refuse(Problem::new(
                format!("{at}/channel"),
                "wrong_channel",
                reason,
            ));
        }
        required
    }

    /// The secrets that came with the file, complete; none when the account keeps the ones it has.
    fn given_secrets(
        &mut self,
        at: &str,
        entry: &AccountEntry,
        required: &[&str],
        exists: bool,
    ) -> Option<Credentials> {
        let given = self.secrets.get(&secrets_key(entry));
        if given.is_none() && exists {
            return None;
        }
        let given = given.cloned().unwrap_or_default();
        for name in required {
            if given
                .get(*name)
                .is_none_or(|secret| secret.expose_secret().is_empty())
            {
                let reason = format!("this provider needs the credential `{name}`");
                self.refuse(Problem::new(
                    format!("{at}/credentials/{name}"),
                    "missing_credential",
                    reason,
                ));
            }
        }
        Some(Credentials(given))
    }

    /// Accounts that share the secret which signs callbacks are one app at the provider. One without it is alone.
    fn digest(&self, credentials: &Credentials) -> Vec<u8> {
        let alone = || SecretString::from(uuid::Uuid::new_v4().to_string());
        self.means
            .vault
            .digest(&credentials.get(APP_SECRET).cloned().unwrap_or_else(alone))
    }

    fn unused_secrets(&mut self, file: &RegistryFile) {
        let strays: Vec<_> = self
            .secrets
            .keys()
            .filter(|key| !file.accounts.iter().any(|a| secrets_key(a) == **key))
            .cloned()
            .collect();
        for key in strays {
            let pointer = format!("/secrets/{}", key.replace('~', "~0").replace('/', "~1"));
            self.refuse(Problem::new(
                pointer,
                "unknown_account",
                "no account of this file is called `<tenant>/<account>` so",
            ));
        }
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

    async fn number(&mut self, at: &str, entry: &NumberEntry) -> Result<(), ApplyError> {
        let Some((tenant, account)) = self.owner(at, &entry.tenant, &entry.account).await? else {
            return Ok(());
        };
        let limit = entry
            .limit
            .map(|limit| i32::try_from(limit.get()))
            .transpose();
        let Ok(limit_per_s) = limit else {
            self.refuse(Problem::new(
                format!("{at}/limit"),
                "too_large",
                "no provider allows so much: leave it out for unlimited",
            ));
            return Ok(());
        };
        let status = entry.status.trim().to_lowercase();
        let fields = NumberFields {
            provider_number_id: entry.provider_number_id.clone(),
            limit_per_s,
            status,
        };
        let name = &entry.business_number;
        let found = accounts::find_number(self.connection, account, name).await?;
        let status_moved = found
            .as_ref()
            .is_none_or(|(_, old)| old.status != fields.status);
        let (id, became) = match found {
            None => (
                accounts::insert_number(self.connection, account, name, &fields).await?,
                Became::Created,
            ),
            Some((id, old)) if old == fields => (id, Became::Unchanged),
            Some((id, _)) => {
                accounts::update_number(self.connection, id, &fields).await?;
                (id, Became::Updated)
            }
        };
        self.became("number", name, became);
        let good = matches!(fields.status.as_str(), "connected" | "flagged");
        let hold = StatusHold {
            tenant,
            scope: HoldScope::Number(id),
            cause: NUMBER_CAUSE,
            status: &fields.status,
            good,
        };
        self.status_hold(&hold, status_moved).await
    }

    async fn template(&mut self, at: &str, entry: &TemplateEntry) -> Result<(), ApplyError> {
        let Some((tenant, account)) = self.owner(at, &entry.tenant, &entry.account).await? else {
            return Ok(());
        };
        let components = serde_json::Value::Array(entry.components.clone());
        let parsed = Template::parse(
            &entry.name,
            &entry.language,
            entry.category,
            entry.parameter_format,
            &components,
        );
        if let Err(problems) = parsed {
            for problem in problems {
                let pointer = format!("{at}/components{}", problem.pointer);
                self.refuse(Problem::new(pointer, "invalid_template", problem.reason));
            }
            return Ok(());
        }
        let fields = TemplateFields {
            category: entry.category.to_string(),
            status: entry.status.trim().to_lowercase(),
            parameter_format: entry.parameter_format.to_string(),
            components,
        };
        let found =
            accounts::find_template(self.connection, account, &entry.name, &entry.language).await?;
        let status_moved = found
            .as_ref()
            .is_none_or(|(_, old)| old.status != fields.status);
        let (id, became) = match found {
            None => {
                let id = accounts::insert_template(
                    self.connection,
                    account,
                    &entry.name,
                    &entry.language,
                    &fields,
                )
                .await?;
                (id, Became::Created)
            }
            Some((id, old)) if old == fields => (id, Became::Unchanged),
            Some((id, _)) => {
                accounts::update_template(self.connection, id, &fields).await?;
                (id, Became::Updated)
            }
        };
        self.became(
            "template",
            format!("{} ({})", entry.name, entry.language),
            became,
        );
        let good = fields.status == "approved";
        let hold = StatusHold {
            tenant,
            scope: HoldScope::Template(id),
            cause: TEMPLATE_CAUSE,
            status: &fields.status,
            good,
        };
        self.status_hold(&hold, status_moved).await
    }

    /// A status that was told before opens nothing again: a person may have closed the hold on purpose.
    async fn status_hold(&mut self, hold: &StatusHold<'_>, moved: bool) -> Result<(), ApplyError> {
        if hold.good {
            let reason = format!("the status is {}", hold.status);
            holds_list::close_for_status(self.connection, &hold.scope, hold.cause, &reason).await?;
        } else if moved {
            let detail = format!("the provider's status is {}", hold.status);
            holds_list::open_for_status(
                self.connection,
                hold.tenant,
                &hold.scope,
                hold.cause,
                &detail,
            )
            .await?;
        }
        Ok(())
    }
}

struct StatusHold<'a> {
    tenant: TenantId,
    scope: HoldScope,
    cause: &'static str,
    status: &'a str,
    good: bool,
}

/// How an account is called among the secrets.
pub fn secrets_key(entry: &AccountEntry) -> String {
    format!("{}/{}", entry.tenant, entry.name)
}

fn same(old: &Credentials, new: &Credentials) -> bool {
    let plain = |c: &Credentials| -> Vec<(String, String)> {
        c.0.iter()
            .map(|(name, secret)| (name.clone(), secret.expose_secret().to_owned()))
            .collect()
    };
    plain(old) == plain(new)
}
