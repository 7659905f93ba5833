//! What a provider allows and charges an account, as far as the registry was told: what forecasts go by.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Category, address::is_country, money::Money, named};

/// What no provider charges for a message, in any currency.
const DEAREST: Money = Money::whole(100_000);

named! {
    /// How many people the numbers of a portfolio may begin to write to within 24 hours, as the provider names it.
    pub enum Tier {
        /// 50.
        Of50 = "50",
        /// 250.
        Of250 = "250",
        /// 1 000.
        Of1k = "1k",
        /// 2 000.
        Of2k = "2k",
        /// 10 000.
        Of10k = "10k",
        /// 100 000.
        Of100k = "100k",
        /// As many as there are.
        Unlimited = "unlimited",
    }
}

impl Tier {
    /// How many people; absent is no limit.
    pub const fn people(self) -> Option<usize> {
        match self {
            Self::Of50 => Some(50),
            Self::Of250 => Some(250),
            Self::Of1k => Some(1_000),
            Self::Of2k => Some(2_000),
            Self::Of10k => Some(10_000),
            Self::Of100k => Some(100_000),
            Self::Unlimited => None,
        }
    }
}

/// What forecasts go by. Sending does not: the provider refuses what it does not allow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountTerms {
    /// The messaging limit of its portfolio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Where it may send to, as ISO 3166-1; none is everywhere.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub countries: BTreeSet<String>,
    /// What a message costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<RateCard>,
}

/// What a message costs, by category and country of the recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateCard {
    /// As ISO 4217, for example `USD`.
    pub currency: String,
    /// Of which nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Money>,
    /// Of marketing.
    #[serde(default, skip_serializing_if = "CategoryRates::is_empty")]
    pub marketing: CategoryRates,
    /// Of utility.
    #[serde(default, skip_serializing_if = "CategoryRates::is_empty")]
    pub utility: CategoryRates,
    /// Of authentication.
    #[serde(default, skip_serializing_if = "CategoryRates::is_empty")]
    pub authentication: CategoryRates,
}

/// What a message of one category costs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CategoryRates {
    /// To countries of which nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Money>,
    /// By country, as ISO 3166-1: `{"JP": "0.0618"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub countries: BTreeMap<String, Money>,
}

/// What messages would cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cost {
    /// As ISO 4217.
    pub currency: String,
    /// All that have a rate.
    #[schema(value_type = String)]
    pub total: Money,
    /// By country, the dearest first.
    pub by_country: Vec<CountryCost>,
    /// Messages without a rate.
    pub unpriced: i64,
}

/// What the messages to one country would cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountryCost {
    /// As ISO 3166-1; absent for addresses that are of no country.
    pub country: Option<String>,
    /// Messages.
    pub recipients: i64,
    /// Of one; absent where the card says nothing.
    #[schema(value_type = Option<String>)]
    pub each: Option<Money>,
    /// Of all.
    #[schema(value_type = Option<String>)]
    pub sum: Option<Money>,
}

impl CategoryRates {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl RateCard {
    /// Of one message.
    pub fn of(&self, category: Category, country: &str) -> Option<Money> {
        let rates = self.category(category);
        rates.countries.get(country).copied().or(rates.default).or(self.default)
    }

    /// Of messages by country; those of no country stand under the empty text.
    pub fn cost(&self, category: Category, messages: &BTreeMap<String, i64>) -> Cost {
        let mut by_country: Vec<CountryCost> = messages
            .iter()
            .map(|(country, recipients)| {
                let each = self.of(category, country);
                CountryCost {
                    country: Some(country.clone()).filter(|country| !country.is_empty()),
                    recipients: *recipients,
                    each,
                    sum: each.map(|each| each.times(*recipients)),
                }
            })
            .collect();
        by_country.sort_by_key(|cost| std::cmp::Reverse((cost.sum, cost.recipients)));
        Cost {
            currency: self.currency.clone(),
            total: by_country.iter().filter_map(|cost| cost.sum).sum(),
            unpriced: by_country.iter().filter(|cost| cost.sum.is_none()).map(|cost| cost.recipients).sum(),
            by_country,
        }
    }

    const fn category(&self, category: Category) -> &CategoryRates {
        match category {
            Category::Marketing => &self.marketing,
            Category::Utility => &self.utility,
            Category::Authentication => &self.authentication,
        }
    }

    fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if self.currency.len() != 3 || !self.currency.bytes().all(|b| b.is_ascii_uppercase()) {
            found.push(("/rates/currency".to_owned(), "is not a currency as in ISO 4217, for example USD".to_owned()));
        }
        let mut rates: Vec<(String, Money)> = Vec::new();
        rates.extend(self.default.map(|rate| ("/rates/default".to_owned(), rate)));
        for category in Category::ALL {
            let CategoryRates { default, countries } = self.category(*category);
            rates.extend(default.map(|rate| (format!("/rates/{category}/default"), rate)));
            for (country, rate) in countries {
                let at = format!("/rates/{category}/countries/{country}");
                if !is_country(country) {
                    found.push((at.clone(), no_country(country)));
                }
                rates.push((at, *rate));
            }
        }
        let dear = rates.into_iter().filter(|(_, rate)| *rate > DEAREST);
        found.extend(dear.map(|(at, _)| (at, format!("is more than {DEAREST}, which no message costs"))));
        found
    }
}

impl AccountTerms {
    /// What cannot be right: the end of a JSON pointer and why.
    pub fn problems(&self) -> Vec<(String, String)> {
        let unknown = self.countries.iter().filter(|country| !is_country(country));
        let mut found: Vec<_> = unknown.map(|country| ("/countries".to_owned(), no_country(country))).collect();
        found.extend(self.rates.iter().flat_map(RateCard::problems));
        found
    }

    /// Whether it leaves a country out. What is of no country is not left out.
    pub fn leaves_out(&self, country: Option<&str>) -> bool {
        country.is_some_and(|country| !self.countries.is_empty() && !self.countries.contains(country))
    }
}

fn no_country(text: &str) -> String {
    format!("`{text}` is not a country as in ISO 3166-1, for example JP")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> RateCard {
        let card = r#"{"currency": "USD", "marketing": {"default": "0.05", "countries": {"JP": "0.0618", "US": "0.025"}},
            "utility": {"countries": {"JP": "0.02"}}}"#;
        serde_json::from_str(card).unwrap()
    }

    fn told(cost: &Cost) -> Vec<String> {
        let text = |amount: Option<Money>| amount.map_or_else(|| "-".to_owned(), |amount| amount.to_string());
        let line = |c: &CountryCost| {
            let country = c.country.as_deref().unwrap_or("none");
            format!("{country} {} {} {}", c.recipients, text(c.each), text(c.sum))
        };
        cost.by_country.iter().map(line).collect()
    }

    #[test]
    fn the_nearest_rate_counts_and_what_has_none_is_told() {
        let messages = [("JP", 1000), ("US", 3), ("DE", 2), ("", 1)].map(|(c, n)| (c.to_owned(), n)).into();
        let cost = card().cost(Category::Marketing, &messages);
        assert_eq!(told(&cost), ["JP 1000 0.0618 61.8", "DE 2 0.05 0.1", "US 3 0.025 0.075", "none 1 0.05 0.05"]);
        assert_eq!((cost.total.to_string().as_str(), cost.unpriced), ("62.025", 0));
        let cost = card().cost(Category::Utility, &messages);
        assert_eq!(told(&cost)[..2], ["JP 1000 0.02 20", "US 3 - -"]);
        assert_eq!((cost.total.to_string().as_str(), cost.unpriced), ("20", 6));
        let flat = RateCard { default: Some("1".parse().unwrap()), ..card() };
        assert_eq!(flat.cost(Category::Authentication, &messages).total.to_string(), "1006");
    }

    #[test]
    fn what_cannot_be_right_is_told() {
        let mut terms = AccountTerms { rates: Some(card()), ..AccountTerms::default() };
        terms.countries = ["JP", "UK"].map(str::to_owned).into();
        assert!(terms.leaves_out(Some("US")) && !terms.leaves_out(Some("JP")) && !terms.leaves_out(None));
        let rates = terms.rates.as_mut().unwrap();
        rates.currency = "dollars".to_owned();
        rates.utility.default = Some(Money::whole(100_001));
        rates.marketing.countries.insert("jp".to_owned(), Money::default());
        let places: Vec<String> = terms.problems().into_iter().map(|(place, _)| place).collect();
        let expected = ["/countries", "/rates/currency", "/rates/marketing/countries/jp", "/rates/utility/default"];
        assert_eq!(places, expected);
        assert!(!AccountTerms::default().leaves_out(Some("JP")), "no list leaves nobody out");
    }
}
