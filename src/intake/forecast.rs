//! What would become of a job: how many it would reach and why not the others, when it would start and be through.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::{
        campaign::SkipReason,
        forecast::{Load, SHARE, Times, forecast},
        ids::NumberId,
        lane::Lane,
        schedule::Opening,
        terms::{Cost, Tier},
    },
    intake::{
        job::{AcceptedJob, MetHold},
        reach::Reach,
    },
    store::{
        Connection, Store, StoreError,
        checklist::load::{self, LeftOut},
        leases,
        registry::{Number, RegisteredTemplate},
    },
};

/// What would become of a job that is published now.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Forecast {
    /// Recipients that it would reach.
    pub recipients: i64,
    /// Recipients that it would not, by reason. `suppressed`: who take no such messages. `window`: in whose hours no window opens while it lives. `country`: in
    /// countries that the list of the account leaves out, and `tier`: beyond what its portfolio may reach in 24 hours, as
    /// if all went now; these are called all the same, and it is the provider who refuses them.
    pub left_out: Vec<LeftOut>,
    /// How much of its tier the portfolio has used, where the registry names one.
    pub tier: Option<TierUse>,
    /// What it would cost, where the account has rates.
    pub cost: Option<Cost>,
    /// The provider's word for the state of the number.
    pub number_status: String,
    /// The provider's word for the state of the template.
    pub template_status: String,
    /// What it would wait for before anything is sent; start and finish are as if it were gone.
    pub holds: Vec<MetHold>,
    /// Messages that would go out first, whose outcomes decide about the rest; start and finish are as if they fared well.
    pub canary: Option<i32>,
    /// Messages a second that the number sends at now; absent when it has no limit.
    pub rate_per_s: Option<f64>,
    /// Messages that the number has to send already.
    pub beside: i64,
    /// When its first message would go; in the hours of the recipients, when the first window opens.
    pub start: DateTime<Utc>,
    /// When its last would; absent when the number has no limit.
    pub finish: Option<DateTime<Utc>>,
    /// Messages that would expire before their turn, or before their window closes.
    pub too_late: i64,
}

/// A portfolio's messaging limit.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TierUse {
    /// How many people it may begin to write to within 24 hours.
    pub limit: Tier,
    /// How many it has written to in the last 24 hours, counted up to the limit; answers within a conversation are among
    /// them, which the provider does not count.
    pub used: usize,
}

/// A job that intake would accept.
#[derive(Debug)]
pub struct Asked<'a> {
    /// What intake would answer.
    pub answer: AcceptedJob,
    /// Messages that go out first.
    pub canary: Option<i32>,
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
    /// What its recipients are like, when they have hours or the account has terms.
    pub reach: Option<Reach>,
}

/// Messages of the job that become due at the same time.
#[derive(Debug, Clone, Copy)]
struct Part {
    load: Load,
    /// Until they expire; absent is far ahead.
    end: Option<Duration>,
}

/// Looks at what the number has to send, and puts the job beside it.
pub async fn forecast_job(store: &Store, asked: Asked<'_>) -> Result<Forecast, StoreError> {
    let Asked { number, template, .. } = asked;
    let mut connection = store.acquire().await?;
    let left_out = left_out(&mut connection, &asked).await?;
    let others = load::of_number(&mut connection, number.id).await?;
    drop(connection);
    let now = Utc::now();
    let parts = parts(&asked, now);
    let rate = rate(store, number.id, number.limit_per_s).await?;
    let (times, too_late) = rate.map(|rate| put_beside(rate, &others, &parts)).unzip();
    let at = |wait: Duration| chrono::TimeDelta::from_std(wait).map_or(DateTime::<Utc>::MAX_UTC, |wait| now + wait);
    let first = parts.iter().map(|part| part.load.due_in).min().unwrap_or_else(|| until(now, asked.send_at));
    let start = times.map_or(first, |times| times.start);
    let Asked { answer, canary, reach, .. } = asked;
    let reach = reach.unwrap_or_default();
    let terms = &number.account.terms;
    let limit = terms.tier.filter(|tier| tier.people().is_some());
    Ok(Forecast {
        recipients: answer.accepted - reach.suppressed - reach.without - reach.abroad - reach.beyond,
        left_out,
        tier: limit.map(|limit| TierUse { limit, used: reach.written }),
        cost: terms.rates.as_ref().map(|rates| rates.cost(template.template.category, &reach.countries)),
        number_status: number.status.clone(),
        template_status: template.status.clone(),
        holds: answer.holds,
        canary,
        rate_per_s: rate,
        beside: others.iter().map(|load| i64::from(load.messages)).sum(),
        start: at(start),
        finish: times.map(|times| at(times.finish)),
        too_late: too_late.unwrap_or_default(),
    })
}

