//! What would be answered, without storing anything; and which road a job should take.

use std::sync::Arc;

use serde::Deserialize;

use crate::{
    domain::lane::Lane,
    intake::{
        Claim, Road, Shared, Submission, canary,
        group::{self, HTTP, Job},
        job::JobAnswer,
        lane::check_all,
        prepare::{Prepared, Verdict},
        reach::{self, Reach},
    },
    store::{StoreError, registry::Snapshot, session::Session},
};

/// What would become of a job.
#[derive(Debug)]
pub struct Outlook {
    /// What would be answered.
    pub answer: JobAnswer,
    /// Messages that would go out first, before the rest.
    pub canary: Option<i32>,
    /// Of a job with hours of the recipients, or of an account with terms, what its recipients are like.
    pub reach: Option<Reach>,
}

/// Checks a job and tells what would be answered; nothing is stored.
pub(super) async fn dry_run(
    shared: &Arc<Shared>,
    road: Road,
    submission: &Submission,
) -> Result<JobAnswer, StoreError> {
    let mut session = Session::new(shared.store.clone(), "intake dry run");
    Ok(rehearse(shared, road, submission, &mut session).await?.0)
}

/// As [`dry_run`], and goes through the recipients where that says more.
pub(super) async fn outlook(shared: &Arc<Shared>, road: Road, submission: &Submission) -> Result<Outlook, StoreError> {
    let mut session = Session::new(shared.store.clone(), "intake outlook");
    let (answer, jobs) = rehearse(shared, road, submission, &mut session).await?;
    let Some(Verdict::Send(checked)) = jobs.first().map(|job| &job.prepared.verdict) else {
        return Ok(Outlook { answer, canary: None, reach: None });
    };
    let canary = canary::rule(checked, shared.sizes()).map(|rule| rule.messages);
    let reach = reach::reach(session.connection().await?, checked).await?;
    Ok(Outlook { answer, canary, reach })
}

async fn rehearse(
    shared: &Arc<Shared>,
    road: Road,
    submission: &Submission,
    session: &mut Session,
) -> Result<(JobAnswer, Vec<Job>), StoreError> {
    let mut snapshot = shared.directory.current();
    let bodies = vec![(submission.claim.clone(), submission.body.clone())];
    let mut checked = check_all(shared, &snapshot, road, bodies.clone()).await;
    if checked.iter().any(Prepared::lacks_reference) {
        shared.directory.refresh().await?;
        // Not what `refresh` says: somebody else may have read it since the check began.
        let newer = shared.directory.current();
        if newer.version != snapshot.version {
            snapshot = newer;
            checked = check_all(shared, &snapshot, road, bodies).await;
        }
    }
    let mut jobs: Vec<Job> = checked
        .into_iter()
        .map(|prepared| Job {
            prepared,
            source: HTTP.to_owned(),
            raw_digest: [0; 32],
            body_bytes: submission.body.len(),
            reply_to: None,
            correlation_id: None,
        })
        .collect();
    let answer = group::rehearse(session, &snapshot, &mut jobs).await?;
    Ok((answer, jobs))
}

/// What decides the road of a job.
#[derive(Deserialize)]
struct Signpost {
    producer: Option<String>,
    business_number: String,
    template: crate::intake::job::TemplateRef,
}

pub(super) fn road_of(snapshot: &Snapshot, claim: &Claim, body: &[u8]) -> Road {
    let Ok(post) = serde_json::from_slice::<Signpost>(body) else {
        return Road::Bulk;
    };
    let tenant = match claim {
        Claim::Token { tenant, .. } => Some(*tenant),
        Claim::Broker { .. } => post.producer.and_then(|name| snapshot.producers.get(&name).copied()),
    };
    let Some(tenant) = tenant else {
        return Road::Bulk;
    };
    let is_urgent = snapshot.numbers_named(tenant, &post.business_number).any(|number| {
        snapshot.templates_of(number.account.id).any(|t| {
            t.template.name == post.template.name
                && t.template.language == post.template.language
                && Lane::from(t.template.category).is_urgent()
        })
    });
    if is_urgent { Road::Urgent } else { Road::Bulk }
}
