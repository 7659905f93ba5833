//! What would become of a job: how many it would reach and why not the others, when it would start and be through.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::{
        forecast::{Load, SHARE, Times, forecast},
        ids::NumberId,
        lane::Lane,
    },
    intake::job::{AcceptedJob, MetHold},
    store::{
        Store, StoreError,
        checklist::load::{self, LeftOut},
        leases,
        registry::{Number, RegisteredTemplate},
    },
};

/// What would become of a job that is published now.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Forecast {
    /// Recipients that it would be sent to.
    pub recipients: i64,
    /// Recipients that it would not, by reason.
    pub left_out: Vec<LeftOut>,
    /// The provider's word for the state of the number.
    pub number_status: String,
    /// The provider's word for the state of the template.
    pub template_status: String,
    /// What it would wait for before anything is sent; start and finish are as if it were gone.
    pub holds: Vec<MetHold>,
    /// Messages a second that the number sends at now; absent when it has no limit.
    pub rate_per_s: Option<f64>,
    /// Messages that the number has to send already.
    pub beside: i64,
    /// When its first message would go.
    pub start: DateTime<Utc>,
    /// When its last would; absent when the number has no limit.
    pub finish: Option<DateTime<Utc>>,
    /// Messages that would expire before their turn.
    pub too_late: i64,
}

/// A job that intake would accept.
#[derive(Debug)]
pub struct Asked<'a> {
    /// What intake would answer.
    pub answer: AcceptedJob,
    /// Its number.
    pub number: &'a Number,
    /// Its template.
    pub template: &'a RegisteredTemplate,
    /// The import it names.
    pub import: Option<Uuid>,
    /// Not before.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Looks at what the number has to send, and puts the job beside it.
pub async fn forecast_job(store: &Store, asked: Asked<'_>) -> Result<Forecast, StoreError> {
    let Asked { answer, number, template, import, send_at, expires_at } = asked;
    let mut connection = store.acquire().await?;
    let mut left_out = by_code(&answer);
    if let Some(import) = import {
        left_out.extend(load::refused_rows(&mut connection, import).await?);
    }
    let others = load::of_number(&mut connection, number.id).await?;
    drop(connection);
    let now = Utc::now();
    let due_in = send_at.and_then(|at| (at - now).to_std().ok()).unwrap_or_default();
    let lane = Lane::from(template.template.category);
    let mine = Load { lane, messages: u32::try_from(answer.accepted).unwrap_or(u32::MAX), due_in };
    let rate = rate(store, number.id, number.limit_per_s).await?;
    let times = rate.map(|rate| forecast(rate, &others, mine));
    let end = expires_at.map(|end| (end - now).to_std().unwrap_or_default());
    let too_late = match (rate, end) {
        (Some(rate), Some(end)) => i64::from(mine.messages - in_time(rate, &others, mine, end)),
        _ => 0,
    };
    let at = |wait: Duration| chrono::TimeDelta::from_std(wait).map_or(DateTime::<Utc>::MAX_UTC, |wait| now + wait);
    let Times { start, .. } = times.unwrap_or(Times { start: due_in, finish: due_in });
    Ok(Forecast {
        recipients: answer.accepted,
        left_out,
        number_status: number.status.clone(),
        template_status: template.status.clone(),
        holds: answer.holds,
        rate_per_s: rate,
        beside: others.iter().map(|load| i64::from(load.messages)).sum(),
        start: at(start),
        finish: times.map(|times| at(times.finish)),
        too_late,
    })
}

/// The refused recipients of the job itself. The answer lists the first of them; of the rest only the number is known.
fn by_code(answer: &AcceptedJob) -> Vec<LeftOut> {
    let mut rows: BTreeMap<i32, &str> = BTreeMap::new();
    for rejection in &answer.rejections {
        rows.entry(rejection.row).or_insert(&rejection.code);
    }
    let mut codes: BTreeMap<&str, i64> = BTreeMap::new();
    for code in rows.values() {
        *codes.entry(code).or_default() += 1;
    }
    let unlisted = answer.rejected - codes.values().sum::<i64>();
    if unlisted > 0 {
        codes.insert("not_listed", unlisted);
    }
    codes.into_iter().map(|(code, recipients)| LeftOut { code: code.to_owned(), recipients }).collect()
}

/// What the number sends a second at now.
async fn rate(store: &Store, number: NumberId, limit: Option<u32>) -> Result<Option<f64>, StoreError> {
    let Some(limit) = limit else { return Ok(None) };
    let throttled = leases::rates(store).await?.get(&number).copied();
    Ok(Some(f64::from(throttled.unwrap_or(limit)) * SHARE))
}

/// How many of the first messages would be sent within `end`.
fn in_time(rate: f64, others: &[Load], mine: Load, end: Duration) -> u32 {
    let is_in_time = |messages| forecast(rate, others, Load { messages, ..mine }).finish <= end;
    let (mut low, mut high) = (0, mine.messages);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if is_in_time(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_through_at_the_end_of_its_life_is_too_late() {
        let mine = Load { lane: Lane::Marketing, messages: 1000, due_in: Duration::ZERO };
        assert_eq!(in_time(10.0, &[], mine, Duration::from_secs(30)), 300);
        assert_eq!(in_time(10.0, &[], mine, Duration::from_mins(5)), 1000);
        assert_eq!(in_time(10.0, &[], mine, Duration::ZERO), 0);
    }
}
