//! Whether a value fits its slot.

use std::fmt;

use super::{Slot, SlotKind};
use crate::domain::nearest::nearest_under;

/// What is wrong with one value of a send.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema, utoipa::ToSchema)]
pub struct SlotProblem {
    /// The slot, or the name as it was given when there is no such slot.
    pub slot: String,
    /// `missing_slot`, `unknown_slot`, `too_long` or `ill_formed`.
    pub code: &'static str,
    /// For people.
    pub reason: String,
    /// The names that were probably meant.
    pub did_you_mean: Vec<String>,
}

impl fmt::Display for SlotProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.slot, self.reason)
    }
}

fn problem(slot: &Slot, code: &'static str, reason: impl Into<String>) -> SlotProblem {
    SlotProblem { slot: slot.name.clone(), code, reason: reason.into(), did_you_mean: Vec::new() }
}

/// A name the template does not have, with those it resembles, the nearest first.
pub(super) fn unknown(name: &str, slots: &[Slot]) -> SlotProblem {
    let reason = if slots.is_empty() {
        "is not a slot: the template has none".to_owned()
    } else {
        let names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        format!("is not a slot of the template, which has {}", names.join(", "))
    };
    let did_you_mean = nearest_under(name, slots.iter().map(|slot| slot.name.as_str()), "body.");
    SlotProblem { slot: name.to_owned(), code: "unknown_slot", reason, did_you_mean }
}

/// A slot given under two of its names: nobody can say which value was meant.
pub(super) fn given_twice(slot: &Slot, other: &str) -> SlotProblem {
    problem(slot, "ill_formed", format!("is given twice, as `{}` and as `{other}`", slot.name))
}

/// Checks the value of a slot; an empty one is one that was not given.
pub(super) fn value(slot: &Slot, value: &str) -> Result<(), SlotProblem> {
    if value.is_empty() {
        return if slot.required { Err(problem(slot, "missing_slot", "is missing or empty")) } else { Ok(()) };
    }
    // Characters are never more than bytes: most values need no counting.
    if value.len() > slot.max_chars {
        let count = value.chars().count();
        if count > slot.max_chars {
            let reason = format!("has {count} characters, at most {} are allowed", slot.max_chars);
            return Err(problem(slot, "too_long", reason));
        }
    }
    form(slot.kind, value).map_err(|reason| problem(slot, "ill_formed", reason))
}

fn form(kind: SlotKind, value: &str) -> Result<(), &'static str> {
    match kind {
        SlotKind::Text => line(value),
        SlotKind::Media => media(value),
        SlotKind::UrlSuffix if value.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Err("is the end of a web address and must not contain spaces: encode them as %20")
        }
        SlotKind::OneTimePassword | SlotKind::Coupon
            if value.contains(|c: char| c.is_whitespace() || c.is_control()) =>
        {
            Err("is a code and must not contain spaces")
        }
        SlotKind::Payload if value.contains(char::is_control) => {
            Err("must not contain line breaks or control characters")
        }
        SlotKind::UrlSuffix | SlotKind::OneTimePassword | SlotKind::Coupon | SlotKind::Payload => Ok(()),
    }
}

/// Meta: a text parameter has no new line, no tab and no more than four consecutive spaces (else
/// code 132012 or 132018).
fn line(value: &str) -> Result<(), &'static str> {
    if value.contains(char::is_control) {
        return Err("must not contain line breaks, tabs or control characters");
    }
    if value.contains("     ") {
        return Err("must not contain more than four spaces in a row");
    }
    Ok(())
}

fn media(value: &str) -> Result<(), &'static str> {
    let is_id = value.bytes().all(|b| b.is_ascii_digit());
    let is_link = value.strip_prefix("https://").is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
    });
    if is_id || is_link {
        Ok(())
    } else {
        Err("must be the id of an uploaded file (digits) or a link starting with https://")
    }
}
