//! Dead letters: what was delivered a thousand times, or could not even be refused, is listed as a refused job.

use std::time::Duration;

use serde_json::json;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, Consumer, Delivery},
    domain::{ids::TenantId, retry::RetryPolicy},
    intake::{canonical::raw_digest, head::Head, job::JobError},
    store::{
        Store, StoreError,
        refusals::{self, RefusedJob},
        registry::Directory,
        session::{Session, commit},
    },
};

/// Rows per transaction, and unacknowledged dead letters.
const GROUP: u16 = 50;
/// Waits while the database cannot be reached.
const RETRY: RetryPolicy =
    RetryPolicy { base: Duration::from_millis(200), ceiling: Duration::from_secs(5), charged_cap: i16::MAX };

/// Drains the dead letters into the list of refused jobs.
#[derive(Debug)]
pub struct DeadLetters {
    directory: Directory,
    consumer: Consumer,
    session: Session,
}

impl DeadLetters {
    /// To be run.
    pub fn new(store: Store, directory: Directory, broker: &Broker) -> Self {
        let consumer = broker.consumer(broker.topology().dead(), GROUP);
        Self { directory, consumer, session: Session::new(store, "dead letters") }
    }

    /// Drains until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while self.step(&shutdown).await > 0 {}
        self.consumer.close().await;
    }

    /// Lists what is there; says how many. None when the process stops.
    pub async fn step(&mut self, shutdown: &CancellationToken) -> usize {
        let letters = tokio::select! {
            () = shutdown.cancelled() => return 0,
            letters = self.consumer.next_batch(GROUP.into()) => letters,
        };
        let tenant = default_tenant(&self.directory);
        let refused: Vec<RefusedJob> = letters.iter().map(|letter| listed(letter, tenant)).collect();
        let mut tries = 0;
        while let Err(error) = self.record(&refused).await {
            self.session.failed(&error);
            tries += 1;
            tracing::warn!(%error, tries, "dead letters wait for the database");
            tokio::select! {
                () = shutdown.cancelled() => return 0,
                () = time::sleep(RETRY.wait_after(tries)) => {}
            }
        }
        self.consumer.ack(letters.iter().map(|letter| letter.tag)).await;
        letters.len()
    }

    async fn record(&mut self, refused: &[RefusedJob]) -> Result<(), StoreError> {
        let mut work = self.session.begin().await?;
        refusals::record_refused(&mut work, refused).await?;
        commit(work, "list dead letters").await
    }
}

fn default_tenant(directory: &Directory) -> TenantId {
    let snapshot = directory.current();
    let named = snapshot.tenants.iter().filter(|(_, name)| *name == "default").map(|(id, _)| *id);
    named.min().unwrap_or(TenantId(1))
}

fn listed(letter: &Delivery, tenant: TenantId) -> RefusedJob {
    let head = Head::read(&letter.body);
    let reason = "could not be processed, however often it was delivered";
    RefusedJob {
        tenant,
        producer: head.producer.map_or_else(|| "unknown".to_owned(), std::borrow::Cow::into_owned),
        job_id: head.job_id.map(std::borrow::Cow::into_owned),
        source: letter.died_in.clone().unwrap_or_else(|| "dead letters".to_owned()),
        digest: raw_digest(&letter.body),
        body_bytes: letter.body.len(),
        errors: json!([JobError::new("", "dead_letter", reason)]),
    }
}
