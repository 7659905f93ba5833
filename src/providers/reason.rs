//! A provider's words, made fit to be kept.

/// The most characters of a provider's words that are kept.
const MAX_CHARS: usize = 500;
/// Shorter runs of digits are codes and counts; phone numbers with their country are never shorter.
const PHONE_DIGITS: usize = 8;

/// A provider's words without the recipient and without anything that looks like a phone number,
/// at most 500 characters.
///
/// Providers name the recipient in another form than we sent (`wa_id` may gain or lose a digit), so every long run of
/// digits is masked.
pub(super) fn clean(text: &str, recipients: &[&str]) -> String {
    let mut text = text.to_owned();
    for recipient in recipients
        .iter()
        .map(|recipient| recipient.trim_start_matches('+'))
    {
        if recipient.chars().count() >= 5 {
            text = text.replace(recipient, "***");
        }
    }
    let mut clean = String::with_capacity(text.len());
    let mut digits = String::new();
    // The space at the end ends the last run.
    for c in text.chars().chain([' ']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        clean.push_str(if digits.len() >= PHONE_DIGITS {
            "***"
        } else {
            &digits
        });
        digits.clear();
        clean.push(if c.is_control() { ' ' } else { c });
    }
    let clean = clean.trim();
    match clean.char_indices().nth(MAX_CHARS) {
        None => clean.to_owned(),
        Some(_) => clean.chars().take(MAX_CHARS - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn numbers_and_recipients_are_masked_and_codes_stay() {
        let cases = [
            (
                "(#131030) +16505550001 not in list",
                "(#131030) +*** not in list",
            ),
            ("to 6505550001", "to ***"),
            ("to US.abcdef", "to ***"),
            ("code 2388019, 10 per hour\n", "code 2388019, 10 per hour"),
        ];
        for (text, expected) in cases {
            assert_eq!(clean(text, &["+16505550001", "US.abcdef", ""]), expected);
        }
    }

    #[test]
    fn long_words_are_cut_at_a_character() {
        let kept = clean(&"é".repeat(900), &[]);
        assert_eq!(kept.chars().count(), 500);
        assert!(kept.ends_with('…'));
    }
}
