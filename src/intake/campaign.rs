//! Jobs that come from our own campaigns: their batches are tied to the firings, and wait where the campaign was paused
//! meanwhile or another person has to agree; those of a firing that was given up are cancelled.
//!
//! A firing's job goes by the urgent road when its template is of authentication at that moment. Where the category
//! changes before the job is taken, it is taken all the same: refused, the firing would be lost. What a job calls itself
//! proves nothing; that there is a firing of that name does.

use crate::{
    domain::{
        campaign::{CampaignState, JOB_PREFIX},
        ids::BatchId,
    },
    intake::{
        check,
        group::{self, Holds, Job, Sending},
        prepare::Verdict,
    },
    store::{
        StoreError,
        campaigns::batches::{self, APPROVAL, BatchHold, PAUSED, Tied},
        session::Connection,
    },
};

/// Refuses what came by the urgent road, is not of its kind, and was published by no firing.
pub(super) async fn admit(connection: &mut Connection, jobs: &mut [Job]) -> Result<(), StoreError> {
    for job in jobs {
        let Verdict::Send(checked) = &job.prepared.verdict else {
            continue;
        };
        if !checked.must_be_fired {
            continue;
        }
        let key = group::key(checked.tenant, &checked.job.producer, &checked.job.job_id);
        if !batches::is_fired(connection, &key).await? {
            job.prepared.verdict = Verdict::Refuse(vec![check::not_urgent(&checked.template)]);
        }
    }
    Ok(())
}

/// Costs nothing for the jobs of others. The batches that are to be cancelled as soon as they are written.
pub(super) async fn tie(
    connection: &mut Connection,
    new: &[&Sending<'_>],
    holds: &mut Holds,
) -> Result<Vec<BatchId>, StoreError> {
    let fired: Vec<&&Sending<'_>> = new.iter().filter(|send| send.key.job_id.starts_with(JOB_PREFIX)).collect();
    if fired.is_empty() {
        return Ok(Vec::new());
    }
    let jobs: Vec<_> = fired.iter().map(|send| (&send.key, send.checked.batch)).collect();
    let tied = batches::tie(connection, &jobs).await?;
    let wanted: Vec<BatchHold> = tied
        .iter()
        .filter_map(|tied| fired.iter().find(|send| send.checked.batch == tied.batch).map(|send| (tied, send)))
        .flat_map(|(tied, send)| wanted(tied, send))
        .collect();
    for hold in batches::open_holds(connection, &wanted).await? {
        let covered = fired.iter().find(|send| hold.scope == format!("batch:{}", send.checked.batch));
        if let Some(send) = covered {
            holds.entry(send.index).or_default().push(hold);
        }
    }
    Ok(tied.iter().filter(|tied| tied.is_cancelled).map(|tied| tied.batch).collect())
}

fn wanted(tied: &Tied, send: &Sending<'_>) -> Vec<BatchHold> {
    let recipients = send.recipients();
    let hold = |cause, detail, not_by| BatchHold { tenant: send.key.tenant, batch: tied.batch, cause, detail, not_by };
    let mut wanted = Vec::new();
    if tied.state == CampaignState::Paused {
        wanted.push(hold(PAUSED, format!("the campaign {} is paused", tied.campaign), None));
    }
    if tied.approval_over.is_some_and(|over| recipients > over) {
        let detail = format!(
            "{recipients} recipients of the campaign {}, started by {}: another person lets them through",
            tied.campaign, tied.by.name
        );
        wanted.push(hold(APPROVAL, detail, Some(tied.by.token)));
    }
    wanted
}
