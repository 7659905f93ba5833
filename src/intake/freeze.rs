//! Audience groups that jobs name: read and frozen in the transaction that takes the job.
//!
//! Members may change at any moment and the answer to a job says how many it reaches, so the group cannot be left to the
//! planner, which works later and in many transactions. One statement copies all members into an import of the batch's
//! own: what it sees is one instant, whoever changes the group meanwhile, and nobody waits for it. The copy is checked in
//! chunks afterwards, where no one else sees it yet; from then on the batch is like any other that has an import.
//! Races, and why each is fine:
//!
//! - the key of the job is taken first: the same job elsewhere waits for this commit and gets its answer, and copies nothing;
//! - the process dies: there is no key, no batch and no copy, and the job comes again;
//! - a million members take seconds: the job is written beside its lane ([`super::apart`]), which goes on.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    domain::{
        address::Address,
        nearest::nearest,
        template::{Params, Template},
    },
    intake::{
        check::Checked,
        fields::storable,
        group::{self, Job, Keys, Outcome, Sizes},
        job::{JobError, REJECTIONS_SHOWN, Rejection},
        prepare::Verdict,
    },
    store::{
        StoreError,
        audiences::{self, AudienceRow},
        checklist::{
            imports::{self as files, RejectedImportRow},
            refused::MEMBER_POINTER,
        },
        frozen::{self, NewCopy},
        imports::BadRow,
        jobs::{self, NewJob},
        registry::Snapshot,
        session::{Connection, Session, forget},
    },
};

/// Members checked at once.
const CHUNK: i64 = 5000;
/// Names that are looked through for what was probably meant.
const NAMES: i64 = 1000;

/// What became of a group.
enum Frozen {
    /// The job has its import.
    Ready,
    /// The job came before.
    Repeated,
    /// It cannot be used.
    Refused(Vec<JobError>),
}

/// Freezes the group that a job names, and writes the job. Nothing is kept unless all of it is.
///
/// # Errors
/// A transient one may hide a commit; run again, the job finds its own key and is answered the same.
pub(super) async fn write(
    session: &mut Session,
    snapshot: &Snapshot,
    sizes: Sizes<'_>,
    job: &mut Job,
) -> Result<Outcome, StoreError> {
    let mut work = session.begin().await?;
    let frozen = freeze(&mut work, job).await?;
    if matches!(frozen, Frozen::Ready) {
        return group::write_in(work, snapshot, sizes, &[&*job], Keys::Taken).await;
    }
    forget(work).await?;
    if let Frozen::Refused(errors) = frozen {
        job.prepared.verdict = Verdict::Refuse(errors);
    }
    group::write(session, snapshot, sizes, std::slice::from_ref(job), None).await
}

async fn freeze(connection: &mut Connection, job: &mut Job) -> Result<Frozen, StoreError> {
    let (key, digest) = (job.key(), job.prepared.digest);
    let (Verdict::Send(checked), Some(key)) = (&mut job.prepared.verdict, key) else {
        return Ok(Frozen::Repeated);
    };
    let new = NewJob { key: &key, digest, batch: checked.batch };
    if jobs::take_keys(connection, &[new]).await?.is_empty() {
        return Ok(Frozen::Repeated);
    }
    let audience = match find(connection, checked).await? {
        Ok(audience) => audience,
        Err(error) => return Ok(Frozen::Refused(vec![*error])),
    };
    let (import, slots) = (Uuid::now_v7(), slot_names(&checked.template.template));
    let copy = NewCopy {
        import,
        batch: checked.batch,
        tenant: checked.tenant,
        account: checked.number.account.id,
        template: checked.template.id,
        audience: audience.id,
        name: &audience.name,
        slots: &slots,
    };
    let copied = frozen::copy(connection, &copy).await?;
    if copied == 0 {
        return Ok(Frozen::Refused(vec![empty(&audience.name)]));
    }
    let bad = refuse_misfits(connection, checked, import).await?;
    let limit = i64::try_from(REJECTIONS_SHOWN).unwrap_or(i64::MAX);
    let told = files::rejected_rows(connection, import, (0, ""), limit).await?;
    let rejections: Vec<Rejection> = told.into_iter().map(rejection).collect();
    if bad == copied {
        return Ok(Frozen::Refused(nobody(rejections)));
    }
    frozen::end(connection, import, copied - bad, bad).await?;
    fit(checked, import, copied - bad, bad, rejections);
    Ok(Frozen::Ready)
}

