//! What would be answered, without storing anything; and which road a job should take.

use std::sync::Arc;

use serde::Deserialize;

use crate::{
    domain::lane::Lane,
    intake::{
        Claim, Road, Shared, Submission,
        group::{self, Job},
        job::JobAnswer,
        lane::check_all,
        prepare::Prepared,
    },
    store::{StoreError, registry::Snapshot, session::Session},
};

/// Checks a job and tells what would be answered; nothing is stored.
pub(super) async fn dry_run(
    shared: &Arc<Shared>,
    road: Road,
    submission: &Submission,
) -> Result<JobAnswer, StoreError> {
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
            source: "http".to_owned(),
            raw_digest: [0; 32],
            body_bytes: submission.body.len(),
            reply_to: None,
            correlation_id: None,
        })
        .collect();
    group::rehearse(&mut Session::new(shared.store.clone(), "intake dry run"), &snapshot, &mut jobs).await
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
