//! From a document to the rules it means. What it names (number, template, recipients) is checked by intake.

use std::collections::BTreeSet;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use chrono_tz::Tz;

use super::document::{CAMPAIGN, CampaignDocument, Schedule, WindowZone};
use crate::domain::{
    campaign::{Rules, Timing, period},
    schedule::{Calendar, Cron, EXCEPT_DATES, Windows},
    zones,
};

/// Longest key, so that the job ids made of it are short enough.
const KEY_CHARS: usize = 64;
/// How long messages may live at most, as in a job.
const LIFE: TimeDelta = TimeDelta::days(180);

/// Something wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// Stable, for machines.
    pub code: &'static str,
    /// For people.
    pub reason: String,
    /// What was probably meant.
    pub did_you_mean: Vec<String>,
}

impl Flaw {
    pub(super) fn new(pointer: impl Into<String>, code: &'static str, reason: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code, reason: reason.into(), did_you_mean: Vec::new() }
    }
}

/// A document with what it means.
#[derive(Debug, Clone)]
pub struct Definition {
    /// As it was given.
    pub document: CampaignDocument,
    /// When it fires and what then happens.
    pub rules: Rules,
}

impl Definition {
    /// Of a document as the database keeps it.
    ///
    /// # Errors
    /// When another version wrote it and this one cannot read it.
    pub fn stored(document: serde_json::Value) -> Result<Self, Vec<Flaw>> {
        let document = serde_json::from_value(document);
        read(document.map_err(|error| vec![Flaw::new("", "invalid", error.to_string())])?)
    }
}

/// Reads what a document means.
///
/// # Errors
/// All that is wrong with it.
pub fn read(document: CampaignDocument) -> Result<Definition, Vec<Flaw>> {
    let mut flaws = Vec::new();
    form(&document, &mut flaws);
    let zone = zone(&document.time_zone, &mut flaws);
    let windows = windows(&document, &mut flaws);
    let length = |field: &str, text: &str, flaws: &mut Vec<Flaw>| {
        let length = period(text).filter(|length| *length <= LIFE);
        if length.is_none() {
            let reason = format!("`{text}` is no length of time up to 180 days: for example 90s, 15m, 24h, 2d");
            flaws.push(Flaw::new(format!("/{field}"), "ill_formed", reason));
        }
        length
    };
    let late_within = length("late_within", &document.late_within, &mut flaws);
    let expires_after = length("expires_after", &document.expires_after, &mut flaws);
    if expires_after.is_some_and(|life| life < TimeDelta::minutes(1)) {
        flaws.push(Flaw::new("/expires_after", "too_short", "messages must live for a minute at least"));
    }
    let except_dates: BTreeSet<_> = document.except_dates.iter().copied().collect();
    let timing = zone.and_then(|zone| timing(&document, zone, &except_dates, &mut flaws));
    match (zone, timing, late_within, expires_after) {
        (Some(zone), Some(timing), Some(late_within), Some(expires_after)) if flaws.is_empty() => {
            let overlap = document.overlap;
            let rules = Rules { timing, zone, windows, except_dates, late_within, overlap, expires_after };
            Ok(Definition { document, rules })
        }
        _ => Err(flaws),
    }
}

fn form(document: &CampaignDocument, flaws: &mut Vec<Flaw>) {
    if document.schema != CAMPAIGN {
        let reason = format!("`{}` is not a kind of campaign: {CAMPAIGN}", document.schema);
        flaws.push(Flaw::new("/schema", "unknown_schema", reason));
    }
    let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if document.key.is_empty() || document.key.len() > KEY_CHARS || !document.key.chars().all(is_key) {
        flaws.push(Flaw::new("/key", "ill_formed", "must have 1 to 64 of a-z, 0-9, `.`, `_` and `-`"));
    }
    if document.except_dates.len() > EXCEPT_DATES {
        flaws.push(Flaw::new("/except_dates", "too_many", format!("has more than {EXCEPT_DATES} days")));
    }
    if document.window_zone == WindowZone::Recipient && document.windows.is_empty() {
        flaws.push(Flaw::new("/window_zone", "contradiction", "there are no windows"));
    }
    if document.approval_over.is_some_and(|over| over < 0) {
        flaws.push(Flaw::new("/approval_over", "ill_formed", "must be 0 or more"));
    }
    if let Some(canary) = &document.canary {
        let mut faults = Vec::new();
        canary.read(&mut faults);
        flaws.extend(faults.into_iter().map(|f| Flaw::new(format!("/canary{}", f.at), "ill_formed", f.reason)));
    }
    let is_cron = matches!(document.schedule, Schedule::Cron(_));
    for (field, given) in [("/start", document.start), ("/end", document.end)] {
        if given.is_some() && !is_cron {
            flaws.push(Flaw::new(field, "contradiction", "only a cron schedule begins and ends"));
        }
    }
    if document.end.zip(document.start).is_some_and(|(end, start)| end <= start) {
        flaws.push(Flaw::new("/end", "contradiction", "must be later than start"));
    }
}

fn zone(name: &str, flaws: &mut Vec<Flaw>) -> Option<Tz> {
    zones::named(name)
        .map_err(|unknown| {
            let mut flaw = Flaw::new("/time_zone", "unknown_time_zone", unknown.to_string());
            flaw.did_you_mean = unknown.near();
            flaws.push(flaw);
        })
        .ok()
}

