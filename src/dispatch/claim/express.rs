//! Small authentication jobs, claimed the moment they are announced, over a connection of their own: a one-time password
//! waits neither for the claim of a campaign that is under way nor for a look of its own (promise 7). What cannot be
//! claimed this way is left to the claimer.

use std::{collections::BTreeSet, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::desk::Desk;
use crate::{
    dispatch::clock,
    domain::{ids::NumberId, lane::Lane, pacing::Tick, wake::Wake},
    store::{self, Session, StoreError, session::REHEARSE, work::Want},
};

/// How long after an urgent job another one is expected.
const LATELY: Duration = Duration::from_secs(2);

pub(in crate::dispatch) struct Express {
    desk: Rc<Desk>,
    session: Session,
    wakes: broadcast::Receiver<Arc<Wake>>,
    last_claim: Option<Instant>,
    rehearse_at: Instant,
}

impl Express {
    pub(super) fn new(desk: Rc<Desk>, wakes: broadcast::Receiver<Arc<Wake>>) -> Self {
        let session = Session::new(desk.shared.store.clone(), "express");
        Self { desk, session, wakes, last_claim: None, rehearse_at: Instant::now() }
    }

    /// Claims what is announced until `stop`.
    pub(in crate::dispatch) async fn run(mut self, stop: CancellationToken) {
        loop {
            let is_busy = self.last_claim.is_some_and(|at| at.elapsed() < LATELY);
            let rehearsal = time::sleep_until(self.rehearse_at);
            let numbers = tokio::select! {
                () = stop.cancelled() => return,
                announced = self.announced() => match announced {
                    Some(numbers) if numbers.is_empty() => continue,
                    Some(numbers) => numbers,
                    None => return,
                },
                () = rehearsal, if is_busy => {
                    self.rehearse().await;
                    continue;
                }
            };
            let left = match self.claim(&numbers).await {
                Ok(left) => left,
                Err(error) => {
                    self.session.reset();
                    tracing::warn!(error = %store::chain(&error), "could not claim urgent messages at once");
                    numbers.into_iter().collect()
                }
            };
            for number in left {
                self.desk.shared.hunger.come(number);
            }
            self.last_claim = Some(Instant::now());
            self.rehearse_at = Instant::now() + REHEARSE;
        }
    }

    async fn rehearse(&mut self) {
        self.session
            .rehearse(async |connection| store::work::claim(connection, &[], 0, Uuid::nil(), Duration::ZERO).await)
            .await;
        self.rehearse_at = Instant::now() + REHEARSE;
    }

    /// Numbers with urgent work, merged over all that is announced; none after the last announcement.
    async fn announced(&mut self) -> Option<BTreeSet<NumberId>> {
        let mut numbers = match self.wakes.recv().await {
            Ok(wake) => wake.urgent.clone(),
            Err(RecvError::Lagged(_)) => self.desk.numbers().iter().map(|number| number.id).collect(),
            Err(RecvError::Closed) => return None,
        };
        while let Ok(wake) = self.wakes.try_recv() {
            numbers.extend(&wake.urgent);
        }
        Some(numbers)
    }

    /// Claims and hands over. The numbers that may have more, or could not be asked for.
    async fn claim(&mut self, numbers: &BTreeSet<NumberId>) -> Result<Vec<NumberId>, StoreError> {
        let asked = clock::now();
        let (mut wants, mut left) = (Vec::new(), Vec::new());
        for id in numbers {
            match self.want(*id, asked) {
                Some(want) => wants.push(want),
                None => left.push(*id),
            }
        }
        if wants.is_empty() {
            return Ok(left);
        }
        let claimed = self.desk.claim(&mut self.session, &wants, usize::MAX).await?;
        for want in wants {
            let got = claimed.messages.iter().filter(|message| message.number() == want.number).count();
            if got == 0 || got == want.most {
                left.push(want.number);
            }
        }
        self.desk.hand_over(claimed, asked, None);
        Ok(left)
    }

    /// As many as the number has room for, if nothing stops it now.
    fn want(&self, id: NumberId, now: Tick) -> Option<Want> {
        let gates = &self.desk.shared.gates;
        let number = self.desk.number(id)?;
        let (lane, group, most) = (Lane::Authentication, Uuid::nil(), number.room(true));
        let snapshot = self.desk.shared.directory.current();
        let is_open = number.held.is_good(now) && gates.is_fresh(now) && gates.lets_group(&snapshot, id, lane, group);
        (most > 0 && is_open).then(|| Want { number: id, lease: number.held.lease, lane, group, most })
    }
}
