//! What happened, compactly enough for millions of messages: the evidence for promises 2 and 4.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    domain::ids::Token,
    simulator::{effects::CallbackEffects, locked, wire},
};

/// An accepted call, in 56 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// Which message it was for.
    pub(super) key: MessageKey,
    /// The recipient's digits, or a digest with the top bit set.
    pub(super) recipient: u64,
    /// When the call arrived, in nanoseconds since the start.
    pub(super) at: u64,
    /// What the message id was made of.
    pub(super) serial: u64,
    pub(super) attempt: i16,
    pub(super) number: u16,
    pub(super) told: Told,
}

/// What the callbacks of an accepted call are to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told(u32);

impl Told {
    const SUCCESS: u32 = 0;
    const NOTHING: u32 = u32::MAX;

    pub(super) fn of(effects: CallbackEffects) -> Self {
        Self(match (effects.none, effects.failed) {
            (true, _) => Self::NOTHING,
            (false, Some(code)) => code,
            (false, None) => Self::SUCCESS,
        })
    }

    /// Whether nothing is told at all.
    pub(super) fn is_nothing(self) -> bool {
        self.0 == Self::NOTHING
    }

    /// The code of the failure that is told.
    pub(super) fn failure(self) -> Option<u32> {
        (!matches!(self.0, Self::SUCCESS | Self::NOTHING)).then_some(self.0)
    }
}

/// What makes two accepted calls the same message: the token without its attempt; without a token of ours the number,
/// the recipient and the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(Rust, packed)]
pub(super) struct MessageKey {
    high: u128,
    low: u64,
}

const WITHOUT_TOKEN: u64 = u64::MAX;

impl MessageKey {
    pub(super) fn of_token(token: &Token) -> Self {
        Self { high: token.key.batch_id.0.as_u128(), low: u64::from(token.key.seq.cast_unsigned()) }
    }

    pub(super) fn without_token(number: u16, recipient: u64, template: &str) -> Self {
        let of_template = wire::digest(template) << 16 | u64::from(number);
        Self { high: u128::from(recipient) << 64 | u128::from(of_template), low: WITHOUT_TOKEN }
    }

    /// The batch and the place in it, when the call carried a token of ours.
    pub(super) fn token(self) -> Option<(uuid::Uuid, u64)> {
        (self.low != WITHOUT_TOKEN).then(|| (uuid::Uuid::from_u128(self.high), self.low))
    }
}

const SHARDS: usize = 64;
const CHUNK: usize = 16_384;

/// The record of a run. Counting is spread over shards and chunks so that no growth of a table ever stalls the
/// simulator for a millisecond.
#[derive(Debug)]
pub(super) struct Ledger {
    calls: AtomicU64,
    accepted: AtomicU64,
    messages: AtomicU64,
    doubled: AtomicU64,
    refused: Mutex<BTreeMap<String, u64>>,
    times_accepted: Vec<Mutex<HashMap<MessageKey, u32>>>,
    records: Mutex<Vec<Vec<Record>>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            calls: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            doubled: AtomicU64::new(0),
            refused: Mutex::default(),
            times_accepted: (0..SHARDS).map(|_| Mutex::default()).collect(),
            records: Mutex::default(),
        }
    }
}

/// Counts over all numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Calls that came in on a path of the provider, whatever became of them.
    pub calls: u64,
    /// Calls whose message was taken, also when the caller never learned it.
    pub accepted: u64,
    /// Calls that were refused, by the provider's code; `html_502` and `dropped` have none.
    pub refused: BTreeMap<String, u64>,
    /// Different messages among the accepted calls.
    pub messages: u64,
    /// Messages with two or more accepted calls: each was sent twice to a person.
    pub doubled: u64,
}

impl Ledger {
    pub(super) fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, code: &str) {
        let mut refused = locked(&self.refused);
        if let Some(count) = refused.get_mut(code) {
            *count += 1;
        } else {
            refused.insert(code.to_owned(), 1);
        }
    }

    pub(super) fn accepted(&self, record: Record) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let times = self.shard(record.key).map_or(1, |shard| {
            let mut shard = locked(shard);
            let times = shard.entry(record.key).or_default();
            *times += 1;
            *times
        });
        if times == 1 {
            self.messages.fetch_add(1, Ordering::Relaxed);
        } else if times == 2 {
            self.doubled.fetch_add(1, Ordering::Relaxed);
        }
        let mut records = locked(&self.records);
        match records.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(record),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(record);
                records.push(chunk);
            }
        }
    }

    fn shard(&self, key: MessageKey) -> Option<&Mutex<HashMap<MessageKey, u32>>> {
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
        let folded = half(key.high >> 64) ^ half(key.high) ^ key.low;
        self.times_accepted.get(usize::try_from(wire::mix(folded) % SHARDS as u64).unwrap_or_default())
    }

    /// How many accepted calls the message had.
    pub(super) fn times_accepted(&self, key: MessageKey) -> u32 {
        self.shard(key).and_then(|shard| locked(shard).get(&key).copied()).unwrap_or_default()
    }

    /// The accepted calls from the `from`-th on, at most `most` and never beyond a chunk; empty at the end.
    pub(super) fn page(&self, from: usize, most: usize) -> Vec<Record> {
        let records = locked(&self.records);
        let chunk = records.get(from / CHUNK).map(Vec::as_slice).unwrap_or_default();
        chunk.iter().skip(from % CHUNK).take(most).copied().collect()
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            calls: self.calls.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: locked(&self.refused).clone(),
            messages: self.messages.load(Ordering::Relaxed),
            doubled: self.doubled.load(Ordering::Relaxed),
        }
    }

    pub(super) fn clear(&self) {
        for count in [&self.calls, &self.accepted, &self.messages, &self.doubled] {
            count.store(0, Ordering::Relaxed);
        }
        locked(&self.refused).clear();
        for shard in &self.times_accepted {
            *locked(shard) = HashMap::new();
        }
        *locked(&self.records) = Vec::new();
    }
}
