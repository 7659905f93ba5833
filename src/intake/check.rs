//! Whether a job in good form can be sent: its references, times and recipients, against the registry as it is known.
//!
//! No I/O. An unknown reference is refused with the nearest names; the caller reads the registry again before it
//! believes that.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    domain::{
        Category, Channel,
        address::Address,
        campaign::JOB_PREFIX,
        canary::CanaryTerms,
        ids::{BatchId, TenantId},
        lane::Lane,
        schedule::Hours,
        template::{Params, SlotProblem},
        zones,
    },
    intake::{
        canary,
        fields::pointer,
        hours,
        job::{Audience, JobError, Recipient, Rejection, SendJob},
        reference,
    },
    settings,
    store::registry::{Number, RegisteredTemplate, Snapshot},
};
use std::sync::Arc;

/// How a job came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Road {
    /// Everything.
    Bulk,
    /// Authentication only, so that no campaign is in front; and firings that were so when they fired.
    Urgent,
}

/// A recipient that will be sent to.
#[derive(Debug, Clone)]
pub struct Good {
    /// The address.
    pub to: Address,
    /// Its own values; absent when it has none.
    pub params: Option<Value>,
    /// The producer's name for it.
    pub reference: Option<String>,
    /// IANA.
    pub time_zone: Option<String>,
}

/// A job that can be sent.
#[derive(Debug)]
pub struct Checked {
    /// The job; its recipients stand beside it.
    pub job: Box<SendJob>,
    /// Whose it is.
    pub tenant: TenantId,
    /// The batch it will be.
    pub batch: BatchId,
    /// From which number.
    pub number: Arc<Number>,
    /// With which template.
    pub template: Arc<RegisteredTemplate>,
    /// Not before; absent is at once.
    pub send_at: Option<DateTime<Utc>>,
    /// Not after; absent is `life` after the start.
    pub expires_at: Option<DateTime<Utc>>,
    /// The life of a message that names no end.
    pub life: TimeDelta,
    /// When each recipient may be written to; absent is always.
    pub hours: Option<Hours>,
    /// What it says about its first messages; absent is as in the settings.
    pub canary: Option<CanaryTerms>,
    /// Who gets it.
    pub recipients: Vec<Good>,
    /// Who does not.
    pub rejections: Vec<Rejection>,
    /// The import that holds the recipients, with how many there are once it was looked up. Of a group, its frozen copy.
    pub import: Option<(Uuid, i64)>,
    /// The audience group that is frozen into the import.
    pub group: Option<Group>,
    /// It came by the urgent road, is not of its kind, and is taken only if a firing published it.
    pub must_be_fired: bool,
}

/// An audience group that a job names.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Members that will not be sent to, once it was frozen; `rejections` has the first of them.
    pub rejected: i64,
}

/// What a check needs to know beside the job.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The registry.
    pub snapshot: &'a Snapshot,
    /// Limits and defaults.
    pub settings: &'a settings::Intake,
    /// The time.
    pub now: DateTime<Utc>,
    /// How the job came in.
    pub road: Road,
}

/// Codes of errors that a newer copy of the registry may take away.
pub const UNKNOWN_REFERENCE: &[&str] =
    &["unknown_producer", "unknown_number", "unknown_template", "unknown_language", "wrong_channel", "unknown_slot"];

