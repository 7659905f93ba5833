//! Time zones: by their names, and whose clock a recipient lives by as far as an address tells.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use chrono_tz::Tz;
use phonenumber::metadata::DATABASE;

use crate::domain::{address::Address, nearest::nearest};

/// Zones by country.
static COUNTRIES: LazyLock<HashMap<&'static str, Vec<Tz>>> = LazyLock::new(|| {
    let lines = include_str!("zones.txt").lines().filter(|line| !line.starts_with('#'));
    let countries = lines.filter_map(|line| line.split_once(' '));
    countries
        .map(|(country, zones)| (country, zones.split(' ').filter_map(|zone| zone.parse().ok()).collect()))
        .collect()
});

/// Zones by calling code, of all countries that share it.
static CODES: LazyLock<HashMap<u16, Vec<Tz>>> = LazyLock::new(|| {
    let mut codes: HashMap<u16, Vec<Tz>> = HashMap::new();
    for country in DATABASE.iter() {
        codes.entry(country.country_code()).or_default().extend(of_country(country.id()));
    }
    codes
});

/// No zone has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IANA time zone")]
pub struct UnknownZone(String);

impl UnknownZone {
    /// What was probably meant.
    pub fn near(&self) -> Vec<String> {
        nearest(&self.0, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()))
    }
}

/// The zone with an IANA name.
///
/// # Errors
/// When there is none.
pub fn named(name: &str) -> Result<Tz, UnknownZone> {
    name.parse().map_err(|_| UnknownZone(name.to_owned()))
}

/// The zones that a recipient may live in: the one that is named, else those of the country. Empty when nothing says.
///
/// ```
/// use campaign_dispatch::domain::{address::Address, zones};
/// let of = |to: &str, own| zones::of(&Address::from_store(to.to_owned()), own).into_owned();
/// assert_eq!(of("+819012345678", None), [chrono_tz::Asia::Tokyo]);
/// assert_eq!(of("+819012345678", Some("America/New_York")), [chrono_tz::America::New_York]);
/// assert!(of("+12125552368", None).contains(&chrono_tz::Pacific::Honolulu));
/// assert_eq!(of("sato@example.jp", None), []);
/// ```
pub fn of(recipient: &Address, own: Option<&str>) -> Cow<'static, [Tz]> {
    if let Some(zone) = own.and_then(|name| named(name).ok()) {
        return Cow::Owned(vec![zone]);
    }
    let country = recipient.country().map_or(&[][..], of_country);
    let of_code = || recipient.calling_code().and_then(|code| CODES.get(&code)).map_or(&[][..], Vec::as_slice);
    Cow::Borrowed(if country.is_empty() { of_code() } else { country })
}

fn of_country(country: &str) -> &'static [Tz] {
    COUNTRIES.get(country).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(to: &str) -> Vec<&'static str> {
        of(&Address::from_store(to.to_owned()), None).iter().map(|zone| zone.name()).collect()
    }

    #[test]
    fn every_zone_of_the_table_is_known() {
        let lines = include_str!("zones.txt").lines().filter(|line| !line.starts_with('#'));
        let told: usize = lines.map(|line| line.split(' ').count() - 1).sum();
        assert_eq!(COUNTRIES.values().map(Vec::len).sum::<usize>(), told);
        assert!(told > 400 && COUNTRIES.len() > 240, "{told}");
    }

    #[test]
    fn of_countries_that_share_a_calling_code_the_number_says_which() {
        assert_eq!(zones("+441212345678"), ["Europe/London"]);
        assert_eq!(zones("+441534880000"), ["Europe/Jersey"]);
        assert_eq!(zones("+13459492311"), ["America/Cayman"]);
        assert_eq!(zones("+77172000000"), zones("KZ.1"));
        assert_eq!(zones("+493012345678"), ["Europe/Berlin", "Europe/Busingen"]);
    }

    #[test]
    fn where_a_number_does_not_say_its_country_all_that_it_may_be_count() {
        let unknown = zones("+1999");
        assert!(unknown.contains(&"America/New_York") && unknown.contains(&"America/Toronto"), "{unknown:?}");
        // Of no country.
        assert_eq!(zones("+80012345678"), [""; 0]);
        assert_eq!(zones("+"), [""; 0]);
        assert_eq!(zones("13491208655302741918"), [""; 0]);
    }

    #[test]
    fn every_country_with_phone_numbers_has_zones() {
        let without: Vec<&str> =
            DATABASE.iter().map(phonenumber::Metadata::id).filter(|id| of_country(id).is_empty()).collect();
        // No country, two islands and one that have no code of their own in ISO 3166.
        let mut known = without.clone();
        known.sort_unstable();
        assert_eq!(known, ["001", "AC", "TA", "XK"], "{without:?}");
    }
}