/// Makes the job one that has its recipients in an import.
fn fit(checked: &mut Checked, import: Uuid, good: i64, bad: i64, rejections: Vec<Rejection>) {
    checked.import = Some((import, good));
    checked.rejections = rejections;
    if let Some(group) = &mut checked.group {
        group.rejected = bad;
    }
}

/// The group of a job, if it can be sent to from the job's number.
async fn find(
    connection: &mut Connection,
    checked: &Checked,
) -> Result<Result<AudienceRow, Box<JobError>>, StoreError> {
    let name = checked.group.as_ref().map(|group| group.name.as_str()).unwrap_or_default();
    let refuse = |code, reason| JobError::new("/audience/group", code, reason);
    let Some(audience) = audiences::find(connection, checked.tenant, name).await? else {
        let known = audiences::list(connection, checked.tenant, "", NAMES).await?;
        let near = nearest(name, known.iter().map(|audience| audience.name.as_str()));
        let error = refuse("unknown_audience", format!("there is no audience group `{name}`"));
        return Ok(Err(Box::new(error.meant(near))));
    };
    let channel = checked.number.account.channel;
    if audience.channel != channel.as_str() {
        let reason = format!("the group `{name}` is of {}, and the number is on {channel}", audience.channel);
        return Ok(Err(Box::new(refuse("wrong_channel", reason))));
    }
    Ok(Ok(audience))
}

fn empty(name: &str) -> JobError {
    JobError::new("/audience/group", "empty_audience", format!("the group `{name}` has no members"))
}

fn nobody(rejections: Vec<Rejection>) -> Vec<JobError> {
    let reason = "none of the group's members can be sent to";
    let whole = JobError::new("/audience/group", "no_good_recipient", reason);
    std::iter::once(whole).chain(rejections.into_iter().map(JobError::from)).collect()
}

/// Every name under which a member may have a value for the template. Others are for other templates.
fn slot_names(template: &Template) -> Vec<&str> {
    template.slots.iter().flat_map(|slot| [slot.name.as_str(), template.short_name(slot)]).collect()
}

/// Takes out of a copy whom the template cannot be filled for. Says how many there were.
async fn refuse_misfits(connection: &mut Connection, checked: &Checked, import: Uuid) -> Result<i64, StoreError> {
    let (template, defaults) = (&checked.template.template, Arc::new(checked.job.params.clone()));
    // Those without values of their own are alike: decided once, and by the database.
    let why = misfit(template, &defaults, 0, &Params::new());
    let mut bad = if why.is_empty() { 0 } else { frozen::refuse_plain(connection, import, &why).await? };
    let mut after = 0;
    loop {
        let members = frozen::with_params(connection, import, after, CHUNK).await?;
        let Some((last, _)) = members.last() else {
            return Ok(bad);
        };
        after = *last;
        let (template, defaults) = (Arc::clone(template), Arc::clone(&defaults));
        let check = move || -> Vec<Vec<BadRow>> {
            let faults = members.iter().map(|(row, own)| misfit(&template, &defaults, *row, own));
            faults.filter(|faults| !faults.is_empty()).collect()
        };
        // Beside the async threads, which send meanwhile.
        let misfits = tokio::task::spawn_blocking(check).await.unwrap_or_default();
        bad += i64::try_from(misfits.len()).unwrap_or(i64::MAX);
        frozen::refuse(connection, import, &misfits.concat()).await?;
    }
}

