//! Messages as tables, and one with its history.

use serde_json::json;

use crate::{
    checklist::{Entry, Message, MessageWithAttempts, Page},
    cli::{
        Common, PageArgs,
        client::{Method, Query},
        exports::{self, FileArgs},
        filters::MessageFilterArgs,
        ids, output, read,
    },
    domain::ids::MessageKey,
};

/// Messages.
#[derive(Debug, clap::Subcommand)]
pub(super) enum MessagesCommand {
    /// The latest due batch first; of a range of time, or a code, by the list's time
    List {
        #[command(flatten)]
        which: Box<MessageFilterArgs>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// The whole list as a file for a spreadsheet
    Export {
        #[command(flatten)]
        which: Box<MessageFilterArgs>,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Give up one message that is not being called, for good
    Cancel {
        /// `<batch id>.<seq>`
        #[arg(value_parser = ids::message)]
        message: MessageKey,
        /// For whoever asks later
        #[arg(long)]
        reason: String,
    },
    /// One message with its history: calls, callbacks, decisions, what people did
    Show {
        /// `<batch id>.<seq>`
        #[arg(value_parser = ids::message)]
        message: MessageKey,
    },
}

pub(super) async fn messages(common: &Common, command: MessagesCommand) -> anyhow::Result<()> {
    let client = common.client()?;
    match command {
        MessagesCommand::Export { which, file } => {
            let mut query = Query::new();
            which.push(&mut query);
            exports::export(common, "/v1/messages/export", query, &file).await
        }
        MessagesCommand::List { which, page } => {
            let mut query = page.query();
            which.push(&mut query);
            let value = client.get("/v1/messages", &query).await?;
            if common.json {
                return output::json(&value);
            }
            let page: Page<Message> = read(&value)?;
            message_table(&page.items)?;
            output::more(page.next.as_deref())
        }
        MessagesCommand::Cancel { message, reason } => {
            let (path, body) = (format!("/v1/messages/{message}/cancel"), json!({ "reason": reason }));
            client.call(Method::POST, &path, &Query::new(), Some(&body)).await?;
            let done = json!({ "cancelled": message.to_string() });
            if common.json { output::json(&done) } else { output::line(&format!("{message} is not sent")) }
        }
        MessagesCommand::Show { message } => {
            let value = client.get(&format!("/v1/messages/{message}"), &Query::new()).await?;
            if common.json { output::json(&value) } else { show_message(&read(&value)?) }
        }
    }
}

/// What there is to say about a message in one cell.
fn remark(m: &Message) -> String {
    let row = &m.row;
    if let Some(hold) = row.hold_id {
        return format!("held: holds list, id {hold}");
    }
    let why = row.reason.as_ref().map(|reason| format!("{} {reason}", output::maybe(row.code.as_ref())));
    let why = why.or_else(|| row.code.clone().filter(|_| row.state == "suppressed"));
    let closes = row.window_closes_at.map(|at| format!(", until {} in the recipient's hours", output::time(at)));
    let due = row.due_at.map(|due| format!("due {}{}", output::time(due), closes.unwrap_or_default()));
    why.or(due).unwrap_or_default()
}

fn message_table(messages: &[Message]) -> anyhow::Result<()> {
    let row = |m: &Message| {
        let last = [m.row.read_at, m.row.delivered_at, m.row.sent_at, m.row.accepted_at].into_iter().flatten().next();
        let at = m.row.ended_at.or(last).map(output::time).unwrap_or_default();
        vec![m.id.clone(), m.row.recipient.clone(), m.row.state.clone(), at, m.row.template.clone(), remark(m)]
    };
    output::table(
        &["MESSAGE", "RECIPIENT", "STATE", "AT", "TEMPLATE", ""],
        &messages.iter().map(row).collect::<Vec<_>>(),
    )
}

fn show_message(shown: &MessageWithAttempts) -> anyhow::Result<()> {
    let (m, row) = (&shown.message, &shown.message.row);
    let at = |at: Option<chrono::DateTime<chrono::Utc>>| at.map(output::time).unwrap_or_default();
    output::fields(&[
        ("message", m.id.clone()),
        ("to", row.recipient.clone()),
        ("ref", output::maybe(row.r#ref.as_ref())),
        ("job", format!("{} / {}", row.producer, row.job_id)),
        ("from", format!("{} ({}, {})", row.business_number, row.account, row.channel)),
        ("template", format!("{} {} ({})", row.template, row.language, row.category)),
        ("state", row.state.clone()),
        ("stage", output::maybe(row.stage.as_ref())),
        ("remark", remark(m)),
        ("sends again", output::maybe(shown.resend_of.as_ref())),
        ("sent again as", output::maybe(shown.resent_as.as_ref())),
        ("provider's id", output::maybe(row.provider_message_id.as_ref())),
        ("accepted", at(row.accepted_at)),
        ("sent", at(row.sent_at)),
        ("delivered", at(row.delivered_at)),
        ("read", at(row.read_at)),
        ("ended", at(row.ended_at)),
        ("advice", shown.advice.as_ref().map(|advice| advice.en.clone()).unwrap_or_default()),
    ])?;
    let row = |e: &Entry| {
        let attempt = e.attempt.map(|attempt| format!("call {attempt}")).unwrap_or_default();
        let by = output::maybe(e.by.as_ref());
        vec![output::time(e.at), e.kind.to_string(), e.what.clone(), attempt, by, e.detail.clone()]
    };
    output::table(&["WHEN", "KIND", "WHAT", "", "BY", ""], &shown.history.iter().map(row).collect::<Vec<_>>())
}
