//! The rows a group of new jobs becomes.

use serde_json::json;
use uuid::Uuid;

use crate::{
    domain::lane::Lane,
    intake::{
        canary,
        check::Checked,
        group::{Holds, Sending, Sizes, rejected_rows},
        hours,
    },
    store::{
        StoreError,
        jobs::{self, NewBatch, NewCanary, NewMessage},
        refusals::{self, RefusedRecipient},
        session::Connection,
    },
};

/// Writes a group whose keys are taken.
pub(super) async fn insert(
    connection: &mut Connection,
    sizes: Sizes<'_>,
    new: &[&Sending<'_>],
    holds: &Holds,
) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let rows = Rows::of(new, sizes, holds);
    jobs::insert(connection, &rows.batches, &rows.messages).await?;
    let watched: Vec<NewCanary> = new.iter().filter_map(|send| watched(send, sizes)).collect();
    jobs::open_canaries(connection, &watched).await?;
    for send in new.iter().filter(|send| send.checked.hours.is_some() && send.checked.import.is_none()) {
        hours::place(connection, send.checked.batch, 0).await?;
    }
    // The refused members of a group stand beside its frozen copy.
    let refused: Vec<RefusedRecipient<'_>> = new
        .iter()
        .filter(|send| send.checked.group.is_none())
        .flat_map(|send| {
            send.checked.rejections.iter().map(|rejection| RefusedRecipient {
                batch: send.checked.batch,
                row: rejection.row,
                pointer: &rejection.pointer,
                code: &rejection.code,
                reason: &rejection.reason,
            })
        })
        .collect();
    refusals::insert_refused(connection, &refused).await
}

/// What is written for every group.
pub(super) struct Rows<'a> {
    pub(super) batches: Vec<NewBatch<'a>>,
    pub(super) messages: Vec<NewMessage<'a>>,
}

impl<'a> Rows<'a> {
    pub(super) fn of(new: &[&'a Sending<'a>], sizes: Sizes<'_>, holds: &'a Holds) -> Self {
        Self {
            batches: new.iter().map(|send| new_batch(send, sizes, holds)).collect(),
            messages: new.iter().flat_map(|send| new_messages(send.checked)).collect(),
        }
    }
}

fn watched(send: &Sending<'_>, sizes: Sizes<'_>) -> Option<NewCanary> {
    let Checked { tenant, batch, number, .. } = send.checked;
    let rule = canary::rule(send.checked, sizes)?;
    Some(NewCanary { tenant: *tenant, batch: *batch, number: number.id, rule })
}

fn new_batch<'a>(send: &'a Sending<'_>, sizes: Sizes<'_>, holds: &'a Holds) -> NewBatch<'a> {
    let checked = send.checked;
    // What shares its turn with others cannot be held by it.
    let has_turn = checked.import.is_some()
        || checked.recipients.len() > sizes.small_batch
        || canary::rule(checked, sizes).is_some();
    // What is not due yet is met by its holds when it is: parked, it would be due as soon as they end.
    let is_due = checked.send_at.is_none() && checked.hours.is_none();
    let notify: Vec<&str> = checked.job.notify.iter().map(|word| word.as_str()).collect();
    let has_tally = checked.import.is_some() || checked.recipients.len() > 1 || sizes.tell_of_one;
    NewBatch {
        batch: checked.batch,
        key: &send.key,
        campaign: checked.job.campaign.as_deref(),
        account: checked.number.account.id,
        number: checked.number.id,
        template: checked.template.id,
        lane: Lane::from(checked.template.template.category),
        params: json!(checked.job.params),
        notify: notify.join(","),
        import: checked.import.map(|(id, _)| id),
        recipients: i32::try_from(checked.recipients.len()).unwrap_or(i32::MAX),
        has_tally,
        rejected: i32::try_from(rejected_rows(checked)).unwrap_or(i32::MAX),
        send_at: checked.send_at,
        expires_at: checked.expires_at,
        life_s: checked.life.num_seconds(),
        windows: checked.hours.as_ref().map(|hours| json!(hours)),
        // Small batches take one turn together, or a thousand of them would starve a large one.
        turn_group: if has_turn { checked.batch.0 } else { Uuid::nil() },
        hold: holds.get(&send.index).and_then(|holds| holds.first()).filter(|_| is_due),
    }
}

fn new_messages(checked: &Checked) -> impl Iterator<Item = NewMessage<'_>> {
    (1..).zip(&checked.recipients).map(|(seq, good)| NewMessage {
        batch: checked.batch,
        seq,
        recipient: good.to.as_str(),
        reference: good.reference.as_deref(),
        time_zone: good.time_zone.as_deref(),
        params: good.params.clone(),
    })
}
