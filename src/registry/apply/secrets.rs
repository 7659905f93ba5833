//! Accounts of a file, with their secrets.

use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    domain::{hold::HoldScope, ids::AccountId},
    providers::Credentials,
    registry::{
        Problem,
        apply::{ApplyError, Applying, Became, secrets_key},
        file::{AccountEntry, RegistryFile},
    },
    store::{
        accounts::{self, AccountFields, AccountRecord},
        holds_list,
        vault::VaultError,
    },
};

/// The secret that signs callbacks.
const APP_SECRET: &str = "app_secret";

impl Applying<'_> {
    pub(super) async fn account(&mut self, at: &str, entry: &AccountEntry) -> Result<Option<AccountId>, ApplyError> {
        let before = self.problems.len();
        let required = self.check_provider(at, entry);
        let Some(tenant) = self.tenant(at, &entry.tenant).await? else {
            return Ok(None);
        };
        let found = accounts::find_account(self.connection, tenant, &entry.name).await?;
        if let Some(found) = &found
            && (found.fields.provider != entry.provider || found.fields.channel != entry.channel.as_str())
        {
            let reason = "the channel and provider of an account never change: give the new one another name";
            self.refuse(Problem::new(format!("{at}/provider"), "cannot_change", reason));
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
            uncertain: entry.uncertain,
            terms: entry.terms(),
        };
        let (id, became) = match found {
            None => {
                let given = given.unwrap_or_default();
                let (sealed, digest) = (self.means.vault.seal(&given)?, self.digest(&given));
                let (to, name) = (&mut *self.connection, &entry.name);
                let id = accounts::insert_account(to, tenant, name, &fields, &sealed, &digest).await?;
                (id, Became::Created)
            }
            Some(found) => (found.id, self.changed_account(&found, &fields, given).await?),
        };
        self.became("account", &entry.name, became);
        Ok(Some(id))
    }

    async fn changed_account(
        &mut self,
        found: &AccountRecord,
        fields: &AccountFields,
        given: Option<Credentials>,
    ) -> Result<Became, ApplyError> {
        let fresh = given.filter(|given| !self.means.vault.open(&found.credentials).is_ok_and(|old| same(&old, given)));
        if fresh.is_none() && found.fields == *fields {
            return Ok(Became::Unchanged);
        }
        let sealed =
            fresh.map(|new| Ok::<_, VaultError>((self.means.vault.seal(&new)?, self.digest(&new)))).transpose()?;
        let secrets = sealed.as_ref().map(|(sealed, digest)| (sealed.as_slice(), digest.as_slice()));
        accounts::update_account(self.connection, found.id, fields, secrets).await?;
        if secrets.is_some() {
            holds_list::close_for_credentials(self.connection, &HoldScope::Account(found.id)).await?;
        }
        Ok(Became::Updated)
    }

    /// Checks that there is such an adapter; answers the credentials it needs.
    fn check_provider(&mut self, at: &str, entry: &AccountEntry) -> &'static [&'static str] {
        let Some(provider) = self.means.providers.get(&entry.provider) else {
            let known: Vec<_> = self.means.providers.names().collect();
            let reason = format!("there is no provider `{}`; known: {}", entry.provider, known.join(", "));
            let problem =
                Problem::new(format!("{at}/provider"), "unknown_provider", reason).near(&entry.provider, known);
            self.refuse(problem);
            return &[];
        };
        let (channel, required) = (provider.channel(), provider.required_credentials());
        if channel != entry.channel {
            let reason = format!("{} serves the channel {channel}", entry.provider);
            self.refuse(Problem::new(format!("{at}/channel"), "wrong_channel", reason));
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
            if given.get(*name).is_none_or(|secret| secret.expose_secret().is_empty()) {
                let reason = format!("this provider needs the credential `{name}`");
                self.refuse(Problem::new(format!("{at}/credentials/{name}"), "missing_credential", reason));
            }
        }
        Some(Credentials(given))
    }

    /// Accounts that share the secret which signs callbacks are one app at the provider. One without it is alone.
    fn digest(&self, credentials: &Credentials) -> Vec<u8> {
        let alone = || SecretString::from(uuid::Uuid::new_v4().to_string());
        self.means.vault.digest(&credentials.get(APP_SECRET).cloned().unwrap_or_else(alone))
    }

    pub(super) fn unused_secrets(&mut self, file: &RegistryFile) {
        let strays: Vec<_> =
            self.secrets.keys().filter(|key| !file.accounts.iter().any(|a| secrets_key(a) == **key)).cloned().collect();
        for key in strays {
            let pointer = format!("/secrets/{}", key.replace('~', "~0").replace('/', "~1"));
            self.refuse(Problem::new(
                pointer,
                "unknown_account",
                "no account of this file is called `<tenant>/<account>` so",
            ));
        }
    }
}

fn same(old: &Credentials, new: &Credentials) -> bool {
    let plain = |c: &Credentials| -> Vec<(String, String)> {
        c.0.iter().map(|(name, secret)| (name.clone(), secret.expose_secret().to_owned())).collect()
    };
    plain(old) == plain(new)
}
