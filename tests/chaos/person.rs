//! What a person does: closes holds when the cause is gone, and decides about what stays uncertain, with evidence.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use campaign_dispatch::simulator::MessageLine;
use uuid::Uuid;

use crate::{children, world::World};

/// Closes holds a few seconds after they opened, as long as it is not dropped.
pub(crate) async fn closes_holds(world: &World) {
    loop {
        if let Err(error) = close_holds(world).await {
            // The servers are down, or the command's process was killed: tried again.
            tracing::debug!(%error, "holds stay open");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn close_holds(world: &World) -> anyhow::Result<()> {
    let mut connection = world.connect().await?;
    let open: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT id, scope, cause FROM hold WHERE closed_at IS NULL AND since < now() - interval '4 seconds' ORDER BY id",
    )
    .fetch_all(&mut connection)
    .await?;
    for (id, scope, cause) in open {
        world.cli(&["holds", "close", &id.to_string(), "--reason", "chaos: the cause is gone"]).await?;
        world.say(&format!("a person closed hold {id}: {cause} over {scope}"));
    }
    Ok(())
}

/// Whether this build has `uncertain resolve`.
async fn can_resolve(world: &World) -> bool {
    children::run(&["uncertain", "resolve", "--help"], world.environment()).await.is_ok()
}

/// Decides about every uncertain message by the provider's ledger: `sent` where a call was taken, `resend` where none
/// was. Returns how many it decided about; nothing when this build has no command for it.
pub(crate) async fn resolves(world: &World) -> anyhow::Result<Option<usize>> {
    let mut connection = world.connect().await?;
    let open: Vec<(Uuid, i32)> = sqlx::query_as(
        "SELECT m.batch_id, m.seq FROM work w JOIN message m USING (batch_id, seq) WHERE m.state = 'uncertain'",
    )
    .fetch_all(&mut connection)
    .await?;
    if open.is_empty() {
        return Ok(Some(0));
    }
    if !can_resolve(world).await {
        world.say(&format!("{} messages stay uncertain: this build has no `uncertain resolve`", open.len()));
        return Ok(None);
    }
    let mut taken: HashMap<(Uuid, u64), MessageLine> = HashMap::new();
    for line in world.simulator.accepted().await? {
        if let (Some(batch), Some(seq)) = (line.batch, line.seq) {
            taken.insert((batch, seq), line);
        }
    }
    let (sent, resend): (Vec<_>, Vec<_>) =
        open.iter().partition(|(batch, seq)| taken.contains_key(&(*batch, u64::try_from(*seq).unwrap_or_default())));
    for (decision, messages, evidence) in [
        ("sent", &sent, "the provider's ledger has an accepted call"),
        ("resend", &resend, "the provider's ledger has no accepted call"),
    ] {
        if messages.is_empty() {
            continue;
        }
        let file = world.folder.join(format!("{decision}.txt"));
        let mut text = String::new();
        for (batch, seq) in messages {
            writeln!(text, "{batch}.{seq}")?;
        }
        std::fs::write(&file, text)?;
        let file = file.display().to_string();
        let arguments = [
            "uncertain",
            "resolve",
            "--as",
            decision,
            "--reason",
            "chaos",
            "--evidence",
            evidence,
            "--ids-file",
            &file,
        ];
        world.cli(&arguments).await?;
        world.say(&format!("a person resolved {} messages as {decision}", messages.len()));
    }
    Ok(Some(open.len()))
}
