//! What must hold at the instant a call is written, and the copy of holds and cancellations it is checked against.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx_free::PgConnectionHolder as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::clock::{self, FreezeGuard, nanos};
use crate::{
    domain::{
        hold::Route,
        ids::{BatchId, HoldId},
        pacing::Tick,
    },
    store::{self, Store, registry::Directory},
};