/// Goes through whom of the group a job would be sent to: address and zone.
pub(super) async fn visit(
    connection: &mut Connection,
    checked: &Checked,
    mut see: impl FnMut(Address, Option<String>),
) -> Result<(), StoreError> {
    let name = checked.group.as_ref().map(|group| group.name.as_str()).unwrap_or_default();
    let (template, defaults) = (&checked.template.template, &checked.job.params);
    let (slots, do_plain_fit) = (slot_names(template), misfit(template, defaults, 0, &Params::new()).is_empty());
    frozen::visit(connection, checked.tenant, name, |recipient, time_zone, mut own| {
        own.retain(|name, _| slots.contains(&name.as_str()));
        let fits = if own.is_empty() { do_plain_fit } else { misfit(template, defaults, 0, &own).is_empty() };
        if fits {
            see(recipient, time_zone);
        }
    })
    .await
}

/// Why a member cannot be sent the template, slot by slot.
fn misfit(template: &Template, defaults: &Params, row: i64, own: &Params) -> Vec<BadRow> {
    let problems = template.fill(defaults, own).err().unwrap_or_default();
    let mut bad: Vec<BadRow> = problems
        .into_iter()
        .map(|problem| BadRow {
            row,
            field: storable(&problem.slot),
            code: problem.code.to_owned(),
            reason: storable(&format!("`{}` {}", problem.slot, problem.reason)),
        })
        .collect();
    // A slot is told of once.
    bad.sort_by(|a, b| a.field.cmp(&b.field));
    bad.dedup_by(|a, b| a.field == b.field);
    bad
}

fn rejection(row: RejectedImportRow) -> Rejection {
    let place = i32::try_from(row.row).unwrap_or(i32::MAX);
    let pointer = format!("{MEMBER_POINTER}{}", row.field);
    Rejection { row: place, pointer, code: row.code.into(), reason: row.reason, did_you_mean: Vec::new() }
}

/// Finds out for jobs that name a group what freezing it would lead to; nothing is written.
pub(super) async fn rehearse(connection: &mut Connection, jobs: &mut [Job]) -> Result<(), StoreError> {
    for job in jobs {
        let Verdict::Send(checked) = &mut job.prepared.verdict else {
            continue;
        };
        if checked.group.is_none() {
            continue;
        }
        if let Err(errors) = look(connection, checked).await? {
            job.prepared.verdict = Verdict::Refuse(errors);
        }
    }
    Ok(())
}

async fn look(connection: &mut Connection, checked: &mut Checked) -> Result<Result<(), Vec<JobError>>, StoreError> {
    let audience = match find(connection, checked).await? {
        Ok(audience) if audience.members == 0 => return Ok(Err(vec![empty(&audience.name)])),
        Ok(audience) => audience,
        Err(error) => return Ok(Err(vec![*error])),
    };
    let (template, defaults) = (Arc::clone(&checked.template.template), checked.job.params.clone());
    let (plain, slots) = (misfit(&template, &defaults, 0, &Params::new()), slot_names(&template));
    let (mut bad, mut rejections) = (0, Vec::new());
    frozen::look(connection, audience.id, !plain.is_empty(), |row, mut own| {
        own.retain(|name, _| slots.contains(&name.as_str()));
        let why = if own.is_empty() { plain.clone() } else { misfit(&template, &defaults, row, &own) };
        bad += i64::from(!why.is_empty());
        let room = REJECTIONS_SHOWN.saturating_sub(rejections.len());
        let told = why.into_iter().take(room).map(|BadRow { field, code, reason, .. }| RejectedImportRow {
            row,
            field,
            code,
            reason,
        });
        rejections.extend(told.map(rejection));
    })
    .await?;
    if bad >= audience.members {
        return Ok(Err(nobody(rejections)));
    }
    fit(checked, Uuid::nil(), audience.members - bad, bad, rejections);
    Ok(Ok(()))
}
