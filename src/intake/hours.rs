//! Hours of the recipients: what a job says of them, and what becomes of its messages by them.

use crate::{
    domain::{
        ids::BatchId,
        schedule::{Hours, Windows},
    },
    intake::{
        check,
        job::{JobError, SendJob},
    },
    store::{StoreError, session::Connection, work::windows},
};

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
