//! Amounts of money, exact: whole millionths of a currency, never a float.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Millionths in one.
const MICROS: i64 = 1_000_000;
/// Digits after the point.
const PLACES: usize = 6;

/// An amount that is not negative, in the currency that stands beside it; written as a decimal text.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Money(i64);

/// What is no amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no amount of money: a decimal text with at most {PLACES} digits after the point, for example \"0.0618\""
)]
pub struct NoMoney(String);

impl Money {
    /// So many whole ones.
    pub const fn whole(count: u32) -> Self {
        Self(count as i64 * MICROS)
    }

    /// So many times as much.
    ///
    /// ```
    /// use campaign_dispatch::domain::money::Money;
    /// let rate: Money = "0.0618".parse().unwrap();
    /// assert_eq!(rate.times(1_000).to_string(), "61.8");
    /// assert!("0.0000001".parse::<Money>().is_err() && "1e3".parse::<Money>().is_err());
    /// ```
    #[must_use]
    pub const fn times(self, count: i64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

impl std::iter::Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), |sum, amount| Self(sum.0.saturating_add(amount.0)))
    }
}

impl FromStr for Money {
    type Err = NoMoney;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let read = || {
            let micros: i64 = format!("{places:0<PLACES$}").parse().ok()?;
            whole.parse::<i64>().ok()?.checked_mul(MICROS)?.checked_add(micros)
        };
        let is_amount = is_number(whole) && is_number(places) && places.len() <= PLACES;
        is_amount.then(read).flatten().map(Self).ok_or_else(|| NoMoney(text.to_owned()))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, micros) = (self.0 / MICROS, self.0 % MICROS);
        let places = format!("{micros:0PLACES$}");
        match places.trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            places => write!(f, "{whole}.{places}"),
        }
    }
}

impl TryFrom<String> for Money {
    type Error = NoMoney;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Money> for String {
    fn from(amount: Money) -> Self {
        amount.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_decimal_is_no_amount() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1,5", "1.0000000", "1 000", "１", "9223372036855"] {
            assert!(text.parse::<Money>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Money>("0.1").is_err(), "a float is none");
    }

    proptest::proptest! {
        #[test]
        fn an_amount_is_read_as_it_is_written(micros in 0..=i64::MAX) {
            let amount = Money(micros);
            proptest::prop_assert_eq!(amount.to_string().parse::<Money>(), Ok(amount));
        }
    }
}
