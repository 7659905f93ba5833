//! Phone numbers as people paste them: one a line or many, by commas or spaces, with hyphens and full-width digits.

use phonenumber::country;

use crate::domain::{
    Channel,
    address::{Address, AddressError},
};

/// Fewer digits than any number that stands alone has.
const DIGITS_MIN: usize = 7;

/// Something in a list that is no number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotANumber {
    /// As it stands there, masked.
    pub shown: String,
    /// Why.
    pub error: NumberError,
}

/// Why it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// It is not an address of the channel.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It reads as one number with spaces in it, and as several.
    #[error("is one number or several: write one on each line")]
    Ambiguous,
}

/// What parts a list: the rest stands within a number, or between two when each is one by itself.
pub const fn is_separator(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\t' | ',' | ';' | '|' | '\u{ff0c}' | '\u{ff1b}' | '\u{3001}')
}

/// Reads what stands between two separators: no number, one, or several with spaces between.
///
/// ```
/// use campaign_dispatch::domain::{Channel, number_list::read};
/// let one = read(Channel::Whatsapp, "(090) 1234-5678", Some(phonenumber::country::JP));
/// assert_eq!(one[0].as_ref().unwrap().as_str(), "+819012345678");
/// ```
pub fn read(channel: Channel, text: &str, country: Option<country::Id>) -> Vec<Result<Address, NotANumber>> {
    let plain = plain(text);
    let mut found = Vec::new();
    let mut tokens: Vec<&str> = Vec::new();
    for token in plain.split_whitespace() {
        // Only the first part of a number is written with a plus.
        if token.starts_with('+') && !tokens.is_empty() {
            run(channel, &std::mem::take(&mut tokens), country, &mut found);
        }
        tokens.push(token);
    }
    if !tokens.is_empty() {
        run(channel, &tokens, country, &mut found);
    }
    found
}

/// Reads tokens that are one number together, or one each. What could be both is refused: a wrong guess is a message to a
/// stranger.
fn run(channel: Channel, tokens: &[&str], country: Option<country::Id>, found: &mut Vec<Result<Address, NotANumber>>) {
    let refused = |text: &str, error| Err(NotANumber { shown: Address::from_store(text.to_owned()).masked(), error });
    let parse = |text: &str| {
        Address::parse_in(channel, text, country).or_else(|error| refused(text, NumberError::Address(error)))
    };
    if let [only] = tokens {
        found.push(parse(only));
        return;
    }
    let whole = tokens.join(" ");
    let (together, each) = (parse(&whole), tokens.iter().map(|token| parse(token)).collect::<Vec<_>>());
    let digits = |token: &&str| token.bytes().filter(u8::is_ascii_digit).count();
    match (together, each.iter().all(Result::is_ok)) {
        (Ok(_), true) => found.push(refused(&whole, NumberError::Ambiguous)),
        (Ok(address), false) => found.push(Ok(address)),
        (Err(_), true) => found.extend(each),
        (Err(_), false) if tokens.iter().all(|token| digits(token) >= DIGITS_MIN) => found.extend(each),
        (Err(error), false) => found.push(Err(error)),
    }
}

/// Full-width forms and the many hyphens as ASCII; what cannot be seen left out, as address books put it around numbers.
fn plain(text: &str) -> String {
    let plain = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0),
        '\u{2010}'..='\u{2015}' | '\u{2043}' | '\u{2212}' | '\u{30fc}' | '\u{ff70}' => Some('-'),
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => None,
        other => Some(other),
    };
    text.chars().filter_map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let read = text.split(is_separator).flat_map(|part| read(Channel::Whatsapp, part, Some(country::JP)));
        read.map(|found| found.map_or_else(|bad| format!("{} {}", bad.shown, bad.error), |a| a.as_str().to_owned()))
            .collect()
    }

    #[test]
    fn a_list_is_read_however_it_is_parted() {
        let two = ["+819012345678", "+818011112222"];
        for text in [
            "09012345678\n08011112222\n",
            "090-1234-5678\r\n080-1111-2222",
            "09012345678, 08011112222",
            "09012345678 08011112222",
            "090 1234 5678;080 1111 2222",
            "(090) 1234-5678、080(1111)2222",
            "090-1234-5678\t080ー1111ー2222",
            "090−1234−5678 080–1111–2222",
            "\u{ff10}\u{ff19}\u{ff10}\u{ff0d}1234\u{ff0d}5678\u{ff0c}\u{ff08}080\u{ff09}1111\u{30fc}2222",
            "09012345678\u{3000}08011112222",
            "+81 90 1234 5678 +81 80 1111 2222",
            "\u{202a}+81 90-1234-5678\u{202c}\n\n  080 1111 2222  ",
        ] {
            assert_eq!(told(text), two, "{text}");
        }
        assert!(told(" \n,, \n").is_empty());
    }

    #[test]
    fn what_is_no_number_is_told_masked_and_hurts_no_other() {
        let told_of = |text| told(text);
        let told = told_of("09012345678 09012345 08011112222");
        assert_eq!((told.len(), told[0].as_str(), told[2].as_str()), (3, "+819012345678", "+818011112222"));
        assert!(told[1].contains('*') && told[1].contains("is not a valid phone number"), "{told:?}");
        // Parts of numbers are not taken for numbers: nobody can say where the next one begins.
        assert_eq!(told_of("090 1234 5678 080 1111 2222").len(), 1);
    }

    #[test]
    fn an_international_number_needs_no_country() {
        let found = read(Channel::Whatsapp, "+65 6521 8000", None);
        assert_eq!(found[0].as_ref().map(Address::as_str), Ok("+6565218000"));
        let error = read(Channel::Whatsapp, "6521 8000", None)[0].clone().unwrap_err().error;
        assert_eq!(error, NumberError::Address(AddressError::NotInternational));
    }
}
