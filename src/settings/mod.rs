//! Settings: `deploy/settings.default.toml` compiled in, overridden by a file, then by `DISPATCH__SECTION__KEY`.
//!
//! All problems are reported at once; contradictory timeouts refuse to start. No setting without a reader.

mod contradictions;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use chrono::TimeDelta;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use toml::{Table, Value};

use crate::{
    domain::{
        alarm::Limits,
        canary::CanaryRule,
        event::{Tell, Wanted},
        lane::Lane,
        nearest::nearest,
        retry::RetryPolicy,
        suppression::Words,
        uncertain::UncertainPolicy,
    },
    providers::http::HttpSettings,
};

/// The commented defaults.
pub const DEFAULTS: &str = include_str!("../../deploy/settings.default.toml");
const PREFIX: &str = "DISPATCH__";

/// Everything that can be set. Each field is a section of the defaults file, which says unit and effect.
#[derive(Debug, Clone, Deserialize)]
pub struct Settings {
    /// Postgres.
    pub database: Database,
    /// RabbitMQ.
    pub broker: Broker,
    /// The key that encrypts credentials.
    pub secrets: Secrets,
    /// The API.
    pub http: Http,
    /// Taking jobs.
    pub intake: Intake,
    /// Claiming, sending, settling.
    pub dispatch: Dispatch,
    /// The right to send for a number.
    pub lease: Lease,
    /// Holds that try themselves.
    pub hold: Hold,
    /// The first messages of large marketing batches.
    pub canary: Canary,
    /// Exactness of the limits.
    pub pacing: Pacing,
    /// Calls to providers.
    pub provider: HttpSettings,
    /// Waits between tries.
    pub retry: Retry,
    /// Calls whose outcome is unknown.
    pub uncertain: Uncertain,
    /// Applying callbacks.
    pub callbacks: Callbacks,
    /// By which words recipients want no more marketing.
    pub suppression: Suppression,
    /// What is told to whoever listens.
    pub events: Events,
    /// Campaigns by the clock.
    pub campaigns: Campaigns,
    /// Periodic repairs.
    pub upkeep: Upkeep,
    /// What somebody on duty must look at.
    pub alarm: Alarm,
    /// How they are told.
    pub notify: Notify,
    /// How long things are kept.
    pub retention: Retention,
    /// What is written to standard error.
    pub log: Log,
}

macro_rules! sections {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Deserialize)]
        #[expect(missing_docs, reason = "settings.default.toml documents every key, and a test compares the two")]
        pub struct $name { $(pub $field: $type,)+ }
    )+};
}

sections! {
    /// Section `database`.
    Database { url: SecretString, connections: u32, }
    /// Section `broker`.
    Broker { url: SecretString, prefix: String, confirm_timeout_ms: u64, heartbeat_s: u16, }
    /// Section `secrets`.
    Secrets { key: SecretString, key_file: String, }
    /// Section `http`.
    Http { listen: SocketAddr, requests_per_s: u32, body_timeout_s: u64, }
    /// Section `intake`.
    Intake {
        prefetch: u16, group_max: usize, inline_recipients: usize, inline_bytes: usize, small_batch: usize,
        tell_of_one: bool, plan_chunk: i64, send_at_days: i64, expires_authentication_s: i64, expires_utility_s: i64,
        expires_marketing_s: i64,
    }
    /// Section `dispatch`.
    Dispatch {
        step_ms: u64, step_max: usize, step_max_unlimited: usize, in_flight_max: usize, hold_refresh_ms: u64,
        poll_ms: u64, settle_max: usize, drain_s: u64,
    }
    /// Section `lease`.
    Lease { ttl_s: u64, renew_s: u64, margin_s: u64, takeover_wait_ms: u64, }
    /// Section `hold`.
    Hold { probe_base_s: u64, probe_max_s: u64, }
    /// Section `canary`.
    Canary { over: usize, messages: i32, fault_percent: i32, wait_s: i32, }
    /// Section `pacing`.
    Pacing { jitter_ms: u64, late_ms: u64, pair_every_s: u64, pair_burst: u32, }
    /// Section `retry`.
    Retry { base_ms: u64, ceiling_s: u64, charged_cap: i16, }
    /// Section `uncertain`.
    Uncertain {
        grace_s: u64, give_up_days: u64, marketing: UncertainPolicy, utility: UncertainPolicy,
        authentication: UncertainPolicy,
    }
    /// Section `callbacks`.
    Callbacks { prefetch: u16, apply_max: usize, group_max: usize, retry_window_h: i64, wait_max_s: i64, }
    /// Section `suppression`.
    Suppression { stop_words: String, stop_buttons: String, resume_words: String, }
    /// Section `events`.
    Events { failed: bool, delivered: Tell, read: Tell, }
    /// Section `campaigns`.
    Campaigns { tick_ms: u64, approval_over: i64, }
    /// Section `upkeep`.
    Upkeep { sweep_ms: u64, sweep_max: i64, partitions_s: u64, audit_s: u64, audit_large: i32, gap_s: u64, }
    /// Section `alarm`.
    Alarm {
        every_s: u64, failing_percent: i64, failing_over: i64, silent_accepted: i64, silent_s: u64, uncertain_s: u32,
        outbox_s: u32, unrouted_s: u32, no_worker_s: u32, remind_s: u32,
    }
    /// Section `notify`.
    Notify {
        url: SecretString, secret: SecretString, smtp_url: SecretString, mail_from: String, mail_to: String,
        timeout_ms: u64, give_up_h: u64,
    }
    /// Section `retention`.
    Retention { months: u32, }
    /// Section `log`.
    Log { format: String, filter: String, }
}

