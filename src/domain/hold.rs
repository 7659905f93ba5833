//! Recorded reasons why something is not being sent.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};

use crate::domain::{
    failure::FaultScope,
    ids::{AccountId, BatchId, HoldId, NumberId, TemplateId},
    lane::Lane,
    named,
};

named! {
    /// Who or what ends a hold.
    pub enum Resume {
        /// Somebody who mended the cause and closes it.
        Person = "person",
        /// The clock, at the hold's `until`.
        Time = "time",
        /// The registry, when the provider's status allows sending again.
        Status = "status",
        /// One message that is let through and accepted.
        Probe = "probe",
        /// New credentials of the account.
        Credentials = "credentials",
        /// The first messages of the batch, when they fare well.
        Canary = "canary",
    }
}

/// What a hold covers. Its text is the key in the database: `number:12`, `template:7`, `everything`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HoldScope {
    /// All sending.
    Everything,
    /// All sending through one provider.
    Provider(String),
    /// All accounts of a portfolio of a tenant (`<tenant id>/<portfolio>`).
    Portfolio(String),
    /// One account.
    Account(AccountId),
    /// One business number.
    Number(NumberId),
    /// One lane of a business number.
    NumberLane(NumberId, Lane),
    /// One template.
    Template(TemplateId),
    /// One batch.
    Batch(BatchId),
}

/// How long after its opening, or after `probes` messages let through, a hold lets the next one through: doubling from
/// `base` up to `most`.
pub fn probe_wait(probes: u32, base: Duration, most: Duration) -> Duration {
    base.saturating_mul(2_u32.saturating_pow(probes.min(16))).min(most)
}

impl fmt::Display for HoldScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything"),
            Self::Provider(name) => write!(f, "provider:{name}"),
            Self::Portfolio(name) => write!(f, "portfolio:{name}"),
            Self::Account(id) => write!(f, "account:{id}"),
            Self::Number(id) => write!(f, "number:{id}"),
            Self::NumberLane(id, lane) => write!(f, "number:{id}:{lane}"),
            Self::Template(id) => write!(f, "template:{id}"),
            Self::Batch(id) => write!(f, "batch:{id}"),
        }
    }
}

/// A text that is no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no scope: everything, provider:<name>, portfolio:<tenant>/<name>, account:<id>, number:<id>, number:<id>:<lane>, template:<id> or batch:<id>"
)]
pub struct NoScope;

impl std::str::FromStr for HoldScope {
    type Err = NoScope;

    fn from_str(text: &str) -> Result<Self, NoScope> {
        if text == "everything" {
            return Ok(Self::Everything);
        }
        let (kind, name) = text.split_once(':').filter(|(_, name)| !name.is_empty()).ok_or(NoScope)?;
        let id = |text: &str| text.parse().map_err(|_| NoScope);
        Ok(match (kind, name.split_once(':')) {
            ("provider", _) => Self::Provider(name.to_owned()),
            ("portfolio", _) if name.contains('/') => Self::Portfolio(name.to_owned()),
            ("account", None) => Self::Account(AccountId(id(name)?)),
            ("number", None) => Self::Number(NumberId(id(name)?)),
            ("number", Some((number, lane))) => {
                Self::NumberLane(NumberId(id(number)?), lane.parse().map_err(|_| NoScope)?)
            }
            ("template", None) => Self::Template(TemplateId(id(name)?)),
            ("batch", None) => Self::Batch(BatchId(name.parse().map_err(|_| NoScope)?)),
            _ => return Err(NoScope),
        })
    }
}

/// What a message would be sent by; decides which holds cover it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The provider's name.
    pub provider: String,
    /// `<tenant id>/<portfolio>`, when the account belongs to one.
    pub portfolio: Option<String>,
    /// The account.
    pub account: AccountId,
    /// The number.
    pub number: NumberId,
    /// The template.
    pub template: TemplateId,
    /// The lane of the template's category.
    pub lane: Lane,
}

impl Route {
    /// Every scope that covers a message of `batch` on this route, widest first.
    pub fn scopes(&self, batch: BatchId) -> Vec<HoldScope> {
        let mut scopes = vec![HoldScope::Everything, HoldScope::Provider(self.provider.clone())];
        scopes.extend(self.portfolio.clone().map(HoldScope::Portfolio));
        scopes.extend([
            HoldScope::Account(self.account),
            HoldScope::Number(self.number),
            HoldScope::NumberLane(self.number, self.lane),
            HoldScope::Template(self.template),
            HoldScope::Batch(batch),
        ]);
        scopes
    }

    /// The scope that a fault of this kind stops. A portfolio fault of an account without one stops the account.
    pub fn fault(&self, scope: FaultScope) -> HoldScope {
        match (scope, &self.portfolio) {
            (FaultScope::Template, _) => HoldScope::Template(self.template),
            (FaultScope::Number, _) => HoldScope::Number(self.number),
            (FaultScope::Portfolio, Some(name)) => HoldScope::Portfolio(name.clone()),
            (FaultScope::Account | FaultScope::Portfolio, _) => HoldScope::Account(self.account),
            (FaultScope::Provider, _) => HoldScope::Provider(self.provider.clone()),
        }
    }
}

/// An open hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenHold {
    /// Its id, also named by parked work.
    pub id: HoldId,
    /// [`HoldScope`] as text.
    pub scope: String,
    /// Why, in one stable word: the provider's code, or `template_status`, `number_status`.
    pub cause: String,
    /// When it ends by itself.
    pub until: Option<DateTime<Utc>>,
    /// Whether single messages are let through to see whether its cause is gone.
    pub is_probed: bool,
    /// Whether one may be let through now.
    pub is_probe_due: bool,
    /// How many were.
    pub probes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_reads_back_as_it_is_written() {
        let scopes = [
            HoldScope::Everything,
            HoldScope::Provider("whatsapp_cloud".to_owned()),
            HoldScope::Portfolio("1/acme".to_owned()),
            HoldScope::Account(AccountId(3)),
            HoldScope::Number(NumberId(4)),
            HoldScope::NumberLane(NumberId(4), Lane::Marketing),
            HoldScope::Template(TemplateId(5)),
            HoldScope::Batch(BatchId(uuid::Uuid::from_u128(6))),
        ];
        for scope in scopes {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        for text in ["", "number", "number:", "number:x", "number:4:sometimes", "account:1:2", "portfolio:acme", "all"]
        {
            assert_eq!(text.parse::<HoldScope>(), Err(NoScope), "{text}");
        }
    }

    #[test]
    fn probes_come_less_often_up_to_a_limit() {
        let wait = |probes| probe_wait(probes, Duration::from_mins(1), Duration::from_mins(15)).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 900].map(wait), [60, 120, 240, 480, 900, 900, 900]);
    }
}
