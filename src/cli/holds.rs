//! Holds: listed, and closed by a person.

use crate::cli::client::Method;
use serde_json::json;

use crate::{
    checklist::Page,
    cli::{Common, PageArgs, batches::with, client::Query, output, read},
    store::holds_list::HoldRow,
};

/// Holds.
#[derive(Debug, clap::Subcommand)]
pub(super) enum HoldsCommand {
    /// The newest first
    List {
        /// Closed ones too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        page: PageArgs,
    },
    /// One of them
    Show {
        /// Its id
        hold: i64,
    },
    /// Stop sending: everything, provider:NAME, portfolio:TENANT/NAME, account:ID, number:ID, number:ID:LANE, template:ID or
    /// batch:ID
    Open {
        /// What to stop
        scope: String,
        /// For whoever asks later
        #[arg(long)]
        reason: String,
    },
    /// Let what waits under a hold go on
    Close {
        /// Its id
        hold: i64,
        /// For whoever asks later
        #[arg(long)]
        reason: String,
    },
}

pub(super) async fn holds(common: &Common, command: HoldsCommand) -> anyhow::Result<()> {
    let client = common.client()?;
    match command {
        HoldsCommand::List { all, page } => {
            let mut query = page.query();
            with(&mut query, "open", (!all).then_some(true));
            let value = client.get("/v1/holds", &query).await?;
            if common.json {
                return output::json(&value);
            }
            let page: Page<HoldRow> = read(&value)?;
            output::table(&HEADS, &page.items.iter().map(row).collect::<Vec<_>>())?;
            output::more(page.next.as_deref())
        }
        HoldsCommand::Show { hold } => {
            let value = client.get(&format!("/v1/holds/{hold}"), &Query::new()).await?;
            if common.json {
                return output::json(&value);
            }
            output::table(&HEADS, &[row(&read(&value)?)])
        }
        HoldsCommand::Open { scope, reason } => {
            let body = json!({ "scope": scope, "reason": reason });
            let opened = client.call(Method::POST, "/v1/holds", &Query::new(), Some(&body)).await?;
            if common.json {
                output::json(&opened)
            } else {
                output::line(&format!("hold {} is open: nothing of {scope} is sent", opened["id"]))
            }
        }
        HoldsCommand::Close { hold, reason } => {
            let body = json!({ "reason": reason });
            client.call(Method::POST, &format!("/v1/holds/{hold}/close"), &Query::new(), Some(&body)).await?;
            if common.json {
                output::json(&json!({ "closed": hold }))
            } else {
                output::line(&format!("hold {hold} is closed; what waited goes on"))
            }
        }
    }
}

const HEADS: [&str; 11] =
    ["HOLD", "SCOPE", "CAUSE", "SINCE", "UNTIL", "ENDED BY", "NEXT PROBE", "PROBES", "WAITING", "STATE", ""];

fn row(h: &HoldRow) -> Vec<String> {
    let state = h.closed_at.map_or_else(|| "open".to_owned(), |at| format!("closed {}", output::time(at)));
    vec![
        h.id.to_string(),
        h.scope.clone(),
        h.cause.clone(),
        output::time(h.since),
        h.until.map(output::time).unwrap_or_default(),
        h.resume.clone(),
        h.probe_at.filter(|_| h.closed_at.is_none()).map(output::time).unwrap_or_default(),
        h.probes.to_string(),
        h.parked.to_string(),
        state,
        h.detail.clone(),
    ]
}