/// How long until then; what is past or absent is now.
fn until(now: DateTime<Utc>, at: Option<DateTime<Utc>>) -> Duration {
    at.and_then(|at| (at - now).to_std().ok()).unwrap_or_default()
}

/// The messages by when they become due.
fn parts(asked: &Asked<'_>, now: DateTime<Utc>) -> Vec<Part> {
    let end = asked.expires_at.map(|at| until(now, Some(at)));
    let suppressed = asked.reach.as_ref().map_or(0, |reach| reach.suppressed);
    let whole = Load {
        lane: Lane::from(asked.template.template.category),
        messages: u32::try_from(asked.answer.accepted - suppressed).unwrap_or(u32::MAX),
        due_in: until(now, asked.send_at),
    };
    let part = |(window, messages): (&Opening, &u32)| Part {
        load: Load { messages: *messages, due_in: until(now, Some(window.at)), ..whole },
        end: window.until.map(|at| until(now, Some(at))).or(end),
    };
    match asked.reach.as_ref().and_then(|reach| reach.windows.as_ref()) {
        None => vec![Part { load: whole, end }],
        Some(windows) => windows.iter().map(part).collect(),
    }
}

/// Whom it would not reach.
async fn left_out(connection: &mut Connection, asked: &Asked<'_>) -> Result<Vec<LeftOut>, StoreError> {
    let mut left_out = by_code(&asked.answer);
    if let Some(import) = asked.import {
        left_out.extend(load::refused_rows(connection, import).await?);
    }
    if let Some(reach) = &asked.reach {
        let counted = [
            ("suppressed", reach.suppressed),
            (SkipReason::Window.as_str(), reach.without),
            ("country", reach.abroad),
            ("tier", reach.beyond),
        ];
        let some = counted.into_iter().filter(|(_, recipients)| *recipients > 0);
        left_out.extend(some.map(|(code, recipients)| LeftOut { code: code.to_owned(), recipients }));
    }
    Ok(left_out)
}

/// When the first part starts and the last is through, and how many messages are too late. Each is put beside the others as
/// if it were a batch of its own: what they share of a turn, all have together.
fn put_beside(rate: f64, others: &[Load], parts: &[Part]) -> (Times, i64) {
    let (mut start, mut finish, mut too_late) = (Duration::MAX, Duration::ZERO, 0);
    for (place, Part { load, end }) in parts.iter().enumerate() {
        let rest = parts.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, part)| part.load);
        let others: Vec<Load> = others.iter().copied().chain(rest).collect();
        let times = forecast(rate, &others, *load);
        (start, finish) = (start.min(times.start), finish.max(times.finish));
        too_late += end.map_or(0, |end| i64::from(load.messages - in_time(rate, &others, *load, end)));
    }
    (Times { start: start.min(finish), finish }, too_late)
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
    fn each_window_has_its_own_time_and_the_number_is_shared() {
        let hour = Duration::from_hours(1);
        let part = |messages, due_in: Duration, end: Duration| Part {
            load: Load { lane: Lane::Marketing, messages, due_in },
            end: Some(end),
        };
        let parts = [part(100, hour, 2 * hour), part(36_000, 3 * hour, 4 * hour)];
        let (times, too_late) = put_beside(10.0, &[], &parts);
        assert_eq!((times.start, times.finish, too_late), (hour, 4 * hour, 0));
        let (_, too_late) = put_beside(5.0, &[], &parts);
        assert_eq!(too_late, 18_000);
        let alike = [part(600, hour, 2 * hour), part(600, hour, 2 * hour)];
        let (times, _) = put_beside(10.0, &[], &alike);
        assert_eq!(times.finish, hour + Duration::from_mins(2));
    }

    #[test]
    fn what_is_not_through_at_the_end_of_its_life_is_too_late() {
        let mine = Load { lane: Lane::Marketing, messages: 1000, due_in: Duration::ZERO };
        assert_eq!(in_time(10.0, &[], mine, Duration::from_secs(30)), 300);
        assert_eq!(in_time(10.0, &[], mine, Duration::from_mins(5)), 1000);
        assert_eq!(in_time(10.0, &[], mine, Duration::ZERO), 0);
    }
}
