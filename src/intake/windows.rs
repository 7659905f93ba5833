//! Reading the hours of the recipients that a job names.

use chrono::NaiveDate;
use serde_json::{Map, Value};

use crate::{
    domain::schedule::{EXCEPT_DATES, Window},
    intake::{
        fields::{Reader, TEXT_CHARS, pointer},
        job::{JobError, JobWindows},
    },
};

impl Reader {
    pub(super) fn windows(&mut self, value: &Value) -> Option<JobWindows> {
        let at = "/windows";
        let fields = self.object(value, at, &["spans", "except_dates", "time_zone"])?;
        let mut spans = Vec::new();
        for (value, at) in self.list(fields, at, "spans") {
            spans.extend(self.window(value, &at));
        }
        let except_dates = self.dates(fields, at, "except_dates");
        let time_zone = self.text(fields, at, "time_zone", TEXT_CHARS)?;
        Some(JobWindows { spans, except_dates, time_zone })
    }

    fn window(&mut self, value: &Value, at: &str) -> Option<Window> {
        let fields = self.object(value, at, &["days", "from", "until"])?;
        let days = self.texts(fields, at, "days").into_iter().map(|(day, _)| day).collect();
        let (from, until) = (self.text(fields, at, "from", TEXT_CHARS), self.text(fields, at, "until", TEXT_CHARS));
        Some(Window { days, from: from?, until: until? })
    }

    fn dates(&mut self, fields: &Map<String, Value>, at: &str, name: &str) -> Vec<NaiveDate> {
        let texts = self.texts(fields, at, name);
        if texts.len() > EXCEPT_DATES {
            let reason = format!("has more than {EXCEPT_DATES} days");
            self.errors.push(JobError::new(pointer(at, name), "too_many", reason));
        }
        let mut dates = Vec::new();
        for (text, at) in texts {
            match text.parse() {
                Ok(date) => dates.push(date),
                Err(_) => {
                    self.errors.push(JobError::new(at, "ill_formed", format!("`{text}` is no day: YYYY-MM-DD")));
                }
            }
        }
        dates
    }

    fn texts(&mut self, fields: &Map<String, Value>, at: &str, name: &str) -> Vec<(String, String)> {
        let mut texts = Vec::new();
        for (value, at) in self.list(fields, at, name) {
            match value.as_str() {
                Some(text) => texts.push((text.to_owned(), at)),
                None => self.wrong_type(at, "must be text"),
            }
        }
        texts
    }
}
