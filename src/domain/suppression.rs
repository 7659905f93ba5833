//! Who must not be messaged: what such a wish covers, where it comes from, and which words are one.

use std::collections::HashSet;

use unicode_normalization::UnicodeNormalization as _;

use crate::domain::named;

named! {
    /// What of us a recipient is spared.
    pub enum SuppressionScope {
        /// Marketing of an account. Never an authentication or utility message.
        Marketing = "marketing",
        /// Everything of an account.
        Account = "account",
        /// Everything of a tenant.
        Tenant = "tenant",
    }
}

named! {
    /// Where a suppression comes from.
    pub enum SuppressionSource {
        /// The provider refused a message with a code that says so.
        ProviderCode = "provider_code",
        /// The provider told that the recipient changed what it takes.
        Preference = "preference",
        /// The recipient tapped a button of a template.
        Button = "button",
        /// The recipient wrote a word.
        Keyword = "keyword",
        /// Somebody said so by the API.
        Api = "api",
        /// It stood in a file.
        File = "file",
    }
}

named! {
    /// What a recipient wants.
    pub enum Wish {
        /// No more marketing.
        Stop = "stop",
        /// Marketing again.
        Resume = "resume",
    }
}

impl SuppressionScope {
    /// The code of a message that was not called for it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Marketing => "suppressed_marketing",
            Self::Account => "suppressed_account",
            Self::Tenant => "suppressed_tenant",
        }
    }

    /// The same for people.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Marketing => "the recipient takes no marketing of this account",
            Self::Account => "the recipient is not to be messaged from this account",
            Self::Tenant => "the recipient is not to be messaged",
        }
    }
}

/// A text in the form in which words are compared: trimmed, NFKC, without case.
///
/// ```
/// use campaign_dispatch::domain::suppression::folded;
/// assert_eq!(folded("  Ｓｔｏｐ\n"), "stop");
/// assert_eq!(folded("ｽﾄｯﾌﾟ"), "ストップ");
/// ```
pub fn folded(text: &str) -> String {
    // Lower case of upper case: `ß` and `SS` are one.
    let text = text.nfkc().collect::<String>().to_uppercase().to_lowercase();
    text.trim().to_owned()
}

/// The words by which recipients say what they want.
#[derive(Debug, Clone, Default)]
pub struct Words {
    stop: HashSet<String>,
    stop_buttons: HashSet<String>,
    resume: HashSet<String>,
}

/// What a recipient sent, as far as words go.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// The text, or the label of the button.
    pub text: Option<&'a str>,
    /// What stands behind a button.
    pub payload: Option<&'a str>,
    /// A button was tapped.
    pub is_button: bool,
}

impl Words {
    /// Reads lists of words parted by commas, as the settings have them.
    pub fn read(stop: &str, stop_buttons: &str, resume: &str) -> Self {
        let list =
            |text: &str| text.split([',', '、', '\u{ff0c}']).map(folded).filter(|word| !word.is_empty()).collect();
        Self { stop: list(stop), stop_buttons: list(stop_buttons), resume: list(resume) }
    }

    /// The wish that a message is, and what it is taken from. Only a message that is nothing but the word is one.
    pub fn wish(&self, said: Said<'_>) -> Option<(Wish, SuppressionSource)> {
        let given: Vec<String> = [said.text, said.payload].into_iter().flatten().map(folded).collect();
        let is_in = |words: &HashSet<String>| given.iter().any(|text| words.contains(text));
        if said.is_button && is_in(&self.stop_buttons) {
            return Some((Wish::Stop, SuppressionSource::Button));
        }
        let source = if said.is_button { SuppressionSource::Button } else { SuppressionSource::Keyword };
        // Whoever says both is left alone.
        if is_in(&self.stop) {
            Some((Wish::Stop, source))
        } else {
            is_in(&self.resume).then_some((Wish::Resume, source))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &Words, text: &str) -> Option<(Wish, SuppressionSource)> {
        words.wish(Said { text: Some(text), payload: None, is_button: false })
    }

    #[test]
    fn a_word_is_known_in_all_its_spellings_and_alone() {
        let words = Words::read("STOP, 配信停止、ストップ", "Stop promotions", "START,配信再開");
        let (stop, resume) =
            (Some((Wish::Stop, SuppressionSource::Keyword)), Some((Wish::Resume, SuppressionSource::Keyword)));
        let table = [
            ("STOP", stop),
            ("stop", stop),
            (" Stop \n", stop),
            ("ＳＴＯＰ", stop),
            ("\u{3000}ｓｔｏｐ\u{3000}", stop),
            ("配信停止", stop),
            (" 配信停止 ", stop),
            ("ｽﾄｯﾌﾟ", stop),
            ("start", resume),
            ("配信再開", resume),
            ("please stop", None),
            ("stop it", None),
            ("STOP.", None),
            ("配信停止しないで", None),
            ("Stop promotions", None),
            ("", None),
            ("  ", None),
            ("\0", None),
        ];
        for (said, expected) in table {
            assert_eq!(text(&words, said), expected, "{said:?}");
        }
    }

    #[test]
    fn a_button_counts_by_its_label_and_by_what_stands_behind_it() {
        let words = Words::read("STOP", "Stop promotions,optout", "START");
        let tap = |text, payload| words.wish(Said { text, payload, is_button: true });
        let stop = Some((Wish::Stop, SuppressionSource::Button));
        assert_eq!(tap(Some("Stop Promotions"), Some("x")), stop);
        assert_eq!(tap(Some("お知らせを止める"), Some("OPTOUT")), stop);
        assert_eq!(tap(Some("stop"), None), stop);
        assert_eq!(tap(Some("start"), None), Some((Wish::Resume, SuppressionSource::Button)));
        assert_eq!(tap(Some("START"), Some("STOP")), stop);
        assert_eq!(tap(Some("Yes"), Some("YES")), None);
    }

    #[test]
    fn empty_lists_know_no_word() {
        let words = Words::read("", " , ", "");
        assert_eq!(text(&words, ""), None);
        assert_eq!(text(&words, "STOP"), None);
    }
}
