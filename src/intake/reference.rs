//! The number and the template a job names, or the nearest names there are.

use std::sync::Arc;

use crate::{
    domain::{Channel, ids::TenantId, nearest::nearest},
    intake::{
        check::Context,
        job::{JobError, SendJob},
    },
    store::registry::{Number, RegisteredTemplate, Snapshot},
};

/// The number and the template a job names.
pub(super) fn references(
    context: &Context<'_>,
    tenant: TenantId,
    job: &SendJob,
    errors: &mut Vec<JobError>,
) -> (Option<Arc<Number>>, Option<Arc<RegisteredTemplate>>) {
    let snapshot = context.snapshot;
    let candidates: Vec<_> = snapshot.numbers_named(tenant, &job.business_number).collect();
    if candidates.is_empty() {
        let names = snapshot.numbers_of(tenant).map(|n| n.business_number.as_str());
        let reason = format!("there is no business number `{}`", job.business_number);
        errors.push(
            JobError::new("/business_number", "unknown_number", reason).meant(nearest(&job.business_number, names)),
        );
        return (None, None);
    }
    let mut channels: Vec<Channel> = candidates.iter().map(|n| n.account.channel).collect();
    channels.sort_unstable();
    channels.dedup();
    let channel = match (job.channel, channels.as_slice()) {
        (Some(channel), known) if known.contains(&channel) => channel,
        (Some(channel), known) => {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            let reason = format!("the number is not on {channel} but on {}", known.join(", "));
            errors.push(JobError::new("/channel", "wrong_channel", reason).meant(known));
            return (None, None);
        }
        (None, [only]) => *only,
        (None, known) => {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            let reason = format!("the number is on {}: say which is meant", known.join(", "));
            errors.push(JobError::new("/channel", "ambiguous_channel", reason).meant(known));
            return (None, None);
        }
    };
    let mut numbers: Vec<_> = candidates.into_iter().filter(|n| n.account.channel == channel).collect();
    // Of several accounts with the same number the one that has the template is meant; else always the same one.
    numbers.sort_unstable_by_key(|n| n.account.id);
    let found = numbers.iter().find_map(|n| Some((*n, find_template(snapshot, n, job)?)));
    if let Some((number, template)) = found {
        return (Some(Arc::clone(number)), Some(Arc::clone(template)));
    }
    if let Some(number) = numbers.first() {
        errors.push(unknown_template(snapshot, number, job));
    }
    (None, None)
}

fn find_template<'a>(snapshot: &'a Snapshot, number: &Number, job: &SendJob) -> Option<&'a Arc<RegisteredTemplate>> {
    snapshot
        .templates_of(number.account.id)
        .find(|t| t.template.name == job.template.name && t.template.language == job.template.language)
}

fn unknown_template(snapshot: &Snapshot, number: &Number, job: &SendJob) -> JobError {
    let of_account = || snapshot.templates_of(number.account.id).map(|t| &t.template);
    let (name, language) = (&job.template.name, &job.template.language);
    let mut languages: Vec<&str> = of_account().filter(|t| t.name == *name).map(|t| t.language.as_str()).collect();
    if languages.is_empty() {
        let names = of_account().map(|t| t.name.as_str());
        let reason = format!("the account {} has no template `{name}`", number.account.name);
        return JobError::new("/template/name", "unknown_template", reason).meant(nearest(name, names));
    }
    languages.sort_unstable();
    let reason = format!("the template `{name}` exists in {}, not in {language}", languages.join(", "));
    let languages = languages.into_iter().map(str::to_owned).collect();
    JobError::new("/template/language", "unknown_language", reason).meant(languages)
}
