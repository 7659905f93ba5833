//! Reading a template's buttons.

use serde_json::Value;

use super::{
    Button, ButtonAction, SlotKind,
    parse::{Reader, URL_CHARS, example, text, word},
};
use crate::domain::Category;

/// Meta: at most 20 characters of coupon code (15 before December 2025).
const COUPON_CHARS: usize = 20;
/// Meta: at most 128 characters of payload.
const PAYLOAD_CHARS: usize = 128;

impl Reader {
    /// Reads the list of buttons; the body was read before.
    pub(super) fn buttons(&mut self, component: &Value, at: &str) {
        let Some(buttons) = component.get("buttons").and_then(Value::as_array) else {
            return self.problem(format!("{at}/buttons"), "is missing");
        };
        for (index, button) in buttons.iter().enumerate() {
            let action = self.button(button, index + 1, &format!("{at}/buttons/{index}"));
            if let Some(action) = action {
                self.components.buttons.push(Button { label: text(button, "text").to_owned(), action });
            }
        }
    }

    fn button(&mut self, button: &Value, count: usize, at: &str) -> Option<ButtonAction> {
        let password = (self.category == Category::Authentication).then_some(self.components.body.slots.start);
        match (word(button, "type").as_str(), password) {
            // Meta: what is created as OTP reads back as URL.
            ("OTP" | "COPY_CODE", Some(slot)) => Some(ButtonAction::OneTimePassword { slot }),
            ("URL", Some(slot)) if text(button, "url").contains("{{") => Some(ButtonAction::OneTimePassword { slot }),
            ("OTP", None) => {
                self.problem(format!("{at}/type"), "a one-time password button needs the category authentication");
                None
            }
            ("QUICK_REPLY", _) => {
                let slot = self.slot(format!("button{count}.payload"), SlotKind::Payload, PAYLOAD_CHARS, None);
                Some(ButtonAction::QuickReply { slot })
            }
            ("URL", _) => self.url(button, count, at),
            ("PHONE_NUMBER", _) => Some(ButtonAction::Phone { number: text(button, "phone_number").to_owned() }),
            ("COPY_CODE", None) if self.slot_is_taken("coupon_code") => {
                self.problem(format!("{at}/type"), "a template has only one button that copies a coupon code");
                None
            }
            ("COPY_CODE", None) => {
                let slot = self.slot("coupon_code", SlotKind::Coupon, COUPON_CHARS, example(button, "/example"));
                Some(ButtonAction::CopyCode { slot })
            }
            ("", _) => {
                self.problem(format!("{at}/type"), "is missing");
                None
            }
            (other, _) => {
                self.problem(format!("{at}/type"), format!("a {other} button is not supported yet"));
                None
            }
        }
    }

    /// Meta: an address has at most one variable, at its end.
    fn url(&mut self, button: &Value, count: usize, at: &str) -> Option<ButtonAction> {
        let url = text(button, "url");
        let Some((fixed, rest)) = url.split_once("{{") else {
            if url.is_empty() {
                self.problem(format!("{at}/url"), "is missing");
            }
            return Some(ButtonAction::Url { url: url.to_owned(), slot: None });
        };
        if rest.split_once("}}").is_none_or(|(name, after)| name.trim().is_empty() || !after.is_empty()) {
            self.problem(format!("{at}/url"), "an address has at most one variable, at its end");
            return None;
        }
        // The example given to the review is usually the whole address.
        let example = example(button, "/example").map(|full| full.strip_prefix(fixed).unwrap_or(&full).to_owned());
        let max = URL_CHARS.saturating_sub(fixed.chars().count());
        let slot = self.slot(format!("button{count}.url"), SlotKind::UrlSuffix, max, example);
        Some(ButtonAction::Url { url: fixed.to_owned(), slot: Some(slot) })
    }
}