/// When firings go out. Of windows in the recipients' zones each message has its own, which intake finds.
fn windows(document: &CampaignDocument, flaws: &mut Vec<Flaw>) -> Windows {
    let mut faults = Vec::new();
    let windows = Windows::read(&document.windows, &mut faults);
    flaws.extend(faults.into_iter().map(|fault| Flaw::new(format!("/windows{}", fault.at), fault.code, fault.reason)));
    match document.window_zone {
        WindowZone::Campaign => windows,
        WindowZone::Recipient => Windows::default(),
    }
}

fn timing(
    document: &CampaignDocument,
    zone: Tz,
    except_dates: &BTreeSet<chrono::NaiveDate>,
    flaws: &mut Vec<Flaw>,
) -> Option<Timing> {
    let utc = |at: DateTime<chrono::FixedOffset>| at.with_timezone(&Utc);
    match &document.schedule {
        Schedule::OnDemand => Some(Timing::OnDemand),
        // The database keeps less of a second than the document may say.
        Schedule::Once(at) => Some(Timing::Once(utc(*at).trunc_subsecs(0))),
        Schedule::Cron(text) => match Cron::parse(text) {
            Ok(cron) => {
                let (start, end) = (document.start.map(utc), document.end.map(utc));
                Some(Timing::Cron(Box::new(Calendar { cron, zone, start, end, except_dates: except_dates.clone() })))
            }
            Err(error) => {
                flaws.push(Flaw::new("/schedule/cron", "invalid_cron", error.to_string()));
                None
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document(change: impl FnOnce(&mut Value)) -> CampaignDocument {
        let mut value = json!({"schema": CAMPAIGN, "key": "spring", "business_number": "+81312345678",
            "template": {"name": "offer", "language": "ja"}, "audience": {"recipients": [{"to": "+819012345678"}]},
            "schedule": {"cron": "0 9 * * mon-fri"}, "time_zone": "Asia/Tokyo"});
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn told(change: impl FnOnce(&mut Value)) -> Vec<(String, &'static str)> {
        read(document(change)).unwrap_err().into_iter().map(|flaw| (flaw.pointer, flaw.code)).collect()
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let rules = read(document(|_| {})).unwrap().rules;
        assert_eq!((rules.late_within, rules.expires_after), (TimeDelta::minutes(15), TimeDelta::hours(24)));
        assert_eq!(rules.overlap, crate::domain::campaign::Overlap::Skip);
        let document = document(|d| d["schedule"] = json!("on_demand"));
        assert_eq!(document.schedule, Schedule::OnDemand);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let told = told(|d| {
            d["schema"] = json!("campaign/v2");
            d["key"] = json!("Spring sale");
            d["time_zone"] = json!("Asia/Tokio");
            d["late_within"] = json!("soon");
            d["canary"] = json!({"messages": 0, "wait": "2d"});
            d["windows"] =
                json!([{"days": ["monday"], "from": "9:00", "until": "25:00"}, {"from": "18:00", "until": "09:00"}]);
        });
        let told: Vec<_> = told.iter().map(|(pointer, code)| (pointer.as_str(), *code)).collect();
        let expected = [
            ("/schema", "unknown_schema"),
            ("/key", "ill_formed"),
            ("/canary/messages", "ill_formed"),
            ("/canary/wait", "ill_formed"),
            ("/time_zone", "unknown_time_zone"),
            ("/windows/0/days/0", "unknown_word"),
            ("/windows/0/from", "ill_formed"),
            ("/windows/0/until", "ill_formed"),
            ("/windows/1/until", "contradiction"),
            ("/late_within", "ill_formed"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn windows_of_the_recipients_go_with_the_job_and_do_not_delay_the_firing() {
        let windows = json!([{"days": ["mon"], "from": "09:00", "until": "18:00"}]);
        let definition = read(document(|d| {
            d["windows"] = windows.clone();
            d["window_zone"] = json!("recipient");
            d["except_dates"] = json!(["2026-12-25"]);
        }))
        .unwrap();
        assert_eq!(definition.rules.windows, Windows::default());
        let job = definition.document.job("shop", "1", None, Utc::now());
        let expected = json!({"spans": windows, "except_dates": ["2026-12-25"], "time_zone": "Asia/Tokyo"});
        assert_eq!(job["windows"], expected);
        let none = told(|d| d["window_zone"] = json!("recipient"));
        assert_eq!(none, [("/window_zone".to_owned(), "contradiction")]);
    }

    #[test]
    fn a_canary_of_its_own_goes_with_the_job() {
        for canary in [json!(false), json!({"messages": 3, "wait": "10m"})] {
            let definition = read(document(|d| d["canary"] = canary.clone())).unwrap();
            assert_eq!(definition.document.job("shop", "1", None, Utc::now())["canary"], canary);
        }
    }

    #[test]
    fn a_cron_expression_says_what_is_wrong_with_it() {
        assert_eq!(
            told(|d| d["schedule"] = json!({"cron": "0 0 9 * * *"})),
            [("/schedule/cron".to_owned(), "invalid_cron")]
        );
        let once = told(|d| {
            d["schedule"] = json!({"once": "2026-12-01T09:00:00+09:00"});
            d["start"] = json!("2026-12-01T09:00:00+09:00");
        });
        assert_eq!(once, [("/start".to_owned(), "contradiction")]);
    }
}
