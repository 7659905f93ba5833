//! Hours of the recipients: what a job says of them, and what becomes of its messages by them.

use std::collections::HashMap;

use chrono::Utc;

use crate::{
    domain::{
        address::Address,
        ids::BatchId,
        schedule::{Finder, Hours, Opening, Windows},
    },
    intake::{
        check::{self, Checked},
        freeze,
        job::{JobError, SendJob},
    },
    store::{StoreError, checklist::load, session::Connection, work::windows},
};

/// How many recipients have which window.
#[derive(Debug, Default)]
pub struct Reach {
    /// Recipients by their windows.
    pub windows: HashMap<Opening, u32>,
    /// Recipients who have none while their messages would live.
    pub without: u32,
}

/// What a job says of them; adds to `errors` what is wrong with it.
pub(super) fn check(job: &SendJob, errors: &mut Vec<JobError>) -> Option<Hours> {
    let given = job.windows.as_ref()?;
    let mut faults = Vec::new();
    let windows = Windows::read(&given.spans, &mut faults);
    let told = faults.into_iter().map(|f| JobError::new(format!("/windows/spans{}", f.at), f.code, f.reason));
    errors.extend(told);
    if given.spans.is_empty() {
        errors.push(JobError::new("/windows/spans", "missing_field", "must have one window at least"));
    }
    let zone = check::zone(&given.time_zone, "/windows/time_zone".to_owned(), errors)?;
    Some(Hours { windows, closed: given.except_dates.iter().copied().collect(), zone })
}

/// Gives the messages of a batch that come after this one their windows, in the transaction that writes them.
pub(super) async fn place(connection: &mut Connection, batch: BatchId, after: i32) -> Result<(), StoreError> {
    let Some(unplaced) = windows::read(connection, batch, after).await? else {
        return Ok(());
    };
    // Beside the async threads, which send meanwhile: some µs a phone number.
    let placed = match tokio::task::spawn_blocking(move || unplaced.place()).await {
        Ok(placed) => placed,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process ends.
            Err(_cancelled) => return std::future::pending().await,
        },
    };
    windows::write(connection, &placed).await
}

/// How many recipients of a job would have which window; nothing of a job without hours.
pub(super) async fn reach(connection: &mut Connection, checked: &Checked) -> Result<Option<Reach>, StoreError> {
    let Some(hours) = &checked.hours else {
        return Ok(None);
    };
    let send_at = checked.send_at.unwrap_or_else(Utc::now);
    let mut finder = Finder::new(hours, send_at, checked.expires_at.unwrap_or(send_at + checked.life));
    let mut reach = Reach::default();
    let mut see = |recipient: &Address, time_zone: Option<&str>| match finder.find(recipient, time_zone) {
        Some(opening) => *reach.windows.entry(opening).or_default() += 1,
        None => reach.without += 1,
    };
    match (&checked.group, checked.import) {
        (Some(_), _) => freeze::visit(connection, checked, |to, zone| see(&to, zone.as_deref())).await?,
        (None, Some((import, _))) => {
            load::visit_import(connection, import, |to, zone| see(&to, zone.as_deref())).await?;
        }
        (None, None) => checked.recipients.iter().for_each(|good| see(&good.to, good.time_zone.as_deref())),
    }
    Ok(Some(reach))
}
