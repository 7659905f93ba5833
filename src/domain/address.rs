//! Who a message is for, in the form the channel takes.

use std::{fmt, sync::LazyLock};

use phonenumber::{country, metadata::DATABASE};

use crate::domain::{Channel, spreadsheet::Shape};

/// A recipient's address, canonical for its channel: `+819012345678`, `sato@example.jp`, `US.1349…`.
///
/// `Debug` and `Display` are masked so that a log line never carries a whole number; [`Address::as_str`] is the real one.
///
/// ```
/// use campaign_dispatch::domain::{Channel, address::Address};
/// let to = Address::parse(Channel::Whatsapp, "+81 90-1234-5678").unwrap();
/// assert_eq!(to.as_str(), "+819012345678");
/// assert_eq!(to.to_string(), "+8190*****678");
/// assert!(Address::parse(Channel::Whatsapp, "+81 123").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(String);

/// Why an address was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing was given.
    #[error("is empty")]
    Empty,
    /// No country code, and none was given beside it.
    #[error("is not in E.164 form: write + and the country code, for example +819012345678")]
    NotInternational,
    /// Not a number any network would assign.
    #[error("is not a valid phone number of its country")]
    Invalid,
    /// Not a mailbox.
    #[error("is not an e-mail address")]
    NotAMailbox,
    /// More than one number it may have been.
    #[error("could be more than one number once its lost + or 0 is put back: make the column text and write it whole")]
    Ambiguous,
    /// A spreadsheet took it for a number and lost digits.
    #[error("was rounded by a spreadsheet and cannot be recovered: make the column text and write it whole")]
    Rounded,
    /// Too long or with characters no provider's user id has.
    #[error("is not a user id of the channel")]
    NotAUserId,
}

impl Address {
    /// Reads an address as the channel takes it; a phone number must be international.
    pub fn parse(channel: Channel, text: &str) -> Result<Self, AddressError> {
        Self::parse_in(channel, text, None)
    }

