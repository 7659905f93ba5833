//! Where a lane gets its jobs: its queue, and the requests of this process.

use tokio::sync::mpsc;

use crate::{
    broker::{Consumer, Delivery, Tag},
    intake::{
        Claim, Ticket,
        canonical::raw_digest,
        group::{HTTP, Job},
        job::JobAnswer,
        prepare::Prepared,
    },
};

/// How a job is answered after the commit.
#[derive(Debug)]
pub(super) enum Asker {
    Queue(Tag),
    Here(tokio::sync::oneshot::Sender<JobAnswer>),
}

/// A job as it came.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) asker: Asker,
    pub(super) claim: Claim,
    pub(super) body: bytes::Bytes,
    reply_to: Option<String>,
    correlation_id: Option<String>,
    source: String,
    pub(super) is_redelivered: bool,
}

/// The sources of a lane.
#[derive(Debug)]
pub(super) struct Inlet {
    queue: String,
    pub(super) consumer: Consumer,
    tickets: mpsc::Receiver<Ticket>,
    is_fed_by_queue: bool,
}

impl Inlet {
    pub(super) fn new(queue: String, consumer: Consumer, tickets: mpsc::Receiver<Ticket>) -> Self {
        Self { queue, consumer, tickets, is_fed_by_queue: true }
    }

    /// Leaves the queue to other processes.
    pub(super) fn leave_queue(&mut self) {
        self.is_fed_by_queue = false;
    }

    /// Waits for a job, and takes up to `max` that are there. Empty when the process stops.
    ///
    /// May be dropped while it waits; nothing is lost.
    pub(super) async fn next(&mut self, max: usize) -> Vec<Arrival> {
        tokio::select! {
            ticket = self.tickets.recv() => {
                let more = std::iter::from_fn(|| self.tickets.try_recv().ok()).take(max.saturating_sub(1));
                ticket.into_iter().chain(more).map(Arrival::submitted).collect()
            }
            batch = self.consumer.next_batch(max), if self.is_fed_by_queue => {
                batch.into_iter().map(|delivery| Arrival::delivered(delivery, &self.queue)).collect()
            }
        }
    }
}

impl Arrival {
    fn submitted(ticket: Ticket) -> Self {
        Self {
            asker: Asker::Here(ticket.answer),
            claim: ticket.submission.claim,
            body: ticket.submission.body,
            reply_to: None,
            correlation_id: None,
            source: HTTP.to_owned(),
            is_redelivered: false,
        }
    }

    /// The job it is, with who is to be answered.
    pub(super) fn into_job(self, prepared: Prepared) -> (Asker, Job) {
        let job = Job {
            prepared,
            source: self.source,
            raw_digest: raw_digest(&self.body),
            body_bytes: self.body.len(),
            reply_to: self.reply_to,
            correlation_id: self.correlation_id,
        };
        (self.asker, job)
    }

    fn delivered(delivery: Delivery, queue: &str) -> Self {
        Self {
            asker: Asker::Queue(delivery.tag),
            claim: Claim::Broker { user: delivery.user_id },
            body: delivery.body,
            reply_to: delivery.reply_to,
            correlation_id: delivery.correlation_id,
            source: queue.to_owned(),
            is_redelivered: delivery.is_redelivered,
        }
    }
}
