//! The first messages of a job: what the job says about them, else the settings.

use serde_json::Value;

use crate::{
    domain::{
        canary::{CanaryRule, CanaryTerms, CanaryWish, FirstMessages},
        lane::Lane,
    },
    intake::{
        check::Checked,
        fields::{Reader, TEXT_CHARS, given},
        group::Sizes,
        job::{JobError, SendJob},
    },
};

impl Reader {
    pub(super) fn canary(&mut self, value: &Value) -> Option<CanaryWish> {
        let at = "/canary";
        if let Some(on) = value.as_bool() {
            return Some(CanaryWish::Off(on));
        }
        let fields = self.object(value, at, &["messages", "wait", "fault_percent"])?;
        if given(fields, "messages").is_none() {
            self.errors.push(JobError::new("/canary/messages", "missing_field", "is missing"));
        }
        let messages = self.whole(fields, at, "messages");
        let wait = self.text(fields, at, "wait", TEXT_CHARS);
        let fault_percent = self.whole(fields, at, "fault_percent");
        Some(CanaryWish::First(FirstMessages { messages: messages?, wait: wait?, fault_percent }))
    }
}

/// What a job says; adds to `errors` what is wrong with it.
pub(super) fn check(job: &SendJob, errors: &mut Vec<JobError>) -> Option<CanaryTerms> {
    let mut faults = Vec::new();
    let terms = job.canary.as_ref()?.read(&mut faults);
    errors.extend(faults.into_iter().map(|f| JobError::new(format!("/canary{}", f.at), "ill_formed", f.reason)));
    terms
}

/// How the first messages of a batch are watched. Where all of them would be first, there is nothing to watch them for.
pub(super) fn rule(checked: &Checked, sizes: Sizes<'_>) -> Option<CanaryRule> {
    let set = sizes.canary;
    let recipients = checked.import.map_or(checked.recipients.len(), |(_, good)| usize::try_from(good).unwrap_or(0));
    let is_watched = || {
        // Small batches take their turn together, and the settings leave them alone.
        Lane::from(checked.template.template.category) == Lane::Marketing
            && recipients > set.over.max(sizes.small_batch)
    };
    let rule = match checked.canary {
        Some(terms) => terms.rule(set.fault_percent),
        None => is_watched().then_some(set.rule()),
    };
    rule.filter(|rule| usize::try_from(rule.messages).is_ok_and(|messages| recipients > messages))
}
