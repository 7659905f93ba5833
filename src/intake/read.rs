//! Reading a body into a job: every problem at once, each with its JSON pointer.

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    intake::fields::{Reader, TEXT_CHARS, given},
    intake::head::is_producer,
    intake::job::{
        Audience, CANCEL_JOB, CancelJob, JobError, Notify, Recipient, Rejection, SEND_JOB, SendJob, TemplateRef,
    },
};

/// Longest `job_id`, in characters.
pub(super) const JOB_ID_CHARS: usize = 128;
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
            reader.errors.push(JobError::new("/schema", "unknown_schema", reason));
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
            reader.errors.push(JobError::new("", "wrong_type", "must be a JSON object"));
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
    "windows",
    "canary",
    "notify",
    "recipients",
    "audience",
];

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
        let (send_at, expires_at) = (self.time(fields, "send_at"), self.time(fields, "expires_at"));
        let windows = given(fields, "windows").and_then(|value| self.windows(value));
        let canary = given(fields, "canary").and_then(|value| self.canary(value));
        let notify = self.notify(fields);
        let (recipients, audience) = (given(fields, "recipients"), given(fields, "audience"));
        if recipients.is_some() == audience.is_some() {
            let code = if recipients.is_some() { "contradiction" } else { "missing_field" };
            self.errors.push(JobError::new("/recipients", code, "give exactly one of `recipients` and `audience`"));
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
                windows,
                canary,
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
        Some(Read::Cancel(CancelJob { schema: CANCEL_JOB.to_owned(), producer: producer?, job_id: job_id? }))
    }

    fn producer(&mut self, fields: &Map<String, Value>) -> Option<String> {
        let name = self.text(fields, "", "producer", 64)?;
        if is_producer(&name) {
            return Some(name);
        }
        let reason = "must have 1 to 64 of a-z, 0-9 and -";
        self.errors.push(JobError::new("/producer", "ill_formed", reason));
        None
    }

    fn template(&mut self, fields: &Map<String, Value>) -> Option<TemplateRef> {
        let Some(value) = given(fields, "template") else {
            self.errors.push(JobError::new("/template", "missing_field", "is missing"));
            return None;
        };
        let fields = self.object(value, "/template", &["name", "language"])?;
        let name = self.text(fields, "/template", "name", 512);
        let language = self.text(fields, "/template", "language", TEXT_CHARS);
        Some(TemplateRef { name: name?, language: language? })
    }

    fn notify(&mut self, fields: &Map<String, Value>) -> Vec<Notify> {
        let mut notify = Vec::new();
        for (word, at) in self.list(fields, "", "notify") {
            match word.as_str() {
                Some(text) => notify.extend(self.parse_word::<Notify>(text, at)),
                None => self.wrong_type(at, "must be text"),
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
                    self.errors.push(JobError::new("/audience/import", "ill_formed", "is not the id of an import"));
                }
                parsed.map(Audience::Import)
            }
            (None, Some(_)) => self.text(fields, "/audience", "group", TEXT_CHARS).map(Audience::Group),
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

    pub(super) fn recipient(&mut self, value: &Value, at: &str) -> Option<Recipient> {
        let fields = self.object(value, at, &["to", "params", "ref", "time_zone"])?;
        let to = self.text(fields, at, "to", TEXT_CHARS);
        let params = self.params(fields, at);
        let reference = self.optional_text(fields, at, "ref", TEXT_CHARS);
        let time_zone = self.optional_text(fields, at, "time_zone", TEXT_CHARS);
        Some(Recipient { to: to?, params, reference, time_zone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(body: &Value) -> Vec<(String, String)> {
        job(body).unwrap_err().into_iter().map(|e| (e.pointer, e.code.into_owned())).collect()
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let told = errors(&json!({"schema": SEND_JOB, "job_id": 7, "producer": "Shop", "business_nummer": "+81",
            "template": {"name": "x"}, "send_at": "2026-12-01T09:00:00", "recipients": [], "audience": {}}));
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
    fn no_nul_is_repeated() {
        let told = errors(&json!({"schema": SEND_JOB, "a\u{0}b": 1}));
        assert_eq!(told[0], ("/a\u{fffd}b".to_owned(), "unknown_field".to_owned()));
    }

    #[test]
    fn a_bad_recipient_is_refused_alone() {
        let body = json!({"schema": SEND_JOB, "job_id": "1", "producer": "shop", "business_number": "+81",
            "template": {"name": "x", "language": "ja"}, "recipients": [{"to": "+1"}, {"too": "+2"}, {"to": "a\u{0}b"}]});
        let Read::Send { rows, refused, .. } = job(&body).unwrap() else { panic!("not a send job") };
        assert_eq!(rows.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1]);
        let refused: Vec<_> = refused.iter().map(|r| (r.row, r.pointer.as_str(), r.did_you_mean.len())).collect();
        assert_eq!(refused, [(2, "/recipients/1/too", 1), (2, "/recipients/1/to", 0), (3, "/recipients/2/to", 0)]);
    }
}