/// Checks a job of a tenant.
pub fn check(
    context: &Context<'_>,
    tenant: TenantId,
    job: &SendJob,
    rows: &[(i32, Recipient)],
    refused: &[Rejection],
) -> Result<Checked, Vec<JobError>> {
    let mut errors = Vec::new();
    let (number, template) = reference::references(context, tenant, job, &mut errors);
    let (send_at, expires_at) = times(context, job, &mut errors);
    let (hours, canary) = (hours::check(job, &mut errors), canary::check(job, &mut errors));
    errors.extend(audience(context, rows.len() + refused.len()));
    let (Some(number), Some(template)) = (number, template) else {
        return Err(errors);
    };
    errors.extend(unusable(&template));
    let is_astray = context.road == Road::Urgent && !Lane::from(template.template.category).is_urgent();
    let must_be_fired = is_astray && job.job_id.starts_with(JOB_PREFIX);
    if is_astray && !must_be_fired {
        errors.push(not_urgent(&template));
    }
    for problem in template.template.check_names(&job.params) {
        errors.push(slot_error(problem, "/params"));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let channel = number.account.channel;
    let (recipients, rejections) = check_rows(channel, &template, &job.params, rows, refused);
    let (import, group) = match &job.audience {
        Some(Audience::Import(id)) => (Some((*id, 0)), None),
        Some(Audience::Group(name)) => (None, Some(Group { name: name.clone(), rejected: 0 })),
        None => (None, None),
    };
    if job.audience.is_none() && recipients.is_empty() {
        errors.push(JobError::new("/recipients", "no_good_recipient", "none of the recipients can be sent to"));
        errors.extend(rejections.into_iter().take(super::job::REJECTIONS_SHOWN).map(JobError::from));
        return Err(errors);
    }
    Ok(Checked {
        job: Box::new(job.clone()),
        tenant,
        batch: BatchId::due_at(send_at.unwrap_or(context.now).max(context.now)),
        life: life(context.settings, template.template.category),
        number,
        template,
        send_at,
        expires_at,
        hours,
        canary,
        recipients,
        rejections,
        import,
        group,
        must_be_fired,
    })
}

/// What can be said about the recipients without looking at them.
fn audience(context: &Context<'_>, count: usize) -> Option<JobError> {
    let max = context.settings.inline_recipients;
    let reason = || {
        format!("has {count} recipients, at most {max} fit into a job: import them and name the import as `audience`")
    };
    (count > max).then(|| JobError::new("/recipients", "too_many_recipients", reason()))
}

fn life(settings: &settings::Intake, category: Category) -> TimeDelta {
    TimeDelta::seconds(match category {
        Category::Authentication => settings.expires_authentication_s,
        Category::Utility => settings.expires_utility_s,
        Category::Marketing => settings.expires_marketing_s,
    })
}

/// What is paused or in review is accepted and waits under its hold; what will never be sent again is refused.
fn unusable(template: &RegisteredTemplate) -> Option<JobError> {
    let (name, status) = (&template.template.name, template.status.to_lowercase());
    let is_dead = matches!(status.as_str(), "rejected" | "disabled" | "deleted" | "pending_deletion");
    let reason = || format!("the template `{name}` cannot be sent: the provider says {status}");
    is_dead.then(|| JobError::new("/template/name", "template_unusable", reason()))
}

/// What is said of a job that came by the urgent road and may not.
pub(super) fn not_urgent(template: &RegisteredTemplate) -> JobError {
    let (name, category) = (&template.template.name, template.template.category);
    let reason = format!(
        "the urgent queue takes authentication templates only, and `{name}` is {category}: publish it as `jobs`"
    );
    JobError::new("/template/name", "not_urgent", reason)
}

/// `send_at` when it lies ahead, and `expires_at`.
fn times(
    context: &Context<'_>,
    job: &SendJob,
    errors: &mut Vec<JobError>,
) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
    let send_at = job.send_at.map(|at| at.with_timezone(&Utc)).filter(|at| *at > context.now);
    let days = context.settings.send_at_days;
    if send_at.is_some_and(|at| at > context.now + TimeDelta::days(days)) {
        errors.push(JobError::new("/send_at", "too_far_ahead", format!("is more than {days} days ahead")));
    }
    let expires_at = job.expires_at.map(|at| at.with_timezone(&Utc));
    if expires_at.is_some_and(|at| at <= send_at.unwrap_or(context.now)) {
        errors.push(JobError::new("/expires_at", "expires_too_early", "must be later than send_at and than now"));
    } else if expires_at.is_some_and(|at| at > context.now + TimeDelta::days(days + 1)) {
        let reason = format!("is more than {} days ahead", days + 1);
        errors.push(JobError::new("/expires_at", "too_far_ahead", reason));
    }
    (send_at, expires_at)
}

fn check_rows(
    channel: Channel,
    template: &RegisteredTemplate,
    defaults: &Params,
    rows: &[(i32, Recipient)],
    refused: &[Rejection],
) -> (Vec<Good>, Vec<Rejection>) {
    let mut rejections = refused.to_vec();
    let mut first_rows: HashMap<Address, i32> = HashMap::with_capacity(rows.len());
    let mut good = Vec::with_capacity(rows.len());
    for (row, recipient) in rows {
        match check_row(channel, template, defaults, *row, recipient, &mut first_rows) {
            Ok(recipient) => good.push(recipient),
            Err(errors) => rejections.extend(errors.into_iter().map(|error| error.of_row(*row))),
        }
    }
    rejections.sort_by_key(|rejection| rejection.row);
    (good, rejections)
}

fn check_row(
    channel: Channel,
    template: &RegisteredTemplate,
    defaults: &Params,
    row: i32,
    recipient: &Recipient,
    first_rows: &mut HashMap<Address, i32>,
) -> Result<Good, Vec<JobError>> {
    let at = format!("/recipients/{}", row - 1);
    let mut errors = Vec::new();
    let address = Address::parse(channel, &recipient.to)
        .map_err(|error| {
            errors.push(JobError::new(format!("{at}/to"), address_code(channel), error.to_string()));
        })
        .ok();
    if let Some(name) = &recipient.time_zone {
        zone(name, format!("{at}/time_zone"), &mut errors);
    }
    if let Err(problems) = template.template.fill(defaults, &recipient.params) {
        let at = format!("{at}/params");
        errors.extend(problems.into_iter().map(|problem| slot_error(problem, &at)));
    }
    let Some(to) = address.filter(|_| errors.is_empty()) else {
        return Err(errors);
    };
    if let Some(first) = first_rows.get(&to) {
        let reason = format!("row {row} has the same recipient as row {first}, which is kept");
        return Err(vec![JobError::new(format!("{at}/to"), "duplicate_recipient", reason)]);
    }
    first_rows.insert(to.clone(), row);
    let params = (!recipient.params.is_empty()).then(|| serde_json::json!(recipient.params));
    Ok(Good { to, params, reference: recipient.reference.clone(), time_zone: recipient.time_zone.clone() })
}

pub(super) fn zone(name: &str, at: String, errors: &mut Vec<JobError>) -> Option<chrono_tz::Tz> {
    zones::named(name)
        .map_err(|unknown| {
            errors.push(JobError::new(at, "unknown_time_zone", unknown.to_string()).meant(unknown.near()));
        })
        .ok()
}

/// The code of an address that is none, by what the channel takes.
pub(super) const fn address_code(channel: Channel) -> &'static str {
    match channel {
        Channel::Whatsapp | Channel::Viber => "invalid_number",
        Channel::Email => "invalid_mailbox",
        Channel::Messenger | Channel::Instagram => "invalid_user_id",
    }
}

pub(super) fn slot_error(problem: SlotProblem, at: &str) -> JobError {
    let SlotProblem { slot, code, reason, did_you_mean } = problem;
    JobError::new(pointer(at, &slot), code, format!("`{slot}` {reason}")).meant(did_you_mean)
}
