//! What lists and exports of batches and messages are narrowed by.

use chrono::{DateTime, Utc};

use crate::{
    cli::{batches::with, client::Query, ids},
    domain::{Category, Channel},
};

/// What is common to all messages of a batch, and a range of time.
#[derive(Debug, clap::Args)]
pub(super) struct BatchFilterArgs {
    /// Only of this business number
    #[arg(long, allow_hyphen_values = true)]
    number: Option<String>,
    /// Only of this account
    #[arg(long)]
    account: Option<String>,
    /// Only of this channel
    #[arg(long)]
    channel: Option<Channel>,
    /// Only of templates of this name, or of this code at the provider
    #[arg(long)]
    template: Option<String>,
    /// Only of templates of this category
    #[arg(long)]
    category: Option<Category>,
    /// Only of this campaign
    #[arg(long)]
    campaign: Option<String>,
    /// Only of this producer
    #[arg(long)]
    producer: Option<String>,
    /// Only of this job
    #[arg(long)]
    job_id: Option<String>,
    /// Only from then on, by the list's time, for example 2026-12-01T09:00:00+09:00
    #[arg(long)]
    since: Option<DateTime<Utc>>,
    /// Only before then
    #[arg(long)]
    until: Option<DateTime<Utc>>,
}

impl BatchFilterArgs {
    pub(super) fn push(self, query: &mut Query) {
        with(query, "number", self.number);
        with(query, "account", self.account);
        with(query, "channel", self.channel);
        with(query, "template", self.template);
        with(query, "category", self.category);
        with(query, "campaign", self.campaign);
        with(query, "producer", self.producer);
        with(query, "job_id", self.job_id);
        with(query, "since", self.since.map(|at| at.to_rfc3339()));
        with(query, "until", self.until.map(|at| at.to_rfc3339()));
    }
}

/// Which messages. The time goes by the list: sent by when they were accepted, failed by when they failed, pending and
/// uncertain by when they are due.
#[derive(Debug, clap::Args)]
pub(super) struct MessageFilterArgs {
    /// sent, pending, failed, uncertain or all
    #[arg(default_value = "all")]
    list: String,
    /// Only of this batch
    #[arg(long, value_parser = ids::batch)]
    batch: Option<uuid::Uuid>,
    #[command(flatten)]
    of: BatchFilterArgs,
    /// Only to this recipient
    #[arg(long, allow_hyphen_values = true)]
    recipient: Option<String>,
    /// Only with this mark of the producer
    #[arg(long = "ref")]
    reference: Option<String>,
    /// Only in this state
    #[arg(long)]
    state: Option<String>,
    /// Only with this code; of no list it is the failed ones
    #[arg(long)]
    code: Option<String>,
}

impl MessageFilterArgs {
    pub(super) fn push(self, query: &mut Query) {
        query.push(("list", self.list));
        with(query, "batch", self.batch);
        self.of.push(query);
        with(query, "recipient", self.recipient);
        with(query, "ref", self.reference);
        with(query, "state", self.state);
        with(query, "code", self.code);
    }
}
