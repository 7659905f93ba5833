//! The registry file: what an installation is told about its tenants, producers, accounts, numbers and templates.
//!
//! One file may hold all kinds or only some; JSON or TOML by its extension. Unknown fields are refused, and what can be
//! checked without looking elsewhere is checked here, all problems at once. References (a number's account) may point to
//! what another file or the database holds, so they are resolved by whoever applies the file.
//!
//! Secrets never stand in the file, only where they are found ([`CredentialSource`]).

mod parse;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::{
    domain::template::ParameterFormat,
    registry::credential::{CredentialError, CredentialSource},
};
use crate::{
    domain::{
        Category, Channel,
        terms::{AccountTerms, RateCard, Tier},
        uncertain::UncertainOverrides,
    },
    providers::Credentials,
};

/// The tenant of everything that names none.
pub const DEFAULT_TENANT: &str = "default";

/// What one registry file says. Every list may be absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryFile {
    /// Who owns accounts, tokens and producers. The tenant `default` always exists.
    pub tenants: Vec<TenantEntry>,
    /// Upstream services that publish jobs.
    pub producers: Vec<ProducerEntry>,
    /// What a provider bills and trusts.
    pub accounts: Vec<AccountEntry>,
    /// The identities messages are sent from.
    pub numbers: Vec<NumberEntry>,
    /// Approved texts.
    pub templates: Vec<TemplateEntry>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantEntry {
    /// Its name, unique in an installation.
    pub name: String,
}

/// A service that publishes jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProducerEntry {
    /// Its name, `[a-z0-9-]{1,64}`, unique in an installation.
    pub name: String,
    /// Whose jobs it publishes.
    #[serde(default = "default_tenant")]
    pub tenant: String,
}

/// An account at a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountEntry {
    /// Our name for it, unique in its tenant.
    pub name: String,
    /// Who owns it.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// The Meta business it belongs to, when it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portfolio: Option<String>,
    /// What recipients are reached through.
    pub channel: Channel,
    /// The adapter, for example `whatsapp_cloud`.
    pub provider: String,
    /// Where the provider's API is, for example `https://graph.facebook.com`.
    pub base_url: String,
    /// The API's version as it stands in the path, for example `v25.0`.
    pub api_version: String,
    /// The provider's id of the account (a WABA id, a Page id, …).
    pub waba_id: String,
    /// Where each secret of the account is found, by the secret's name (`access_token`, `app_secret`, `verify_token`).
    #[serde(default)]
    pub credentials: BTreeMap<String, CredentialSource>,
    /// What is done about calls whose outcome nobody knows, by category; what is absent is as in the settings.
    #[serde(default, skip_serializing_if = "UncertainOverrides::is_empty")]
    pub uncertain: UncertainOverrides,
    /// How many people its portfolio may begin to write to within 24 hours, for forecasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// The only countries it may send to, as ISO 3166-1 (`JP`), for forecasts; none is everywhere.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub countries: BTreeSet<String>,
    /// What a message costs, for forecasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<RateCard>,
}

/// A business number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NumberEntry {
    /// The name of the account it belongs to.
    pub account: String,
    /// The tenant of that account.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// The number in E.164 form (`+81312345678`), or the identity other channels send from.
    pub business_number: String,
    /// The provider's id of the number, as it stands in the path of a call.
    pub provider_number_id: String,
    /// Messages per second the provider allows; absent means unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<NonZeroU32>,
    /// The provider's word for its state in lower case: connected, pending, flagged, disconnected, restricted, banned, …
    #[serde(default = "default_number_status")]
    pub status: String,
}

/// A template in one language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateEntry {
    /// The name of the account it belongs to.
    pub account: String,
    /// The tenant of that account.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// Its name at the provider.
    pub name: String,
    /// Its language as the provider writes it, for example `ja` or `en_US`.
    pub language: String,
    /// The provider's own code of it (for WhatsApp its `message_template_id`), by which lists find its messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_template_id: Option<String>,
    /// What it is for, as the provider reviewed it.
    pub category: Category,
    /// The provider's word for its state in lower case: approved, pending, paused, rejected, disabled, deleted,
    /// `in_review`, …
    pub status: String,
    /// How its variables are written.
    #[serde(default)]
    pub parameter_format: ParameterFormat,
    /// Its parts as the provider lists them (for WhatsApp: `[{"type":"BODY","text":"Hello {{1}}"}]`).
    #[serde(default)]
    pub components: Vec<serde_json::Value>,
}

fn default_tenant() -> String {
    DEFAULT_TENANT.to_owned()
}

fn default_number_status() -> String {
    "connected".to_owned()
}

