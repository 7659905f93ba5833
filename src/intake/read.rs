//! Reading a body into a job: every problem at once, each with its JSON pointer.

use std::borrow::Cow;

use chrono::{DateTime, FixedOffset};
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    domain::template::Params,
    intake::job::{
        Audience, CANCEL_JOB, CancelJob, JobError, Notify, Recipient, Rejection, SEND_JOB, SendJob,
        TemplateRef,
    },
};

/// Longest `job_id`, in characters.
const JOB_ID_CHARS: usize = 128;
/// Longest `ref`, `campaign` and names, in characters.
const TEXT_CHARS: usize = 256;
/// Longest value of a slot read at all; the template says how long it may really be.
const PARAM_CHARS: usize = 65_536;
/// Problems reported of one body.
const ERRORS_MAX: usize = 100;

/// A body that is in form a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// To send. `recipients` of the job is empty: its rows stand beside it.
    Send {
        /// The job without its recipients.
        job: Box<SendJob>,
        /// Recipients in good form, with their places from 1.
        rows: Vec<(i32, Recipient)>,
        /// Recipients that are not.
        refused: Vec<Rejection>,
    },
    /// To cancel.
    Cancel(CancelJob),
}

/// Whose job it is, as far as the body can be read at all.
#[derive(Debug, Default, Deserialize)]
pub struct Head<'a> {
    /// `producer`.
    #[serde(borrow, default)]
    pub producer: Option<Cow<'a, str>>,
    /// `job_id`.
    #[serde(borrow, default)]
    pub job_id: Option<Cow<'a, str>>,
}

impl<'a> Head<'a> {
    /// Reads no more than it must; anything unreadable is absent.
    pub fn read(body: &'a [u8]) -> Self {
        let head: Self = serde_json::from_slice(body).unwrap_or_default();
        Self {
            producer: head.producer.filter(|name| is_producer(name)),
            job_id: head.job_id.filter(|id| is_good_text(id, JOB_ID_CHARS)),
        }
    }
}