    /// As [`Address::parse`], reading a national phone number as one of `country`.
    pub fn parse_in(channel: Channel, text: &str, country: Option<country::Id>) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        match channel {
            Channel::Whatsapp if is_business_scoped(text) => Ok(Self(text.to_owned())),
            Channel::Whatsapp | Channel::Viber => parse_phone(text, country),
            Channel::Email => parse_mailbox(text),
            Channel::Messenger | Channel::Instagram => parse_user_id(text),
        }
    }

    /// Reads the digits that a spreadsheet kept of a number, which may have lost its `+` or its leading zero.
    ///
    /// ```
    /// use campaign_dispatch::domain::{Channel, address::Address};
    /// let japan = "JP".parse().ok();
    /// for digits in ["819012345678", "9012345678"] {
    ///     assert_eq!(Address::recover(Channel::Whatsapp, digits, japan).unwrap().as_str(), "+819012345678");
    /// }
    /// ```
    pub fn recover(channel: Channel, digits: &str, country: Option<country::Id>) -> Result<Self, AddressError> {
        if !matches!(channel, Channel::Whatsapp | Channel::Viber) {
            return Self::parse_in(channel, digits, None);
        }
        let national = country.map(|_| [digits.to_owned(), format!("0{digits}")]);
        let mut found = None;
        for text in national.into_iter().flatten().chain([format!("+{digits}")]) {
            match (parse_phone(&text, country), &found) {
                (Ok(address), Some(other)) if address != *other => return Err(AddressError::Ambiguous),
                (Ok(address), _) => found = Some(address),
                (Err(_), _) => {}
            }
        }
        found.ok_or(AddressError::Invalid)
    }

    /// Reads a cell of a spreadsheet, which may have taken the address for a number. Whether something was put back that the
    /// number had lost.
    pub fn parse_cell(
        channel: Channel,
        cell: &str,
        is_number: bool,
        country: Option<country::Id>,
    ) -> Result<(Self, bool), AddressError> {
        let cell = cell.trim();
        match if is_number { Shape::digits(cell) } else { Shape::of(cell) } {
            Shape::Text => Self::parse_in(channel, cell, country).map(|address| (address, false)),
            Shape::Whole(digits) => Self::recover(channel, &digits, country).map(|address| (address, true)),
            Shape::Rounded => Err(AddressError::Rounded),
        }
    }

    /// Trusts an address that was parsed before, as the database keeps it.
    pub fn from_store(text: String) -> Self {
        Self(text)
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a phone number (the others are ids and mailboxes).
    pub fn is_phone(&self) -> bool {
        self.0.starts_with('+')
    }

    /// The country of a phone number or of a business-scoped id, as ISO 3166-1 writes it. Of a calling code that several
    /// countries share the number says which.
    ///
    /// ```
    /// use campaign_dispatch::domain::address::Address;
    /// let of = |to: &str| Address::from_store(to.to_owned()).country().map(str::to_owned);
    /// assert_eq!([of("+819012345678"), of("+13459492311")], [Some("JP".to_owned()), Some("KY".to_owned())]);
    /// assert_eq!([of("+80012345678"), of("sato@example.jp")], [None, None]);
    /// ```
    pub fn country(&self) -> Option<&str> {
        let Some((_, regions)) = self.regions() else {
            return self.0.split_once('.').map(|(country, _)| country).filter(|_| is_business_scoped(&self.0));
        };
        let country = match regions.as_slice() {
            [only] => *only,
            // Reading the whole number takes long; most codes belong to one country.
            _ => DATABASE.by_id(phonenumber::parse(None, &self.0).ok()?.country().id()?.as_ref())?.id(),
        };
        // Numbers of no country have a code too.
        (country != "001").then_some(country)
    }

    /// The calling code of a phone number.
    pub fn calling_code(&self) -> Option<u16> {
        self.regions().map(|(code, _)| code)
    }

    /// The calling code with the countries that share it.
    fn regions(&self) -> Option<(u16, Vec<&'static str>)> {
        let digits = self.0.strip_prefix('+')?;
        // No calling code begins with another.
        let mut codes = (1..=3).filter_map(|length| digits.get(..length)?.parse::<u16>().ok());
        codes.find_map(|code| Some((code, DATABASE.region(&code)?)))
    }

    /// The form that may be shown without the scope `pii`: enough to recognise it, too little to call it.
    pub fn masked(&self) -> String {
        let count = self.0.chars().count();
        let (head, tail) = if count >= 11 { (5, 3) } else { (2.min(count / 3), 1.min(count / 3)) };
        self.0.chars().enumerate().map(|(i, c)| if i < head || i >= count - tail { c } else { '*' }).collect()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

/// Whether it is a country as ISO 3166-1 writes it, as far as it has phone numbers.
pub fn is_country(text: &str) -> bool {
    text.parse::<country::Id>().is_ok()
}

/// Loads the numbering plans, which takes tens of milliseconds; called at start so that no first job waits for it.
pub fn warm_up() {
    static WARM: LazyLock<bool> = LazyLock::new(|| Address::parse(Channel::Whatsapp, "+819012345678").is_ok());
    LazyLock::force(&WARM);
}

fn parse_phone(text: &str, country: Option<country::Id>) -> Result<Address, AddressError> {
    if country.is_none() && !text.starts_with(['+', '+']) {
        return Err(AddressError::NotInternational);
    }
    let valid = |country, text: &str| {
        phonenumber::parse(country, text).ok().filter(phonenumber::is_valid).ok_or(AddressError::Invalid)
    };
    let number = valid(country, text).or_else(|error| {
        // A national number may begin with the digits of its own country's code, which the library then takes for it.
        let code = country.filter(|_| !text.starts_with(['+', '\u{ff0b}'])).and_then(|id| DATABASE.by_id(id.as_ref()));
        code.map_or(Err(error), |country| valid(None, &format!("+{} {text}", country.country_code())))
    })?;
    // What `format()` says in mode E.164, without its search for the country's way of writing, which that mode passes over.
    Ok(Address(format!("+{}{}", number.code().value(), number.national())))
}

/// A business-scoped user id of WhatsApp: a country code, a dot, and up to 128 letters or digits.
fn is_business_scoped(text: &str) -> bool {
    text.split_once('.').is_some_and(|(country, id)| {
        country.len() == 2
            && country.bytes().all(|b| b.is_ascii_uppercase())
            && (1..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

fn parse_mailbox(text: &str) -> Result<Address, AddressError> {
    let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NotAMailbox)?;
    let plain =
        |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@');
    if !plain(local) || !plain(domain) || !domain.contains('.') || text.len() > 254 {
        return Err(AddressError::NotAMailbox);
    }
    Ok(Address(format!("{local}@{}", domain.to_lowercase())))
}

fn parse_user_id(text: &str) -> Result<Address, AddressError> {
    let fits = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits { Ok(Address(text.to_owned())) } else { Err(AddressError::NotAUserId) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_the_library_writes_it() {
        for text in [
            "+819012345678",
            "+39 06 698 12345",
            "+1 212 555 2368",
            "+44 20 7946 0958",
            "+80012345678",
            "+65 6521 8000",
        ] {
            let number = phonenumber::parse(None, text).unwrap();
            let written = number.format().mode(phonenumber::Mode::E164).to_string();
            assert_eq!(Address::parse(Channel::Whatsapp, text).map(|a| a.as_str().to_owned()), Ok(written), "{text}");
        }
    }

    #[test]
    fn one_number_has_one_form() {
        let forms = ["+819012345678", "+81 90 1234 5678", "+81-90-1234-5678", " +81(0)90-1234-5678 ", "+819012345678"];
        for form in forms {
            let parsed = Address::parse(Channel::Whatsapp, form).map(|a| a.as_str().to_owned());
            assert_eq!(parsed, Ok("+819012345678".to_owned()), "{form}");
        }
    }

    #[test]
    fn a_national_number_needs_its_country() {
        let national = "090-1234-5678";
        assert_eq!(Address::parse(Channel::Whatsapp, national), Err(AddressError::NotInternational));
        let with_country = Address::parse_in(Channel::Whatsapp, national, Some(country::JP));
        assert_eq!(with_country.map(|a| a.0), Ok("+819012345678".to_owned()));
        let like_its_code = Address::parse_in(Channel::Whatsapp, "6521 8000", Some(country::SG));
        assert_eq!(like_its_code.map(|a| a.0), Ok("+6565218000".to_owned()));
        for text in ["12", "6521", "65218000 1"] {
            assert_eq!(
                Address::parse_in(Channel::Whatsapp, text, Some(country::SG)),
                Err(AddressError::Invalid),
                "{text}"
            );
        }
    }

    #[test]
    fn nothing_shown_is_the_whole_address() {
        for text in ["+819012345678", "+6591234567", "a@b.jp", "US.13491208655302741918", "x"] {
            let address = Address::from_store(text.to_owned());
            let shown = format!("{address} {address:?}");
            assert!(shown.contains('*') && !shown.contains(text), "{shown}");
        }
    }

    #[test]
    fn each_channel_has_its_own_form() {
        assert!(Address::parse(Channel::Whatsapp, "US.13491208655302741918").is_ok());
        assert!(Address::parse(Channel::Email, "佐藤@example.jp").is_ok());
        assert_eq!(Address::parse(Channel::Email, "sato@"), Err(AddressError::NotAMailbox));
        assert_eq!(Address::parse(Channel::Messenger, "12 34"), Err(AddressError::NotAUserId));
        assert_eq!(Address::parse(Channel::Whatsapp, "  "), Err(AddressError::Empty));
    }
}
