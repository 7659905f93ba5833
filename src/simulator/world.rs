//! What exists behind the stand-in: accounts with their secrets, numbers with their limits, templates.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
};

use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    registry::file::{AccountEntry, CredentialError, RegistryFile},
    simulator::{
        callbacks::Outbox,
        errors::ApiError,
        limits::{Arrivals, Pairs},
        locked,
        template::Template,
    },
};

/// The provider the simulator stands in for; what a registry file holds of others is left alone.
const PROVIDER: &str = "whatsapp_cloud";

/// Something in the registry that the simulator cannot stand in for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryProblem {
    /// The account has no secret of this name.
    #[error("account {account} has no {credential}")]
    SecretMissing {
        /// The account's name.
        account: String,
        /// The secret's name.
        credential: &'static str,
    },
    /// A secret could not be fetched.
    #[error("a secret of account {account}")]
    Secret {
        /// The account's name.
        account: String,
        /// Why.
        #[source]
        source: CredentialError,
    },
    /// A number or template names an account that the file does not have.
    #[error("{0} names an account that is not in the file")]
    AccountMissing(String),
    /// Two numbers have the same id, so a call would not say which it means.
    #[error("two numbers have the id {0}")]
    NumberTwice(String),
}

/// An account of the stand-in.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) waba_id: String,
    pub(super) access_token: SecretString,
    pub(super) app_secret: SecretString,
    templates: HashMap<String, Vec<Arc<Template>>>,
    pub(super) outbox: Outbox,
}

impl Account {
    pub(super) fn template(&self, name: &str, language: &str) -> Option<&Arc<Template>> {
        self.templates.get(name)?.iter().find(|template| template.language == language)
    }
}

/// A number of the stand-in.
#[derive(Debug)]
pub(super) struct Number {
    /// Its place in [`World::numbers`], as records name it.
    pub(super) index: u16,
    pub(super) id: String,
    pub(super) account: Arc<Account>,
    /// The business number without `+`.
    pub(super) digits: String,
    pub(super) state: Mutex<NumberState>,
}

/// What changes with every call of a number.
#[derive(Debug, Default)]
pub(super) struct NumberState {
    pub(super) arrivals: Arrivals,
    pub(super) pairs: Pairs,
    /// Calls a second; `None` is unlimited.
    pub(super) limit: Option<u32>,
    /// The provider's word in lower case.
    pub(super) status: String,
    pub(super) accepted: u64,
    pub(super) throttled: u64,
}

impl Number {
    /// Notes a call and says whether it makes more than the limit in the second that ends with it. Every call that
    /// names the number counts, refused ones too: a sender that does not slow down stays refused (whatsapp.md §5).
    pub(super) fn arrive(&self, at: u64) -> bool {
        let mut state = locked(&self.state);
        let within = state.arrivals.record(at);
        state.limit.is_some_and(|limit| within > usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Steps 4 and 5 of the gate: the number's state, the pair's bucket, the number's limit.
    pub(super) fn admit(&self, recipient: u64, at: u64, over_limit: bool) -> Result<(), ApiError> {
        let mut state = locked(&self.state);
        match state.status.as_str() {
            "connected" | "flagged" => {}
            "deleted" | "migrated" => return Err(ApiError::unknown_object("post", &self.id)),
            "restricted" | "rate_limited" => return Err(ApiError::of(131_048)),
            "banned" => return Err(ApiError::of(131_031)),
            "maintenance" => return Err(ApiError::of(131_057)),
            _ => return Err(ApiError::of(133_010).details("The account is not registered")),
        }
        if !state.pairs.take(recipient, at) {
            return Err(ApiError::of(131_056).details(
                "Message failed to send because there were too many messages sent from this phone number to the same \
                 phone number in a short period of time.",
            ));
        }
        if over_limit {
            state.pairs.give_back(recipient);
            state.throttled += 1;
            return Err(throttled());
        }
        Ok(())
    }
}

/// The answer over the number's limit.
pub(super) fn throttled() -> ApiError {
    ApiError::of(130_429).details("Cloud API message throughput has been reached.")
}

/// All accounts and numbers.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) accounts: Vec<Arc<Account>>,
    pub(super) numbers: Vec<Arc<Number>>,
    by_id: HashMap<String, u16>,
}

impl World {
    pub(super) fn new(file: &RegistryFile, base_dir: &Path) -> Result<Self, Vec<RegistryProblem>> {
        let mut world = Self::default();
        let mut problems = without_account(file);
        for entry in file.accounts.iter().filter(|entry| entry.provider == PROVIDER) {
            match account(entry, file, base_dir) {
                Ok(account) => world.add(Arc::new(account), entry, file, &mut problems),
                Err(mut found) => problems.append(&mut found),
            }
        }
        if problems.is_empty() { Ok(world) } else { Err(problems) }
    }