impl Pacing {
    /// How long a call that was written may count at the provider: the second of its limit, and the jitter.
    pub const fn window(&self) -> Duration {
        Duration::from_millis(1000 + self.jitter_ms)
    }
}

impl Canary {
    /// How the first messages of a batch are watched where nothing else is said.
    pub const fn rule(&self) -> CanaryRule {
        CanaryRule { messages: self.messages, fault_percent: self.fault_percent, wait_s: self.wait_s }
    }
}

impl Suppression {
    /// The words to compare with.
    pub fn words(&self) -> Words {
        Words::read(&self.stop_words, &self.stop_buttons, &self.resume_words)
    }
}

impl Events {
    /// Which events about messages are told.
    pub const fn wanted(&self) -> Wanted {
        Wanted { failed: self.failed, delivered: self.delivered, read: self.read }
    }
}

impl Alarm {
    /// From when on something is an alarm.
    pub fn limits(&self) -> Limits {
        let seconds = |s: u32| TimeDelta::seconds(s.into());
        Limits {
            failing_percent: self.failing_percent,
            failing_over: self.failing_over,
            silent_accepted: self.silent_accepted,
            uncertain: seconds(self.uncertain_s),
            outbox: seconds(self.outbox_s),
            unrouted: seconds(self.unrouted_s),
            no_worker: seconds(self.no_worker_s),
            remind: Some(seconds(self.remind_s)).filter(|remind| !remind.is_zero()),
        }
    }
}

impl Retry {
    /// The policy these numbers make.
    pub fn policy(&self) -> RetryPolicy {
        RetryPolicy {
            base: Duration::from_millis(self.base_ms),
            ceiling: Duration::from_secs(self.ceiling_s),
            charged_cap: self.charged_cap,
        }
    }
}

impl Uncertain {
    /// What is done about a category whose account says nothing else.
    pub const fn policy(&self, lane: Lane) -> UncertainPolicy {
        match lane {
            Lane::Marketing => self.marketing,
            Lane::Utility => self.utility,
            Lane::Authentication => self.authentication,
        }
    }

    /// How long after the call a message that is held has failed.
    pub const fn give_up(&self) -> Duration {
        Duration::from_secs(self.give_up_days.saturating_mul(86_400))
    }
}

/// Why the process does not start. Each line names the key and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the settings have {} problem(s):", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Defaults, then `file`, then the environment.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let mut problems = Vec::new();
        let defaults: Table =
            DEFAULTS.parse().map_err(|e| SettingsError(vec![format!("settings.default.toml: {e}")]))?;
        let environment: BTreeMap<String, String> = environment.collect();
        let mut merged = defaults.clone();
        if let Some(path) = file {
            match std::fs::read_to_string(path)
                .map_err(|e| e.to_string())
                .and_then(|text| text.parse::<Table>().map_err(|e| e.to_string().trim_end().to_owned()))
            {
                Ok(table) => overlay(&mut merged, table, &path.display().to_string(), &mut problems),
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        for (name, text) in &environment {
            let Some(path) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let Some((section, key)) = path.split_once("__") else {
                continue;
            };
            if section == "CLIENT" {
                continue;
            }
            let value = read_value(text, merged.get(&section.to_lowercase()).and_then(|s| s.get(key.to_lowercase())));
            let table =
                Table::from_iter([(section.to_lowercase(), Table::from_iter([(key.to_lowercase(), value)]).into())]);
            overlay(&mut merged, table, name, &mut problems);
        }
        fall_back(&mut merged, "database", "DATABASE_URL", &environment);
        fall_back(&mut merged, "broker", "AMQP_URL", &environment);
        let unread = read_each(&mut merged, &defaults, &mut problems);
        match Self::deserialize(merged) {
            Ok(settings) => {
                problems.extend(settings.contradictions(&unread));
                if problems.is_empty() { Ok(settings) } else { Err(SettingsError(problems)) }
            }
            Err(error) => {
                problems.push(one_line(&error));
                Err(SettingsError(problems))
            }
        }
    }

    /// The key that encrypts credentials, from `secrets.key` or `secrets.key_file`.
    pub fn secret_key(&self) -> Result<[u8; 32], SettingsError> {
        let problem = |text: String| SettingsError(vec![text]);
        let text = if self.secrets.key_file.is_empty() {
            self.secrets.key.expose_secret().to_owned()
        } else {
            std::fs::read_to_string(&self.secrets.key_file)
                .map_err(|e| problem(format!("secrets.key_file: {}: {e}", self.secrets.key_file)))?
        };
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key).map_err(|_| {
            problem("secrets.key: needs 64 hexadecimal digits (make one with `openssl rand -hex 32`)".to_owned())
        })?;
        Ok(key)
    }
}

