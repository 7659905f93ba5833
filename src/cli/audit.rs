//! What people did.

use crate::{
    checklist::Page,
    cli::{Common, PageArgs, batches::with, output, read},
    domain::act::Act,
    store::acts::ActRow,
};

/// Acts of people.
#[derive(Debug, clap::Subcommand)]
pub(super) enum AuditCommand {
    /// The latest first: who, when, what, why, how many
    List {
        /// Only such acts: pause, resume, cancel, resend, acknowledge, resolve, `hold_open`, `hold_close`, …
        #[arg(long)]
        act: Option<Act>,
        /// Only on this: batch:ID, message:ID, campaign:KEY, a hold's scope, failures, uncertain, registry
        #[arg(long)]
        subject: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
}

pub(super) async fn run(common: &Common, command: AuditCommand) -> anyhow::Result<()> {
    let AuditCommand::List { act, subject, page } = command;
    let mut query = page.query();
    with(&mut query, "act", act);
    with(&mut query, "subject", subject);
    let value = common.client()?.get("/v1/audit", &query).await?;
    if common.json {
        return output::json(&value);
    }
    let page: Page<ActRow> = read(&value)?;
    let row = |act: &ActRow| {
        let filter = act.filter.as_object().filter(|filter| !filter.is_empty());
        vec![
            act.id.to_string(),
            output::time(act.at),
            act.token.clone(),
            act.act.clone(),
            act.subject.clone(),
            act.count.to_string(),
            act.reason.clone(),
            filter.map(|_| act.filter.to_string()).unwrap_or_default(),
        ]
    };
    let heads = ["ACT", "WHEN", "BY", "WHAT", "ON", "COUNT", "WHY", "WHICH"];
    output::table(&heads, &page.items.iter().map(row).collect::<Vec<_>>())?;
    output::more(page.next.as_deref())
}
