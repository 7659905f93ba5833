//! Twelve kinds of failure at once: all are named with advice, and three are sent again by what they are.

use campaign_dispatch::simulator::{Fault, FaultAction, FaultMatch};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    journey::Home,
    support::{operator::Operator, world::Plan},
};

/// Codes of calls that are refused.
const REFUSED: [u32; 6] = [131_021, 131_030, 131_047, 131_052, 131_053, 131_062];
/// Codes of messages that the provider takes and fails later.
const FAILED_LATER: [u32; 6] = [130_403, 130_472, 130_497, 131_026, 131_043, 1];
/// Those whose cause somebody mends; the last fails later.
const MENDED: [u32; 3] = [131_030, 131_053, 131_043];

/// Recipients whose digits end so fail twice, then no more.
fn kind(home: &Home, place: usize, action: FaultAction) {
    let when = FaultMatch { suffix: Some(format!("{:02}", place + 1)), count: Some(2), ..FaultMatch::default() };
    home.world.simulator.add_fault(Fault { when, action });
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_kinds_of_failure_are_named_and_three_of_them_sent_again_once() {
    let home = Home::start(Plan::default()).await;
    let ann = Operator::of(&home, "ann").await;
    let later = FAILED_LATER.map(FaultAction::AsyncError);
    for (place, action) in REFUSED.map(|code| FaultAction::Error(code, None)).into_iter().chain(later).enumerate() {
        kind(&home, place, action);
    }
    let batch = home.world.batch(home.world.number(1), "offer", 0, 120).await;
    home.states(&[("failed", 24), ("read", 96)]).await;

    let failures = ann.get(&format!("/v1/failures?batch={batch}")).await;
    for code in REFUSED.iter().chain(&FAILED_LATER) {
        let code = code.to_string();
        let named = failures.as_array().unwrap().iter().find(|row| row["code"] == code.as_str());
        let row = named.unwrap_or_else(|| panic!("{code} is not named: {failures}"));
        assert_eq!(row["messages"], 2, "{row}");
        for told in [&row["meaning"], &row["advice"]["en"], &row["advice"]["ja"], &row["sample"]] {
            assert!(told.as_str().is_some_and(|text| !text.is_empty()), "{row}");
        }
    }
    assert_eq!(failures.as_array().unwrap().len(), 12);

    let wishes = MENDED.map(
        |code| json!({"batch": batch, "code": code.to_string(), "reason": "it is mended", "against_advice": true}),
    );
    let answers = join_all(wishes.iter().chain(&wishes).map(|wish| ann.post("/v1/resends", Some(wish)))).await;
    let resent = |(status, answer): &(u16, Value)| {
        assert_eq!(*status, 200, "{answer}");
        answer["resent"].as_i64().unwrap()
    };
    let (first, second) = answers.split_at(MENDED.len());
    let each: Vec<i64> = first.iter().zip(second).map(|(first, second)| resent(first) + resent(second)).collect();
    assert_eq!(each, [2, 2, 2], "of two at once one sends");
    home.states(&[("failed", 24), ("read", 102)]).await;

    let totals = home.world.ledger().totals;
    // Those that failed later had been accepted before.
    assert_eq!((totals.accepted, totals.messages, totals.doubled), (96 + 12 + 6, 96 + 12 + 6, 0));
    home.finish().await;
}
