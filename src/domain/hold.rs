//! Recorded reasons why something is not being sent.

use std::fmt;

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
}
