//! Cells of files that people open in a spreadsheet.

use std::borrow::Cow;

/// Free text as a cell that no spreadsheet takes for a formula.
///
/// ```
/// use campaign_dispatch::domain::cell::guarded;
/// assert_eq!(guarded("=1+1"), "'=1+1");
/// assert_eq!(guarded("佐藤"), "佐藤");
/// ```
pub fn guarded(text: &str) -> Cow<'_, str> {
    if is_formula(text) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// What [`guarded`] was given, so that an export can be read in again.
pub fn unguarded(text: &str) -> &str {
    text.strip_prefix('\'').filter(|rest| is_formula(rest)).unwrap_or(text)
}

fn is_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// An address as a cell. A phone number keeps its plus and can be read in again; no formula is made of digits alone.
pub fn address(text: &str) -> Cow<'_, str> {
    let is_phone = text.strip_prefix('+').is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'*'));
    if is_phone { Cow::Borrowed(text) } else { guarded(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_a_formula() {
        for text in ["=cmd()", "+1", "-1", "@sum", "\t=1", "\r=1"] {
            assert_eq!(guarded(text), format!("'{text}"));
            assert_eq!(unguarded(&guarded(text)), text);
        }
        assert_eq!((unguarded("'tis"), unguarded("佐藤")), ("'tis", "佐藤"));
        assert_eq!(address("+819012345678"), "+819012345678");
        assert_eq!(address("+8190*****678"), "+8190*****678");
        assert_eq!(address("=cmd@example.jp"), "'=cmd@example.jp");
        assert_eq!(address("+1*cmd"), "'+1*cmd");
    }
}