/// Whether it may be a producer's name: `[a-z0-9-]{1,64}`.
pub fn is_producer(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Parses JSON; the error says line and column.
pub fn json(body: &[u8]) -> Result<Value, JobError> {
    serde_json::from_slice(body).map_err(|error| {
        let reason = format!("is not JSON: {error}");
        JobError::new("", "malformed_json", reason)
    })
}

/// Reads the form of a job; its references are checked later.
pub fn job(body: &Value) -> Result<Read, Vec<JobError>> {
    let mut reader = Reader::default();
    let read = match body.get("schema").and_then(Value::as_str) {
        Some(SEND_JOB) => reader.send(body),
        Some(CANCEL_JOB) => reader.cancel(body),
        Some(other) => {
            let reason = format!("`{other}` is not a kind of job: {SEND_JOB} or {CANCEL_JOB}");
            reader
                .errors
                .push(JobError::new("/schema", "unknown_schema", reason));
            None
        }
        None if body.is_object() => {
            reader.errors.push(JobError::new(
                "/schema",
                "missing_field",
                format!("is missing: {SEND_JOB} or {CANCEL_JOB}"),
            ));
            None
        }
        None => {
            reader
                .errors
                .push(JobError::new("", "wrong_type", "must be a JSON object"));
            None
        }
    };
    match read {
        Some(read) if reader.errors.is_empty() => Ok(read),
        _ => {
            reader.errors.truncate(ERRORS_MAX);
            Err(reader.errors)
        }
    }
}

const SEND_FIELDS: &[&str] = &[
    "schema",
    "job_id",
    "producer",
    "channel",
    "business_number",
    "template",
    "params",
    "campaign",
    "send_at",
    "expires_at",
    "notify",
    "recipients",
    "audience",
];

#[derive(Default)]
struct Reader {
    errors: Vec<JobError>,
}

impl Reader {
    fn send(&mut self, body: &Value) -> Option<Read> {
        let fields = self.object(body, "", SEND_FIELDS)?;
        let job_id = self.text(fields, "", "job_id", JOB_ID_CHARS);
        let producer = self.producer(fields);
        let business_number = self.text(fields, "", "business_number", TEXT_CHARS);
        let template = self.template(fields);
        let params = self.params(fields, "");
        let campaign = self.optional_text(fields, "", "campaign", TEXT_CHARS);
        let channel = self.word(fields, "channel");
        let (send_at, expires_at) = (
            self.time(fields, "send_at"),
            self.time(fields, "expires_at"),
        );
        let notify = self.notify(fields);
        let (recipients, audience) = (given(fields, "recipients"), given(fields, "audience"));
        if recipients.is_some() == audience.is_some() {
            let code = if recipients.is_some() {
                "contradiction"
            } else {
                "missing_field"
            };
            self.errors.push(JobError::new(
                "/recipients",
                code,
                "give exactly one of `recipients` and `audience`",
            ));
        }
        let audience = audience.and_then(|value| self.audience(value));
        let (rows, refused) = self.rows(recipients);
        Some(Read::Send {
            job: Box::new(SendJob {
                schema: SEND_JOB.to_owned(),
                job_id: job_id?,
                producer: producer?,
                channel,
                business_number: business_number?,
                template: template?,
                params,
                campaign,
                send_at,
                expires_at,
                notify,
                recipients: None,
                audience,
            }),
            rows,
            refused,
        })
    }

    fn cancel(&mut self, body: &Value) -> Option<Read> {
        let fields = self.object(body, "", &["schema", "job_id", "producer"])?;
        let job_id = self.text(fields, "", "job_id", JOB_ID_CHARS);
        let producer = self.producer(fields);
        Some(Read::Cancel(CancelJob {
            schema: CANCEL_JOB.to_owned(),
            producer: producer?,
            job_id: job_id?,
        }))
    }

    /// The fields of an object, reporting those it should not have.
    fn object<'a>(
        &mut self,
        value: &'a Value,
        at: &str,
        known: &[&str],
    ) -> Option<&'a Map<String, Value>> {
        let Some(fields) = value.as_object() else {
            self.wrong_type(at, "must be an object");
            return None;
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let error = JobError::new(
                pointer(at, name),
                "unknown_field",
                format!("there is no field `{name}` here"),
            );
            self.errors
                .push(error.meant(super::nearest(name, known.iter().copied())));
        }
        Some(fields)
    }

    fn wrong_type(&mut self, at: impl Into<String>, reason: &str) {
        self.errors.push(JobError::new(at, "wrong_type", reason));
    }

    fn text(
        &mut self,
        fields: &Map<String, Value>,
        at: &str,
        name: &str,
        max: usize,
    ) -> Option<String> {
        if given(fields, name).is_none() {
            self.errors.push(JobError::new(
                pointer(at, name),
                "missing_field",
                "is missing",
            ));
            return None;
        }
        self.optional_text(fields, at, name, max)
    }

    fn optional_text(
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
            self.errors
                .push(JobError::new(pointer(at, name), "ill_formed", reason));
            return None;
        }
        Some(text.to_owned())
    }

    fn producer(&mut self, fields: &Map<String, Value>) -> Option<String> {
        let name = self.text(fields, "", "producer", 64)?;
        if is_producer(&name) {
            return Some(name);
        }
        let reason = "must have 1 to 64 of a-z, 0-9 and -";
        self.errors
            .push(JobError::new("/producer", "ill_formed", reason));
        None
    }

    /// One of a closed set of words.
    fn word<T: std::str::FromStr<Err = crate::domain::UnknownName>>(
        &mut self,
        fields: &Map<String, Value>,
        name: &str,
    ) -> Option<T> {
        let text = self.optional_text(fields, "", name, TEXT_CHARS)?;
        self.parse_word(&text, pointer("", name))
    }

    fn parse_word<T: std::str::FromStr<Err = crate::domain::UnknownName>>(
        &mut self,
        text: &str,
        at: String,
    ) -> Option<T> {
        let unknown = match text.parse() {
            Ok(word) => return Some(word),
            Err(unknown) => unknown,
        };
        let near = super::nearest(text, unknown.known.iter().copied());
        self.errors
            .push(JobError::new(at, "unknown_value", unknown.to_string()).meant(near));
        None
    }

    fn template(&mut self, fields: &Map<String, Value>) -> Option<TemplateRef> {
        let Some(value) = given(fields, "template") else {
            self.errors
                .push(JobError::new("/template", "missing_field", "is missing"));
            return None;
        };
        let fields = self.object(value, "/template", &["name", "language"])?;
        let name = self.text(fields, "/template", "name", 512);
        let language = self.text(fields, "/template", "language", TEXT_CHARS);
        Some(TemplateRef {
            name: name?,
            language: language?,
        })
    }

    fn params(&mut self, fields: &Map<String, Value>, at: &str) -> Params {
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
                Some(text)
                    if text.contains('\0')
                        || text.len() > PARAM_CHARS
                        || !is_good_text(slot, TEXT_CHARS) =>
                {
                    self.errors.push(JobError::new(
                        pointer(&at, slot),
                        "ill_formed",
                        "is too long or contains NUL",
                    ));
                }
                Some(text) => {
                    params.insert(slot.clone(), text.to_owned());
                }
                None => self.wrong_type(pointer(&at, slot), "must be text"),
            }
        }
        params
    }

    fn time(&mut self, fields: &Map<String, Value>, name: &str) -> Option<DateTime<FixedOffset>> {
        let text = self.optional_text(fields, "", name, TEXT_CHARS)?;
        let time = DateTime::parse_from_rfc3339(&text);
        if time.is_err() {
            let reason = "must be a time with its offset as in RFC 3339, for example 2026-12-01T09:00:00+09:00";
            self.errors
                .push(JobError::new(pointer("", name), "ill_formed", reason));
        }
        time.ok()
    }

    fn notify(&mut self, fields: &Map<String, Value>) -> Vec<Notify> {
        let Some(value) = given(fields, "notify") else {
            return Vec::new();
        };
        let Some(words) = value.as_array() else {
            self.wrong_type("/notify", "must be a list");
            return Vec::new();
        };
        let mut notify = Vec::new();
        for (index, word) in words.iter().enumerate() {
            match word.as_str() {
                Some(text) => {
                    notify.extend(self.parse_word::<Notify>(text, format!("/notify/{index}")))
                }
                None => self.wrong_type(format!("/notify/{index}"), "must be text"),
            }
        }
        notify.sort_unstable();
        notify.dedup();
        notify
    }

    fn audience(&mut self, value: &Value) -> Option<Audience> {
        let fields = self.object(value, "/audience", &["import", "group"])?;
        match (given(fields, "import"), given(fields, "group")) {
            (Some(_), None) => {
                let id = self.text(fields, "/audience", "import", TEXT_CHARS)?;
                let parsed = id.parse::<Uuid>().ok();
                if parsed.is_none() {
                    self.errors.push(JobError::new(
                        "/audience/import",
                        "ill_formed",
                        "is not the id of an import",
                    ));
                }
                parsed.map(Audience::Import)
            }
            (None, Some(_)) => self
                .text(fields, "/audience", "group", TEXT_CHARS)
                .map(Audience::Group),
            _ => {
                self.errors.push(JobError::new(
                    "/audience",
                    "contradiction",
                    "give exactly one of `import` and `group`",
                ));
                None
            }
        }
    }

    /// Each recipient by itself: a bad one is refused alone.
    fn rows(&mut self, recipients: Option<&Value>) -> (Vec<(i32, Recipient)>, Vec<Rejection>) {
        let mut good = Vec::new();
        let mut refused = Vec::new();
        let Some(value) = recipients else {
            return (good, refused);
        };
        let Some(values) = value.as_array() else {
            self.wrong_type("/recipients", "must be a list");
            return (good, refused);
        };
        for (row, (index, value)) in (1..).zip(values.iter().enumerate()) {
            let mut reader = Self::default();
            match reader.recipient(value, &format!("/recipients/{index}")) {
                Some(recipient) if reader.errors.is_empty() => good.push((row, recipient)),
                _ => refused.extend(reader.errors.into_iter().map(|error| error.of_row(row))),
            }
        }
        (good, refused)
    }

    fn recipient(&mut self, value: &Value, at: &str) -> Option<Recipient> {
        let fields = self.object(value, at, &["to", "params", "ref", "time_zone"])?;
        let to = self.text(fields, at, "to", TEXT_CHARS);
        let params = self.params(fields, at);
        let reference = self.optional_text(fields, at, "ref", TEXT_CHARS);
        let time_zone = self.optional_text(fields, at, "time_zone", TEXT_CHARS);
        Some(Recipient {
            to: to?,
            params,
            reference,
            time_zone,
        })
    }
}

