//! The registry as people see it: no secrets, names in the place of ids.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::{
        ids::{NumberId, TenantId},
        template::{Slot, Template},
        terms::{RateCard, Tier},
        uncertain::UncertainOverrides,
    },
    store::registry::{Account, Number, RegisteredTemplate, Snapshot},
};

/// An account.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AccountInfo {
    /// The name people use.
    pub name: String,
    /// The Meta business it belongs to.
    pub portfolio: Option<String>,
    /// What recipients are reached through.
    pub channel: String,
    /// The adapter.
    pub provider: String,
    /// Where the provider's API is. Absent when the credentials cannot be opened.
    pub base_url: Option<String>,
    /// The API's version.
    pub api_version: Option<String>,
    /// The provider's id of the account.
    pub waba_id: String,
    /// The names of its credentials, never their values.
    pub credentials: Vec<String>,
    /// Whether the credentials can be opened with this `secrets.key`.
    pub usable: bool,
    /// Its own policies for uncertain messages, by category.
    #[serde(default)]
    pub uncertain: UncertainOverrides,
    /// How many people its portfolio may begin to write to within 24 hours.
    #[serde(default)]
    pub tier: Option<Tier>,
    /// The only countries it may send to; none is everywhere.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub countries: BTreeSet<String>,
    /// What a message costs.
    #[serde(default)]
    pub rates: Option<RateCard>,
    /// Where the provider must send callbacks, below our public address.
    pub hook_path: String,
    /// How many numbers it has.
    pub numbers: usize,
    /// How many templates it has.
    pub templates: usize,
}

/// A number.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NumberInfo {
    /// Row id, as in the scope of a hold (`number:<id>`).
    pub id: i32,
    /// Its account.
    pub account: String,
    /// The identity we send from.
    pub business_number: String,
    /// The provider's id of it.
    pub provider_number_id: String,
    /// Messages a second the provider allows; absent is unlimited.
    pub limit: Option<u32>,
    /// Messages a second it sends at now: less than the limit after the provider throttled it.
    #[serde(default)]
    pub rate: Option<u32>,
    /// The provider's word for its state.
    pub status: String,
}

/// A template.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TemplateInfo {
    /// Row id.
    pub id: i32,
    /// Its account.
    pub account: String,
    /// Its name at the provider.
    pub name: String,
    /// Its language.
    pub language: String,
    /// The provider's own code of it.
    #[serde(default)]
    pub provider_template_id: Option<String>,
    /// What it is for.
    pub category: String,
    /// The provider's word for its state.
    pub status: String,
    /// How its variables are written.
    pub parameter_format: String,
    /// What a send fills.
    pub slots: Vec<SlotInfo>,
}

/// What a send fills.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SlotInfo {
    /// The key in `params`.
    pub name: String,
    /// What it takes.
    #[serde(rename = "type")]
    pub kind: String,
    /// The longest value, in characters.
    pub max_chars: usize,
    /// Whether a send without it is refused.
    pub required: bool,
    /// The example given to the provider's review.
    pub example: Option<String>,
}

impl From<&Slot> for SlotInfo {
    fn from(slot: &Slot) -> Self {
        Self {
            name: slot.name.clone(),
            kind: slot.kind.to_string(),
            max_chars: slot.max_chars,
            required: slot.required,
            example: slot.example.clone(),
        }
    }
}

/// A tenant's accounts, by name.
pub fn accounts(snapshot: &Snapshot, tenant: TenantId) -> Vec<AccountInfo> {
    let own = snapshot.accounts.values().filter(|a| a.tenant == tenant);
    let mut list: Vec<_> = own.map(|account| account_info(snapshot, account)).collect();
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

/// The account of this name.
pub fn account(snapshot: &Snapshot, tenant: TenantId, name: &str) -> Option<AccountInfo> {
    let account = snapshot.accounts.values().find(|a| a.tenant == tenant && a.name == name)?;
    Some(account_info(snapshot, account))
}

/// A tenant's numbers, by number and account; `rates` are those of throttled ones.
pub fn numbers(snapshot: &Snapshot, tenant: TenantId, rates: &BTreeMap<NumberId, u32>) -> Vec<NumberInfo> {
    let mut list: Vec<_> = snapshot.numbers_of(tenant).map(|n| number_info(n, rates.get(&n.id))).collect();
    list.sort_by(|a, b| (&a.business_number, &a.account).cmp(&(&b.business_number, &b.account)));
    list
}

/// A tenant's templates, by account, name and language.
pub fn templates(snapshot: &Snapshot, tenant: TenantId) -> Vec<TemplateInfo> {
    let mut list: Vec<_> = snapshot.templates.values().filter_map(|t| template_info(snapshot, tenant, t)).collect();
    list.sort_by(|a, b| (&a.account, &a.name, &a.language).cmp(&(&b.account, &b.name, &b.language)));
    list
}

/// The template of this id.
pub fn template(snapshot: &Snapshot, tenant: TenantId, id: i32) -> Option<TemplateInfo> {
    let template = snapshot.templates.get(&crate::domain::ids::TemplateId(id))?;
    template_info(snapshot, tenant, template)
}

/// The callback path of an account, below our public address.
pub fn hook_path(provider: &str, hook: Uuid) -> String {
    format!("/hooks/{provider}/{hook}")
}

fn account_info(snapshot: &Snapshot, account: &Account) -> AccountInfo {
    let access = account.access.as_deref();
    AccountInfo {
        name: account.name.clone(),
        portfolio: account.portfolio.clone(),
        channel: account.channel.to_string(),
        provider: account.provider.clone(),
        base_url: access.map(|a| a.base_url.clone()),
        api_version: access.map(|a| a.api_version.clone()),
        waba_id: account.waba_id.clone(),
        credentials: access.map_or_else(Vec::new, |a| a.credentials.0.keys().cloned().collect()),
        usable: access.is_some(),
        uncertain: account.uncertain,
        tier: account.terms.tier,
        countries: account.terms.countries.clone(),
        rates: account.terms.rates.clone(),
        hook_path: hook_path(&account.provider, account.hook),
        numbers: snapshot.numbers.values().filter(|n| n.account.id == account.id).count(),
        templates: snapshot.templates_of(account.id).count(),
    }
}

fn number_info(number: &Number, rate: Option<&u32>) -> NumberInfo {
    NumberInfo {
        id: number.id.0,
        account: number.account.name.clone(),
        business_number: number.business_number.clone(),
        provider_number_id: number.provider_number_id.to_string(),
        limit: number.limit_per_s,
        rate: number.limit_per_s.map(|limit| rate.map_or(limit, |rate| limit.min(*rate))),
        status: number.status.clone(),
    }
}

fn template_info(snapshot: &Snapshot, tenant: TenantId, registered: &RegisteredTemplate) -> Option<TemplateInfo> {
    let account = snapshot.accounts.get(&registered.account).filter(|a| a.tenant == tenant)?;
    let template: &Template = &registered.template;
    Some(TemplateInfo {
        id: registered.id.0,
        account: account.name.clone(),
        name: template.name.clone(),
        language: template.language.clone(),
        provider_template_id: registered.provider_template_id.clone(),
        category: template.category.to_string(),
        status: registered.status.clone(),
        parameter_format: template.parameter_format.to_string(),
        slots: template.slots.iter().map(SlotInfo::from).collect(),
    })
}