/// Reads each section by itself, so that all that cannot be read are told; they become their defaults, and their names
/// are the answer.
fn read_each(merged: &mut Table, defaults: &Table, problems: &mut Vec<String>) -> BTreeSet<String> {
    let mut unread = BTreeSet::new();
    for (section, default) in defaults {
        let Some(given) = merged.get_mut(section) else {
            continue;
        };
        let mut alone = defaults.clone();
        alone.insert(section.clone(), given.clone());
        if let Err(error) = Settings::deserialize(alone) {
            problems.push(one_line(&error));
            given.clone_from(default);
            unread.insert(section.clone());
        }
    }
    unread
}

fn one_line(error: &toml::de::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads an environment value as the type its default has; text stays text.
fn read_value(text: &str, like: Option<&Value>) -> Value {
    match like {
        Some(Value::Integer(_)) => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
        Some(Value::Boolean(_)) => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Boolean),
        _ => Value::String(text.to_owned()),
    }
}

/// Lays `over` on `base`, naming every key that the defaults do not have or have with another type.
fn overlay(base: &mut Table, over: Table, source: &str, problems: &mut Vec<String>) {
    for (section, value) in over {
        let Some(Value::Table(known)) = base.get_mut(&section) else {
            problems.push(format!("{source}: there is no section `{section}`"));
            continue;
        };
        let Value::Table(keys) = value else {
            problems.push(format!("{source}: `{section}` must be a section"));
            continue;
        };
        for (key, value) in keys {
            match known.get_mut(&key) {
                Some(slot) if slot.same_type(&value) => *slot = value,
                Some(slot) => problems.push(format!("{source}: {section}.{key} must be of type {}", slot.type_str())),
                None => {
                    let near = nearest(&key, known.keys().map(String::as_str));
                    let near = near.first().map(|near| format!(": did you mean {near}?")).unwrap_or_default();
                    problems.push(format!("{source}: there is no key {section}.{key}{near}"));
                }
            }
        }
    }
}

/// Takes an address from the environment variable everybody knows when the section has none.
fn fall_back(merged: &mut Table, section: &str, variable: &str, environment: &BTreeMap<String, String>) {
    if let (Some(Value::Table(keys)), Some(url)) = (merged.get_mut(section), environment.get(variable))
        && keys.get("url").and_then(Value::as_str).is_some_and(str::is_empty)
    {
        keys.insert("url".to_owned(), Value::String(url.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::load(None, pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn the_defaults_load_and_the_environment_wins() {
        let settings = load(&[("DISPATCH__LEASE__TTL_S", "20"), ("DATABASE_URL", "postgres://x")]);
        let settings = settings.map(|s| (s.lease.ttl_s, s.database.url.expose_secret().to_owned()));
        // A longer lease needs a longer grace: contradictions do not start.
        assert!(settings.is_err());
        let settings = load(&[("DISPATCH__HTTP__LISTEN", "127.0.0.1:0"), ("DATABASE_URL", "postgres://x")]).unwrap();
        assert_eq!(settings.http.listen.port(), 0);
        assert_eq!(settings.database.url.expose_secret(), "postgres://x");
        assert_eq!(settings.events.wanted(), Wanted::DEFAULT);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let error =
            load(&[("DISPATCH__LEASE__TTL", "1"), ("DISPATCH__NO__KEY", "1"), ("DISPATCH__RETRY__BASE_MS", "x")])
                .unwrap_err();
        assert_eq!(error.0.len(), 3, "{error}");
    }

    #[test]
    fn what_cannot_be_read_hides_nothing_else() {
        let error = load(&[
            ("DISPATCH__HTTP__LISTEN", "x"),
            ("DISPATCH__DISPATCH__STEP_MSS", "3"),
            ("DISPATCH__LEASE__TTL_S", "1"),
            ("DISPATCH__UPKEEP__SWEEP_MS", "-1"),
        ])
        .unwrap_err();
        assert_eq!(error.0.len(), 4, "{error}");
        for told in ["http.listen", "dispatch.step_mss", "lease.ttl_s", "upkeep.sweep_ms"] {
            assert!(error.0.iter().any(|problem| problem.contains(told) && !problem.contains('\n')), "{told}: {error}");
        }
        // A lease that was not read is not judged.
        assert_eq!(load(&[("DISPATCH__LEASE__TTL_S", "-1")]).unwrap_err().0.len(), 1);
    }

    #[test]
    fn every_key_is_explained() {
        let keys = DEFAULTS.lines().filter(|l| l.contains(" = "));
        for line in keys {
            assert!(line.contains('#'), "{line}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let settings = load(&[("DISPATCH__SECRETS__KEY", "abcd"), ("AMQP_URL", "amqp://u:hunter2@h")]).unwrap();
        let shown = format!("{settings:?}");
        assert!(!shown.contains("abcd") && !shown.contains("hunter2"), "{shown}");
        assert!(settings.secret_key().is_err());
    }
}
