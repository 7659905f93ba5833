//! What settings may not say together.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};

use super::{Alarm, Notify, Settings};

impl Settings {
    /// Contradictions that would break a promise later are refused now, those within sections that were read.
    pub(super) fn contradictions(&self, unread: &BTreeSet<String>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut refuse = |sections: &[&str], broken: bool, text: String| {
            if broken && !sections.iter().any(|section| unread.contains(*section)) {
                problems.push(text);
            }
        };
        let (lease, dispatch) = (&self.lease, &self.dispatch);
        refuse(
            &["lease"],
            lease.renew_s.saturating_mul(2).saturating_add(lease.margin_s) > lease.ttl_s,
            format!(
                "lease.ttl_s: {} leaves no room for a missed renewal: make it at least 2 × lease.renew_s + lease.margin_s",
                lease.ttl_s
            ),
        );
        let grace = (self.provider.timeout_ms / 1000).saturating_add(lease.ttl_s).saturating_add(30);
        refuse(
            &["lease", "provider", "uncertain"],
            self.uncertain.grace_s < grace,
            format!("uncertain.grace_s: must be at least {grace} (provider.timeout_ms + lease.ttl_s + 30 s)"),
        );
        let canary = &self.canary;
        refuse(
            &["canary"],
            canary.messages < 1 || usize::try_from(canary.messages).is_ok_and(|messages| messages > canary.over),
            format!("canary.messages: must be from 1 to canary.over ({})", canary.over),
        );
        refuse(
            &["canary"],
            !(1..=100).contains(&canary.fault_percent),
            "canary.fault_percent: must be from 1 to 100".to_owned(),
        );
        refuse(
            &["hold"],
            self.hold.probe_base_s == 0 || self.hold.probe_max_s < self.hold.probe_base_s,
            "hold.probe_base_s: must be from 1 to hold.probe_max_s".to_owned(),
        );
        refuse(
            &["dispatch"],
            dispatch.step_max == 0 || dispatch.step_max_unlimited == 0,
            "dispatch.step_max: must be at least 1".to_owned(),
        );
        refuse(&["dispatch"], dispatch.in_flight_max == 0, "dispatch.in_flight_max: must be at least 1".to_owned());
        refuse(
            &["dispatch"],
            dispatch.hold_refresh_ms > 1000,
            "dispatch.hold_refresh_ms: at most 1000, or holds are obeyed too late".to_owned(),
        );
        refuse(&["pacing"], self.pacing.pair_every_s == 0, "pacing.pair_every_s: must be at least 1".to_owned());
        refuse(&["pacing"], self.pacing.pair_burst == 0, "pacing.pair_burst: must be at least 1".to_owned());
        refuse(&["campaigns"], self.campaigns.tick_ms == 0, "campaigns.tick_ms: must be at least 1".to_owned());
        problems_of_duty(&self.alarm, &self.notify, &mut refuse);
        refuse(&["retention"], self.retention.months < 1, "retention.months: must be at least 1".to_owned());
        refuse(&["retry"], self.retry.charged_cap < 1, "retry.charged_cap: must be at least 1".to_owned());
        refuse(
            &["log"],
            !matches!(self.log.format.as_str(), "text" | "json"),
            format!("log.format: `{}` is neither text nor json", self.log.format),
        );
        problems
    }
}

/// What alarms and those who hear of them cannot be.
fn problems_of_duty(alarm: &Alarm, notify: &Notify, refuse: &mut impl FnMut(&[&str], bool, String)) {
    refuse(&["alarm"], alarm.every_s == 0, "alarm.every_s: must be at least 1".to_owned());
    refuse(
        &["alarm"],
        !(1..=100).contains(&alarm.failing_percent),
        "alarm.failing_percent: must be from 1 to 100".to_owned(),
    );
    let is_set = |secret: &SecretString| !secret.expose_secret().is_empty();
    refuse(
        &["notify"],
        is_set(&notify.url) && !is_set(&notify.secret),
        "notify.secret: is missing; whoever gets the messages knows by it that they are from here".to_owned(),
    );
    refuse(
        &["notify"],
        is_set(&notify.smtp_url) && (notify.mail_from.is_empty() || notify.mail_to.is_empty()),
        "notify.smtp_url: needs notify.mail_from and notify.mail_to".to_owned(),
    );
}
