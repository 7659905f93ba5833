//! The body of a call, which asks the gate once more in the instant it is taken to be written.
//!
//! Between the decision to call and the first byte lie a free connection, or resolving, connecting and the TLS
//! handshake; a process may be frozen anywhere there. hyper puts the head into its buffer, takes the body, and only then
//! writes both: a body that is refused ends the connection with nothing written. And without a body no call is whole,
//! so no provider can have taken one whose body was never given.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use crate::providers::Gate;

const WAITING: u8 = 0;
const GIVEN: u8 = 1;
const STOPPED: u8 = 2;

/// What became of a body: whoever comes first decides, the connection that takes it or the caller that gives up.
#[derive(Debug, Clone, Default)]
pub(super) struct Fate(Arc<AtomicU8>);

/// How far a call came that has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// Its body was given to a connection: it may have been taken.
    Given,
    /// No connection asked for its body, and none will get it.
    Waiting,
    /// The gate stopped it at the write.
    Stopped,
}

impl Fate {
    /// The caller gives up: from here on nothing is given.
    pub(super) fn give_up(&self) -> Reached {
        match self.decide(STOPPED) {
            Ok(_) => Reached::Waiting,
            Err(GIVEN) => Reached::Given,
            Err(_) => Reached::Stopped,
        }
    }

    fn decide(&self, fate: u8) -> Result<u8, u8> {
        self.0.compare_exchange(WAITING, fate, Ordering::AcqRel, Ordering::Acquire)
    }
}

/// A body in one piece, given once and only while the gate says so.
pub(super) struct Guarded {
    bytes: Option<Bytes>,
    gate: Arc<dyn Gate>,
    fate: Fate,
    place: Option<OwnedSemaphorePermit>,
}

impl Guarded {
    /// `bytes` must not be empty: a call without a body is written without asking for one. `place` is given back when a
    /// connection takes the body.
    pub(super) fn new(bytes: Bytes, gate: Arc<dyn Gate>, place: OwnedSemaphorePermit) -> Self {
        debug_assert!(!bytes.is_empty(), "nobody asks for an empty body");
        Self { bytes: Some(bytes), gate, fate: Fate::default(), place: Some(place) }
    }

    /// A handle to learn what became of it.
    pub(super) fn fate(&self) -> Fate {
        self.fate.clone()
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("fate", &self.fate).finish_non_exhaustive()
    }
}

/// The body was not given.
#[derive(Debug, thiserror::Error)]
#[error("the call may not be written any more")]
pub(super) struct Withheld;

impl Body for Guarded {
    type Data = Bytes;
    type Error = Withheld;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withheld>>> {
        let Some(bytes) = self.bytes.take() else {
            return Poll::Ready(None);
        };
        self.place = None;
        let is_open = self.gate.pass();
        let decided = self.fate.decide(if is_open { GIVEN } else { STOPPED });
        Poll::Ready(Some(if is_open && decided.is_ok() { Ok(Frame::data(bytes)) } else { Err(Withheld) }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