/// Something in a registry file that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a JSON pointer: `/numbers/3/business_number`.
    pub field: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// Why a registry file was refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistryFileError {
    /// The file could not be read.
    #[error("could not read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The extension says neither JSON nor TOML.
    #[error("{}: a registry file ends in .json or .toml", .0.display())]
    UnknownExtension(PathBuf),
    /// The text is not what a registry file holds.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// Why.
        reason: String,
    },
    /// The file reads well but says what cannot be.
    #[error("{}: {}", path.display(), listed(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl RegistryFile {
    /// Reads and checks a file; its extension says whether it is JSON or TOML.
    pub fn read(path: &Path) -> Result<Self, RegistryFileError> {
        let parse = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => parse::json,
            Some("toml") => parse::toml,
            _ => return Err(RegistryFileError::UnknownExtension(path.to_owned())),
        };
        let text = fs::read_to_string(path)
            .map_err(|source| RegistryFileError::Unreadable { path: path.to_owned(), source })?;
        let file = parse(&text).map_err(|parse::NotParsed { line, column, reason }| RegistryFileError::Malformed {
            path: path.to_owned(),
            line,
            column,
            reason,
        })?;
        let problems = file.problems();
        if problems.is_empty() { Ok(file) } else { Err(RegistryFileError::Invalid { path: path.to_owned(), problems }) }
    }

    /// All that cannot be right by itself, in the order of the file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Problems::default();
        for (row, tenant) in self.tenants.iter().enumerate() {
            found.required(&format!("/tenants/{row}/name"), &tenant.name);
            found.unique(&format!("/tenants/{row}/name"), "tenant", &tenant.name);
        }
        for (row, producer) in self.producers.iter().enumerate() {
            let field = format!("/producers/{row}/name");
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if !(1..=64).contains(&producer.name.len()) || !producer.name.bytes().all(fits) {
                found.add(&field, "is not 1 to 64 of a-z, 0-9 and -");
            }
            found.unique(&field, "producer", &producer.name);
        }
        for (row, account) in self.accounts.iter().enumerate() {
            account.check(&format!("/accounts/{row}"), &mut found);
        }
        for (row, number) in self.numbers.iter().enumerate() {
            number.check(&format!("/numbers/{row}"), &mut found);
        }
        for (row, template) in self.templates.iter().enumerate() {
            template.check(&format!("/templates/{row}"), &mut found);
        }
        found.list
    }
}

impl AccountEntry {
    fn check(&self, at: &str, found: &mut Problems) {
        for (field, value) in [("name", &self.name), ("provider", &self.provider), ("waba_id", &self.waba_id)] {
            found.required(&format!("{at}/{field}"), value);
        }
        found.unique(&format!("{at}/name"), "account of this tenant", &format!("{}/{}", self.tenant, self.name));
        if !self.base_url.starts_with("http://") && !self.base_url.starts_with("https://") {
            found.add(&format!("{at}/base_url"), "does not start with https:// or http://");
        }
        for (name, source) in &self.credentials {
            let empty = match source {
                CredentialSource::Env(variable) => variable.is_empty(),
                CredentialSource::File(path) => path.as_os_str().is_empty(),
            };
            if empty {
                found.add(&format!("{at}/credentials/{name}"), "names no source");
            }
        }
        for (field, reason) in self.terms().problems() {
            found.add(&format!("{at}{field}"), &reason);
        }
    }

    /// What forecasts go by.
    pub fn terms(&self) -> AccountTerms {
        AccountTerms { tier: self.tier, countries: self.countries.clone(), rates: self.rates.clone() }
    }

    /// Fetches every secret of the account, or says of all that could not be fetched why.
    pub fn resolve_credentials(&self, base_dir: &Path) -> Result<Credentials, Vec<CredentialError>> {
        let mut secrets = BTreeMap::new();
        let mut failed = Vec::new();
        for (name, source) in &self.credentials {
            match source.resolve(base_dir) {
                Ok(secret) => drop(secrets.insert(name.clone(), secret)),
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() { Ok(Credentials(secrets)) } else { Err(failed) }
    }
}

impl NumberEntry {
    fn check(&self, at: &str, found: &mut Problems) {
        for (field, value) in [
            ("account", &self.account),
            ("business_number", &self.business_number),
            ("provider_number_id", &self.provider_number_id),
            ("status", &self.status),
        ] {
            found.required(&format!("{at}/{field}"), value);
        }
        let field = format!("{at}/business_number");
        // Test numbers of providers (+1 555 …) are in no numbering plan, so only the form is checked.
        if let Some(digits) = self.business_number.strip_prefix('+')
            && (!(7..=15).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()))
        {
            found.add(&field, "is not in E.164 form: + and 7 to 15 digits");
        }
        let key = format!("{}/{}/{}", self.tenant, self.account, self.business_number);
        found.unique(&field, "number of this account", &key);
        let key = format!("{}/{}/{}", self.tenant, self.account, self.provider_number_id);
        found.unique(&format!("{at}/provider_number_id"), "number id of this account", &key);
    }
}

impl TemplateEntry {
    fn check(&self, at: &str, found: &mut Problems) {
        let fields =
            [("account", &self.account), ("name", &self.name), ("language", &self.language), ("status", &self.status)];
        for (field, value) in
            fields.into_iter().chain(self.provider_template_id.as_ref().map(|code| ("provider_template_id", code)))
        {
            found.required(&format!("{at}/{field}"), value);
        }
        let key = format!("{}/{}/{}/{}", self.tenant, self.account, self.name, self.language);
        found.unique(&format!("{at}/name"), "template of this account and language", &key);
        for (index, component) in self.components.iter().enumerate() {
            if component.get("type").and_then(serde_json::Value::as_str).is_none() {
                found.add(&format!("{at}/components/{index}"), "is not an object with a type");
            }
        }
    }
}

#[derive(Default)]
struct Problems {
    list: Vec<Problem>,
    seen: BTreeSet<(&'static str, String)>,
}

impl Problems {
    fn add(&mut self, field: &str, reason: &str) {
        self.list.push(Problem { field: field.to_owned(), reason: reason.to_owned() });
    }

