//! The ledger as people and tests read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    domain::address::Address,
    simulator::{
        Simulator,
        callbacks::CallbackCounts,
        ledger::{Record, Totals},
        limits::{SECOND, worst_second},
        locked,
        stalls::millis,
        wire,
        world::Number,
    },
};

/// `GET /_sim/ledger`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerReport {
    /// Counts over all numbers.
    #[serde(flatten)]
    pub totals: Totals,
    /// Callbacks over all accounts.
    pub callbacks: CallbackCounts,
    /// What can be judged about the pace.
    pub judgement: Judgement,
    /// Each number by its id at the provider.
    pub numbers: BTreeMap<String, NumberReport>,
}

/// Whether the simulator itself was fit to judge (design.md §5): more than 1 % unjudged fails a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Sliding seconds looked at: one for each call, ending with it.
    pub windows: usize,
    /// Those that touch a stall of the simulator.
    pub unjudged: usize,
    /// `unjudged` of `windows`, from 0 to 1.
    pub unjudged_share: f64,
    /// Stalls longer than 15 ms since the start or the last reset.
    pub stalls: usize,
    /// The longest of them, in milliseconds.
    pub longest_stall_ms: f64,
    /// Whether the thread that watches for stalls got a higher priority.
    pub ticker_raised: bool,
}

/// One number. Times are milliseconds since the simulator started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NumberReport {
    /// The account's WABA id.
    pub waba: String,
    /// Calls that named the number, whatever became of them.
    pub calls: usize,
    /// Calls whose message was taken.
    pub accepted: u64,
    /// Calls refused because they came too fast (130429).
    pub throttled: u64,
    /// Calls a second that are allowed; absent is unlimited.
    pub limit: Option<u32>,
    /// The most calls in any half-open sliding second that can be judged.
    pub worst_second: usize,
    /// The most calls in any half-open sliding second.
    pub worst_second_any: usize,
    /// Sliding seconds that touch a stall of the simulator.
    pub unjudged: usize,
    /// Sliding seconds that can be judged and hold more calls than the limit.
    pub over_limit: usize,
    /// When the first call arrived.
    pub first_ms: Option<f64>,
    /// When the last call arrived.
    pub last_ms: Option<f64>,
    /// Calls a second from the first to the last.
    pub mean_per_second: f64,
}

/// What happened so far. Looks at every arrival: milliseconds for a million, so not for a handler's thread.
pub(super) fn ledger(simulator: &Simulator) -> LedgerReport {
    let stalls = simulator.stalls.spans();
    let mut judgement = Judgement { ticker_raised: simulator.stalls.is_raised(), ..Judgement::default() };
    let mut numbers = BTreeMap::new();
    for number in &simulator.world.numbers {
        let (report, windows) = number_report(number, &stalls);
        judgement.windows += windows;
        judgement.unjudged += report.unjudged;
        numbers.insert(number.id.clone(), report);
    }
    judgement.unjudged_share = ratio(judgement.unjudged, judgement.windows);
    let (count, longest) = simulator.stalls.summary();
    (judgement.stalls, judgement.longest_stall_ms) = (count, millis(longest));
    LedgerReport { totals: simulator.ledger.totals(), callbacks: callbacks(simulator), judgement, numbers }
}

/// Callbacks over all accounts.
pub(super) fn callbacks(simulator: &Simulator) -> CallbackCounts {
    let mut all = CallbackCounts::default();
    for account in &simulator.world.accounts {
        all.add(account.outbox.counts());
    }
    all
}

fn number_report(number: &Number, stalls: &[(u64, u64)]) -> (NumberReport, usize) {
    let times = arrivals(number);
    let limit = locked(&number.state).limit;
    let worst = worst_second(&times, stalls, limit.and_then(|limit| usize::try_from(limit).ok()));
    let (first, last) = (times.first().copied(), times.last().copied());
    let span = last.unwrap_or_default() - first.unwrap_or_default();
    let state = locked(&number.state);
    let report = NumberReport {
        waba: number.account.waba_id.clone(),
        calls: times.len(),
        accepted: state.accepted,
        throttled: state.throttled,
        limit,
        worst_second: worst.judged,
        worst_second_any: worst.any,
        unjudged: worst.unjudged,
        over_limit: worst.over,
        first_ms: first.map(millis),
        last_ms: last.map(millis),
        mean_per_second: ratio(times.len().saturating_sub(1), usize::try_from(span).unwrap_or(usize::MAX))
            * millis(SECOND)
            * 1e6,
    };
    (report, worst.windows)
}

/// Copied in pieces, so that calls of the number wait microseconds and not the copying of millions.
pub(super) fn arrivals(number: &Number) -> Vec<u64> {
    const PIECE: usize = 65_536;
    let mut times = Vec::new();
    loop {
        let before = times.len();
        times.extend_from_slice(locked(&number.state).arrivals.slice(before, PIECE));
        if times.len() - before < PIECE {
            return times;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shares and means for people")]
fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// An accepted call, as `GET /_sim/ledger/messages` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageLine {
    /// Its place in the list, from 0; `after` of the next page.
    pub index: usize,
    /// The batch in the token; absent without a token of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<uuid::Uuid>,
    /// The place in the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Which call for the message it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i16>,
    /// The number's id at the provider.
    pub number: String,
    /// The recipient, masked.
    pub recipient: String,
    /// The provider's id of the message.
    pub wamid: String,
    /// When the call arrived.
    pub at_ms: f64,
    /// How many calls for the same message were accepted; more than one is a double.
    pub times_accepted: u32,
    /// The code of the failure that its callback tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u32>,
    /// Whether no callback tells anything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untold: bool,
}

/// One accepted call as a line.
pub(super) fn line(simulator: &Simulator, index: usize, record: &Record) -> MessageLine {
    let token = record.key.token();
    // A business-scoped id is kept as a digest only; its message id cannot be given again.
    let is_user = record.recipient >> 63 == 1;
    let digits = record.recipient.to_string();
    let number = simulator.world.numbers.get(usize::from(record.number));
    MessageLine {
        index,
        batch: token.map(|(batch, _)| batch),
        seq: token.map(|(_, seq)| seq),
        attempt: token.map(|_| record.attempt),
        number: number.map(|number| number.id.clone()).unwrap_or_default(),
        recipient: if is_user { "**".to_owned() } else { Address::from_store(format!("+{digits}")).masked() },
        wamid: if is_user { String::new() } else { wire::message_id(&digits, simulator.run, record.serial) },
        at_ms: millis(record.at),
        times_accepted: simulator.ledger.times_accepted(record.key),
        failed: record.told.failure(),
        untold: record.told.is_nothing(),
    }
}
