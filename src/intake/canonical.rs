//! What makes two bodies the same job: the SHA-256 of their canonical form.
//!
//! Compared after parsing: order of fields, spaces, escapes, absent or null or empty fields, and the offset a time is
//! written with make no difference. Everything else does.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The digest of a job.
pub fn digest(body: &Value) -> [u8; 32] {
    let mut hash = Sha256::new();
    if let Value::Object(fields) = body {
        let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !is_empty(value)).collect();
        fields.sort_unstable_by_key(|(name, _)| *name);
        for (name, value) in fields {
            text(&mut hash, name);
            match (name.as_str(), value) {
                ("send_at" | "expires_at", Value::String(time)) => instant(&mut hash, time),
                ("notify", Value::Array(words)) => set(&mut hash, words),
                _ => add(&mut hash, value),
            }
        }
    } else {
        add(&mut hash, body);
    }
    hash.finalize().into()
}

/// The digest of bytes that are not a readable job.
pub fn raw_digest(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Lengths go before contents, so that no two different values give the same bytes.
fn add(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Bool(true) => hash.update(b"t"),
        Value::Bool(false) => hash.update(b"f"),
        Value::Number(number) => {
            hash.update(b"#");
            text(hash, &number.to_string());
        }
        Value::String(string) => text(hash, string),
        Value::Array(items) => {
            hash.update(b"[");
            hash.update(items.len().to_be_bytes());
            for item in items {
                add(hash, item);
            }
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !is_empty(value)).collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            hash.update(b"{");
            hash.update(fields.len().to_be_bytes());
            for (name, value) in fields {
                text(hash, name);
                add(hash, value);
            }
        }
    }
}

fn text(hash: &mut Sha256, text: &str) {
    hash.update(b"\"");
    hash.update(text.len().to_be_bytes());
    hash.update(text.as_bytes());
}

fn instant(hash: &mut Sha256, written: &str) {
    match DateTime::parse_from_rfc3339(written) {
        Ok(time) => text(hash, &time.with_timezone(&Utc).to_rfc3339_opts(SecondsFormat::Nanos, true)),
        Err(_) => text(hash, written),
    }
}

fn set(hash: &mut Sha256, words: &[Value]) {
    let mut words: Vec<_> = words.iter().map(ToString::to_string).collect();
    words.sort_unstable();
    words.dedup();
    hash.update(words.len().to_be_bytes());
    for word in &words {
        text(hash, word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_same_job_written_otherwise_is_the_same() {
        let one = json!({"job_id": "1", "send_at": "2026-12-01T09:00:00+09:00", "notify": ["read", "delivered"],
            "recipients": [{"to": "+1", "params": {}}]});
        let same = json!({"recipients": [{"to": "+1"}], "notify": ["delivered", "read"], "campaign": null,
            "send_at": "2026-12-01T00:00:00.0Z", "job_id": "1", "params": {}});
        assert_eq!(digest(&one), digest(&same));
        for other in [
            json!({"job_id": "1", "send_at": "2026-12-01T09:00:01+09:00", "notify": ["read", "delivered"], "recipients": [{"to": "+1"}]}),
            json!({"job_id": "1", "send_at": "2026-12-01T09:00:00+09:00", "notify": ["read"], "recipients": [{"to": "+1"}]}),
            json!({"job_id": "1", "send_at": "2026-12-01T09:00:00+09:00", "notify": ["read", "delivered"], "recipients": [{"to": "+12"}]}),
        ] {
            assert_ne!(digest(&one), digest(&other), "{other}");
        }
    }
}