    fn required(&mut self, field: &str, value: &str) {
        if value.trim().is_empty() {
            self.add(field, "is empty");
        }
    }

    fn unique(&mut self, field: &str, kind: &'static str, key: &str) {
        if !self.seen.insert((kind, key.to_owned())) {
            self.add(field, &format!("names the same {kind} twice"));
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    const TOML: &str = r#"
        [[tenants]]
        name = "shop"
        [[producers]]
        name = "orders"
        tenant = "shop"
        [[accounts]]
        name = "main"
        tenant = "shop"
        channel = "whatsapp"
        provider = "whatsapp_cloud"
        base_url = "https://graph.facebook.com"
        api_version = "v25.0"
        waba_id = "2001"
        credentials = { access_token = { env = "PATH" }, app_secret = { file = "secret.txt" } }
        tier = "10k"
        countries = ["JP", "US"]
        [accounts.rates]
        currency = "USD"
        default = "0.1"
        marketing = { default = "0.05", countries = { JP = "0.0618" } }
        [[numbers]]
        account = "main"
        tenant = "shop"
        business_number = "+15550001111"
        provider_number_id = "1001"
        limit = 80
        [[templates]]
        account = "main"
        tenant = "shop"
        name = "spring_offer"
        language = "ja"
        category = "marketing"
        status = "approved"
        components = [{ type = "BODY", text = "Hello {{1}}" }]
    "#;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("registry-file-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn read(name: &str, text: &str) -> Result<RegistryFile, RegistryFileError> {
        let path = folder().join(name);
        fs::write(&path, text).unwrap();
        RegistryFile::read(&path)
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let from_toml = read("registry.toml", TOML).unwrap();
        assert_eq!(from_toml.numbers[0].limit.map(NonZeroU32::get), Some(80));
        assert_eq!(from_toml.numbers[0].status, "connected");
        assert_eq!(from_toml.templates[0].parameter_format, ParameterFormat::Positional);
        let json = serde_json::to_string(&from_toml).unwrap();
        assert_eq!(read("registry.json", &json).unwrap(), from_toml);
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_line() {
        let error = read("registry.toml", "[[tenants]]\nname = \"a\"\ncolour = \"red\"\n").unwrap_err().to_string();
        assert!(error.contains("registry.toml:3:") && error.contains("colour"), "{error}");
        let error = read("registry.json", "{\n\"tenants\":[{\"name\":1}]}").unwrap_err().to_string();
        assert!(error.contains("registry.json:2:") && error.contains("expected a string"), "{error}");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = TOML.replace("+15550001111", "+1 555").replace("name = \"orders\"", "name = \"Orders\"");
        let text = text.replace("https://", "").replace("\"US\"]", "\"USA\"]") + "[[tenants]]\nname = \"shop\"\n";
        let Err(RegistryFileError::Invalid { problems, .. }) = read("registry.toml", &text) else {
            panic!("should be refused")
        };
        let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
        let expected = [
            "/tenants/1/name",
            "/producers/0/name",
            "/accounts/0/base_url",
            "/accounts/0/countries",
            "/numbers/0/business_number",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_secret_is_fetched_from_where_the_file_says() {
        let folder = folder();
        fs::write(folder.join("secret.txt"), "s3cret\n").unwrap();
        let account = &read("registry.toml", TOML).unwrap().accounts[0];
        let credentials = account.resolve_credentials(&folder).unwrap();
        assert_eq!(credentials.get("app_secret").unwrap().expose_secret(), "s3cret");
        assert!(!format!("{credentials:?}").contains("s3cret"));
        let failed = account.resolve_credentials(&folder.join("nowhere")).unwrap_err();
        assert_eq!(failed.len(), 1);
        assert!(failed[0].to_string().contains("secret.txt"));
    }

    #[test]
    fn only_json_and_toml_are_read() {
        assert!(matches!(read("registry.yaml", ""), Err(RegistryFileError::UnknownExtension(_))));
    }
}
