//! What a spreadsheet makes of a number: `+819012345678` typed into a cell becomes `8.19012345678E+11`, and `090…` loses
//! its zero. What is still there whole is recovered; what was rounded is not.

/// Digits a spreadsheet keeps of a number; what follows it has rounded away (Excel specifications: 15).
pub const DIGITS: usize = 15;

/// What a text is, seen so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Nothing that a spreadsheet makes of a number.
    Text,
    /// A whole number of which no digit is lost.
    Whole(String),
    /// A number of which digits may be lost.
    Rounded,
}

impl Shape {
    /// Reads `819012345678.0` and `8.19012345678E+11`; digits alone are text, as somebody may have typed them.
    ///
    /// ```
    /// use campaign_dispatch::domain::spreadsheet::Shape;
    /// assert_eq!(Shape::of("8.19012345678E+11"), Shape::Whole("819012345678".to_owned()));
    /// assert_eq!(Shape::of("819012345678.0"), Shape::Whole("819012345678".to_owned()));
    /// assert_eq!(Shape::of("8.19012E+11"), Shape::Rounded);
    /// assert_eq!(Shape::of("+819012345678"), Shape::Text);
    /// ```
    pub fn of(text: &str) -> Self {
        if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.contains(['.', 'e', 'E']) {
            return Self::Text;
        }
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let Ok(exponent) = exponent.trim_start_matches('+').parse::<usize>() else {
            return Self::Text;
        };
        if !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit()) {
            return Self::Text;
        }
        let Some((moved, rest)) = fraction.split_at_checked(exponent) else {
            return Self::Rounded;
        };
        if rest.bytes().any(|b| b != b'0') {
            return Self::Text;
        }
        Self::digits(&format!("{whole}{moved}"))
    }

    /// A cell that holds the whole number with these digits.
    pub fn digits(digits: &str) -> Self {
        if digits.len() > DIGITS { Self::Rounded } else { Self::Whole(digits.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_whole_is_recovered() {
        let whole = |text: &str| Shape::Whole(text.to_owned());
        for (text, shape) in [
            ("819012345678.0", whole("819012345678")),
            ("819012345678.", whole("819012345678")),
            ("8.19012345678e11", whole("819012345678")),
            ("8.1901234567800E+11", whole("819012345678")),
            ("8.19E+11", Shape::Rounded),
            ("9E+10", Shape::Rounded),
            ("1234567890123456.0", Shape::Rounded),
            ("819012345678", Shape::Text),
            ("09012345678", Shape::Text),
            ("1.5", Shape::Text),
            ("1.5E-3", Shape::Text),
            ("3e@example.jp", Shape::Text),
            ("90.1234.5678", Shape::Text),
            ("", Shape::Text),
        ] {
            assert_eq!(Shape::of(text), shape, "{text}");
        }
    }
}
