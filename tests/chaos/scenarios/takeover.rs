//! Two workers, four numbers, one worker killed in the middle: the other one takes its numbers over, at the same pace.

use std::time::Duration;

use super::{calls, close, ended, jobs, publish, used, world};
use crate::Arguments;

const LIMIT: u32 = 80;
const MEAN: f64 = 76.0;
const TAKEN_WITHIN_S: f64 = 12.0;

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let messages = arguments.messages.unwrap_or(12_000);
    let world = world(arguments, 2, vec![(LIMIT, 0); 4]).await?;
    let publishing = publish(&world, jobs(0..4, messages / 4));
    calls(&world, u64::from(messages) / 3).await?;
    world.say("kill -9 serve-0");
    world.serves[0].process.kill().await?;
    let published = publishing.await?;
    let verdict = ended(&world, &published, Duration::from_mins(3)).await?;
    let ledger = world.simulator.ledger().await?;
    let (mut worst, mut mean, mut gap, mut taken_over) = (0, f64::MAX, 0.0_f64, 0);
    for number in &world.numbers {
        let id = number.provider_id();
        let used = used(&world.simulator, &id, 0.0, f64::MAX).await?;
        println!("number {id}: {:.1}/s, longest pause {:.1} s", used.mean, used.gap);
        worst = worst.max(ledger.numbers.get(&id).map_or(0, |number| number.worst_second));
        (mean, gap) = (mean.min(used.mean), gap.max(used.gap));
        taken_over += usize::from(used.gap > 2.0);
    }
    let ok = verdict.is_clean() && mean >= MEAN && gap <= TAKEN_WITHIN_S && taken_over > 0;
    println!(
        "takeover: messages={} worst_second={worst} (limit {LIMIT}) mean={mean:.1}/s longest_pause={gap:.1}s \
         numbers_taken_over={taken_over} lost={} doubled={} unjudged={:.1}% {}",
        verdict.messages,
        verdict.lost,
        verdict.doubled,
        verdict.unjudged_share * 100.0,
        if ok { "ok" } else { "FAILED" }
    );
    close(world, ok).await;
    Ok(ok)
}