/// A field that is there and not null.
fn given<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// Postgres keeps no NUL in text.
fn is_good_text(text: &str, max: usize) -> bool {
    !text.is_empty() && !text.contains('\0') && (text.len() <= max || text.chars().count() <= max)
}

/// `at` and a name as a JSON pointer (RFC 6901).
pub(super) fn pointer(at: &str, name: &str) -> String {
    if name.contains(['~', '/']) {
        format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
    } else {
        format!("{at}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(body: &Value) -> Vec<(String, String)> {
        job(body)
            .unwrap_err()
            .into_iter()
            .map(|e| (e.pointer, e.code.into_owned()))
            .collect()
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let told = errors(
            &json!({"schema": SEND_JOB, "job_id": 7, "producer": "Shop", "business_nummer": "+81",
            "template": {"name": "x"}, "send_at": "2026-12-01T09:00:00", "recipients": [], "audience": {}}),
        );
        let told: Vec<_> = told.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
        let expected = [
            ("/business_nummer", "unknown_field"),
            ("/job_id", "wrong_type"),
            ("/producer", "ill_formed"),
            ("/business_number", "missing_field"),
            ("/template/language", "missing_field"),
            ("/send_at", "ill_formed"),
            ("/recipients", "contradiction"),
            ("/audience", "contradiction"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_not_json_is_told_with_its_place() {
        let error = json(b"{\"schema\": \n oops}").unwrap_err();
        assert_eq!(error.code, "malformed_json");
        assert!(error.reason.contains("line 2 column"), "{}", error.reason);
    }

    #[test]
    fn a_bad_recipient_is_refused_alone() {
        let body = json!({"schema": SEND_JOB, "job_id": "1", "producer": "shop", "business_number": "+81",
            "template": {"name": "x", "language": "ja"}, "recipients": [{"to": "+1"}, {"too": "+2"}, {"to": "a\u{0}b"}]});
        let Read::Send { rows, refused, .. } = job(&body).unwrap() else {
            panic!("not a send job")
        };
        assert_eq!(rows.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1]);
        let refused: Vec<_> = refused
            .iter()
            .map(|r| (r.row, r.pointer.as_str(), r.did_you_mean.len()))
            .collect();
        assert_eq!(
            refused,
            [
                (2, "/recipients/1/too", 1),
                (2, "/recipients/1/to", 0),
                (3, "/recipients/2/to", 0)
            ]
        );
    }
}
