//! Sends message campaigns for businesses, at exactly the pace each number allows, and can prove what became of every
//! message.
//!
//! # The journey of a message
//!
//! | step | where | what it promises |
//! | --- | --- | --- |
//! | a campaign fires | [`campaigns`], [`domain::schedule`] | each occurrence once, whoever ticks |
//! | a job arrives | [`intake`] | answered once it is in Postgres; the same job twice is sent once |
//! | it is stored | [`store`] | truth and time; every line of SQL |
//! | its number is leased | [`dispatch`] | one worker sends for a number at a time |
//! | it is claimed, paced and sent | [`dispatch`], [`domain::pacing`] | called once, never over the limit |
//! | the provider takes it | [`providers`] | one call, and exactly what is known of its outcome |
//! | the outcome is settled | [`dispatch::settle`], [`store::messages`] | a fact, written in bulk and never lost |
//! | the provider tells more | [`callbacks`] | authenticated, published, applied by the state table |
//! | nobody knows whether it was taken | [`domain::uncertain`], [`upkeep`] | decided by policy or person, and recorded |
//! | somebody must look | [`domain::alarm`], [`upkeep::alarms`] | told once, and once more when it is over |
//! | it is looked up | [`checklist`], [`http`] | sent, pending, failed, and why |
//!
//! Beside the road: [`registry`] (who may send from what), [`upkeep`] (repairs), [`broker`] (what crosses between
//! processes), [`files`] (what people download), [`simulator`] (the provider to rehearse on), [`app`] and [`cli`] (the
//! process and its commands).
//! Decisions are pure functions in [`domain`]; the states stand in `src/docs/state-machines.md`.
//!
//! # To add …
//!
//! * a provider: a folder in [`providers`] and one line in [`providers::registry`];
//! * a state or an event: [`domain::message`], the document beside it, an enum label in a migration;
//! * what is told on the exchange of events: [`domain::event`], and its schema in [`contracts`];
//! * a setting: `deploy/settings.default.toml` and the section in [`settings`];
//! * a query: a function in [`store`], called by its file's name;
//! * an alarm: a kind in [`domain::alarm`], its signs in [`store::alarms::signs`], a rule in `deploy/alerts.yml`;
//! * a repair: a step of [`upkeep::Upkeep`].

pub mod app;
pub mod broker;
pub mod callbacks;
pub mod campaigns;
pub mod checklist;
pub mod cli;
pub mod contracts;
pub mod dispatch;
pub mod domain;
pub mod fault;
pub mod files;
pub mod http;
pub mod intake;
pub mod providers;
pub mod registry;
pub mod settings;
pub mod simulator;
pub mod store;
pub mod upkeep;

/// Why it is as it is.
#[cfg(doc)]
pub mod decisions {
    #[doc = include_str!("docs/0001-postgres-is-the-truth.md")]
    pub mod adr_0001_postgres_is_the_truth {}
    #[doc = include_str!("docs/0002-leases-and-a-log-of-calls.md")]
    pub mod adr_0002_leases_and_a_log_of_calls {}
    #[doc = include_str!("docs/0003-one-road-for-every-change.md")]
    pub mod adr_0003_one_road_for_every_change {}
    #[doc = include_str!("docs/0004-backoff-as-policy-only.md")]
    pub mod adr_0004_backoff_as_policy_only {}
    #[doc = include_str!("docs/0005-held-work-is-skipped-or-parked.md")]
    pub mod adr_0005_held_work_is_skipped_or_parked {}
    #[doc = include_str!("docs/0006-what-nobody-knows-is-decided-once.md")]
    pub mod adr_0006_what_nobody_knows_is_decided_once {}
    #[doc = include_str!("docs/0007-a-lease-lives-as-long-as-its-worker.md")]
    pub mod adr_0007_a_lease_lives_as_long_as_its_worker {}
    #[doc = include_str!("docs/0008-what-a-hold-lets-through.md")]
    pub mod adr_0008_what_a_hold_lets_through {}
    #[doc = include_str!("docs/0009-hot-statements-go-by-index.md")]
    pub mod adr_0009_hot_statements_go_by_index {}
    #[doc = include_str!("docs/0010-who-does-not-want-it-is-asked-at-the-claim.md")]
    pub mod adr_0010_who_does_not_want_it_is_asked_at_the_claim {}
    #[doc = include_str!("docs/0011-what-is-sent-again-is-a-new-message.md")]
    pub mod adr_0011_what_is_sent_again_is_a_new_message {}
    #[doc = include_str!("docs/0012-what-is-told-is-written-with-what-it-tells-of.md")]
    pub mod adr_0012_what_is_told_is_written_with_what_it_tells_of {}
    #[doc = include_str!("docs/0013-lists-walk-narrow-tables.md")]
    pub mod adr_0013_lists_walk_narrow_tables {}
    #[doc = include_str!("docs/0014-an-alarm-is-a-row.md")]
    pub mod adr_0014_an_alarm_is_a_row {}
    #[doc = include_str!("docs/state-machines.md")]
    pub mod state_machines {}
}
