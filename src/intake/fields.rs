//! Reading the fields of a JSON object: each problem with its pointer.

use chrono::{DateTime, FixedOffset};
use serde_json::{Map, Value};

use crate::{
    domain::{nearest::nearest, template::Params},
    intake::job::JobError,
};

/// Longest `ref`, `campaign` and names, in characters.
pub(super) const TEXT_CHARS: usize = 256;
/// Longest value of a slot read at all; the template says how long it may really be.
const PARAM_CHARS: usize = 65_536;

/// Reads fields and remembers what is wrong with them.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) errors: Vec<JobError>,
}

impl Reader {
    /// The fields of an object, reporting those it should not have.
    pub(super) fn object<'a>(&mut self, value: &'a Value, at: &str, known: &[&str]) -> Option<&'a Map<String, Value>> {
        let Some(fields) = value.as_object() else {
            self.wrong_type(at, "must be an object");
            return None;
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let error = JobError::new(pointer(at, name), "unknown_field", format!("there is no field `{name}` here"));
            self.errors.push(error.meant(nearest(name, known.iter().copied())));
        }
        Some(fields)
    }

    pub(super) fn wrong_type(&mut self, at: impl Into<String>, reason: &str) {
        self.errors.push(JobError::new(at, "wrong_type", reason));
    }

    pub(super) fn text(&mut self, fields: &Map<String, Value>, at: &str, name: &str, max: usize) -> Option<String> {
        if given(fields, name).is_none() {
            self.errors.push(JobError::new(pointer(at, name), "missing_field", "is missing"));
            return None;
        }
        self.optional_text(fields, at, name, max)
    }

    pub(super) fn optional_text(
        &mut self,
        fields: &Map<String, Value>,
        at: &str,
        name: &str,
        max: usize,
    ) -> Option<String> {
        let value = given(fields, name)?;
        let Some(text) = value.as_str() else {
            self.wrong_type(pointer(at, name), "must be text");
            return None;
        };
        if !is_good_text(text, max) {
            let reason = format!("must have 1 to {max} characters and no NUL");
            self.errors.push(JobError::new(pointer(at, name), "ill_formed", reason));
            return None;
        }
        Some(text.to_owned())
    }

    /// A whole number, where one is given.
    pub(super) fn whole(&mut self, fields: &Map<String, Value>, at: &str, name: &str) -> Option<i32> {
        let number = given(fields, name)?.as_i64().and_then(|number| i32::try_from(number).ok());
        if number.is_none() {
            self.wrong_type(pointer(at, name), "must be a whole number");
        }
        number
    }

    /// One of a closed set of words.
    pub(super) fn word<T: std::str::FromStr<Err = crate::domain::UnknownName>>(
        &mut self,
        fields: &Map<String, Value>,
        name: &str,
    ) -> Option<T> {
        let text = self.optional_text(fields, "", name, TEXT_CHARS)?;
        self.parse_word(&text, pointer("", name))
    }

    pub(super) fn parse_word<T: std::str::FromStr<Err = crate::domain::UnknownName>>(
        &mut self,
        text: &str,
        at: String,
    ) -> Option<T> {
        let unknown = match text.parse() {
            Ok(word) => return Some(word),
            Err(unknown) => unknown,
        };
        let near = nearest(text, unknown.known.iter().copied());
        self.errors.push(JobError::new(at, "unknown_value", unknown.to_string()).meant(near));
        None
    }

    pub(super) fn params(&mut self, fields: &Map<String, Value>, at: &str) -> Params {
        let Some(value) = given(fields, "params") else {
            return Params::new();
        };
        let at = pointer(at, "params");
        let Some(values) = value.as_object() else {
            self.wrong_type(at, "must be an object of texts by slot");
            return Params::new();
        };
        let mut params = Params::new();
        for (slot, value) in values {
            match value.as_str() {
                Some(text) if text.contains('\0') || text.len() > PARAM_CHARS || !is_good_text(slot, TEXT_CHARS) => {
                    self.errors.push(JobError::new(pointer(&at, slot), "ill_formed", "is too long or contains NUL"));
                }
                Some(text) => {
                    params.insert(slot.clone(), text.to_owned());
                }
                None => self.wrong_type(pointer(&at, slot), "must be text"),
            }
        }
        params
    }

    pub(super) fn time(&mut self, fields: &Map<String, Value>, name: &str) -> Option<DateTime<FixedOffset>> {
        let text = self.optional_text(fields, "", name, TEXT_CHARS)?;
        let time = DateTime::parse_from_rfc3339(&text);
        if time.is_err() {
            let reason = "must be a time with its offset as in RFC 3339, for example 2026-12-01T09:00:00+09:00";
            self.errors.push(JobError::new(pointer("", name), "ill_formed", reason));
        }
        time.ok()
    }

    /// The values of a list, each with its pointer; none where there is no list.
    pub(super) fn list<'a>(
        &mut self,
        fields: &'a Map<String, Value>,
        at: &str,
        name: &str,
    ) -> Vec<(&'a Value, String)> {
        let at = pointer(at, name);
        match given(fields, name).map(|value| value.as_array()) {
            None => Vec::new(),
            Some(None) => {
                self.wrong_type(at, "must be a list");
                Vec::new()
            }
            Some(Some(values)) => {
                values.iter().enumerate().map(|(place, value)| (value, format!("{at}/{place}"))).collect()
            }
        }
    }
}

/// A field that is there and not null.
pub(super) fn given<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// Postgres keeps no NUL in text.
pub(super) fn is_good_text(text: &str, max: usize) -> bool {
    !text.is_empty() && !text.contains('\0') && (text.len() <= max || text.chars().count() <= max)
}

/// A text of somebody's file as Postgres keeps it and a terminal may show it.
pub(super) fn storable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// `at` and a name as a JSON pointer (RFC 6901).
pub(super) fn pointer(at: &str, name: &str) -> String {
    if name.contains(['~', '/']) {
        format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
    } else {
        format!("{at}/{name}")
    }
}
