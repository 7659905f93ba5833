//! What cannot be right in a registry file by itself, whatever the database holds.

use std::{collections::BTreeSet, fmt};

use crate::registry::file::{AccountEntry, CredentialSource, NumberEntry, RegistryFile, TemplateEntry};

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

impl RegistryFile {
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
        for (field, value) in [
            ("name", &self.name),
            ("provider", &self.provider),
            ("waba_id", &self.waba_id),
        ] {
            found.required(&format!("{at}/{field}"), value);
        }
        found.unique(
            &format!("{at}/name"),
            "account of this tenant",
            &format!("{}/{}", self.tenant, self.name),
        );
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
        for (field, value) in [
            ("account", &self.account),
            ("name", &self.name),
            ("language", &self.language),
            ("status", &self.status),
        ] {
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
        self.list.push(Problem {
            field: field.to_owned(),
            reason: reason.to_owned(),
        });
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