    fn add(
        &mut self,
        account: Arc<Account>,
        entry: &AccountEntry,
        file: &RegistryFile,
        problems: &mut Vec<RegistryProblem>,
    ) {
        let owned = |of: &str, tenant: &str| of == entry.name && tenant == entry.tenant;
        for number in file.numbers.iter().filter(|number| owned(&number.account, &number.tenant)) {
            let Ok(index) = u16::try_from(self.numbers.len()) else {
                return;
            };
            if self.by_id.insert(number.provider_number_id.clone(), index).is_some() {
                problems.push(RegistryProblem::NumberTwice(number.provider_number_id.clone()));
            }
            self.numbers.push(Arc::new(Number {
                index,
                id: number.provider_number_id.clone(),
                account: Arc::clone(&account),
                digits: number.business_number.trim_start_matches('+').to_owned(),
                state: Mutex::new(NumberState {
                    limit: number.limit.map(Into::into),
                    status: number.status.to_lowercase(),
                    ..NumberState::default()
                }),
            }));
        }
        self.accounts.push(account);
    }

    pub(super) fn number(&self, id: &str) -> Option<&Arc<Number>> {
        self.numbers.get(usize::from(*self.by_id.get(id)?))
    }

    pub(super) fn account(&self, waba_id: &str) -> Option<&Arc<Account>> {
        self.accounts.iter().find(|account| account.waba_id == waba_id)
    }
}

/// The registry takes references to what the database holds; the simulator has nothing but the file.
fn without_account(file: &RegistryFile) -> Vec<RegistryProblem> {
    let is_missing = |name: &str, tenant: &str| {
        !file.accounts.iter().any(|account| account.name == name && account.tenant == tenant)
    };
    let numbers = file.numbers.iter().filter(|number| is_missing(&number.account, &number.tenant));
    let templates = file.templates.iter().filter(|template| is_missing(&template.account, &template.tenant));
    let numbers = numbers.map(|number| format!("number {}", number.business_number));
    let templates = templates.map(|template| format!("template {}", template.name));
    numbers.chain(templates).map(RegistryProblem::AccountMissing).collect()
}

fn account(entry: &AccountEntry, file: &RegistryFile, base_dir: &Path) -> Result<Account, Vec<RegistryProblem>> {
    let credentials = entry.resolve_credentials(base_dir).map_err(|failed| {
        failed
            .into_iter()
            .map(|source| RegistryProblem::Secret { account: entry.name.clone(), source })
            .collect::<Vec<_>>()
    })?;
    let secret = |credential: &'static str| {
        credentials
            .get(credential)
            .map(|secret| SecretString::from(secret.expose_secret()))
            .ok_or_else(|| vec![RegistryProblem::SecretMissing { account: entry.name.clone(), credential }])
    };
    let mut templates: HashMap<String, Vec<Arc<Template>>> = HashMap::new();
    let owned = |of: &str, tenant: &str| of == entry.name && tenant == entry.tenant;
    for template in file.templates.iter().filter(|template| owned(&template.account, &template.tenant)) {
        templates.entry(template.name.clone()).or_default().push(Arc::new(Template::new(template)));
    }
    Ok(Account {
        waba_id: entry.waba_id.clone(),
        access_token: secret("access_token")?,
        app_secret: secret("app_secret")?,
        templates,
        outbox: Outbox::default(),
    })
}
