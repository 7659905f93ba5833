//! Tokens: the first one on the database, all others by the API.

use crate::cli::client::Method;
use serde_json::{Value, json};

use crate::{
    cli::{Common, client::Query, ids, output, read},
    registry::tokens::{self, NewlyMade, Scope, TokenError, TokenInfo, TokenRequest},
    store::Store,
};

/// Tokens.
#[derive(Debug, clap::Subcommand)]
pub(super) enum TokensCommand {
    /// Make a token; it is shown once. With `DATABASE_URL` set it is written straight to the database
    Create {
        /// What people call it
        #[arg(long)]
        name: String,
        /// publish, operate, read, pii, admin; may be given again
        #[arg(long = "scope", required = true, value_delimiter = ',', value_parser = scope)]
        scopes: Vec<Scope>,
        /// The producer it speaks for, registered when it is new
        #[arg(long)]
        producer: Option<String>,
        /// Whose it is
        #[arg(long)]
        tenant: Option<String>,
    },
    /// All of them, the newest first
    List,
    /// Make a token useless
    Revoke {
        /// Its id
        #[arg(value_name = "TOKEN_ID", value_parser = ids::token)]
        id: uuid::Uuid,
    },
}

fn scope(text: &str) -> Result<Scope, crate::domain::UnknownName> {
    text.parse()
}

pub(super) async fn run(common: &Common, command: TokensCommand) -> anyhow::Result<()> {
    match command {
        TokensCommand::Create { name, scopes, producer, tenant } => {
            let made = create(common, &TokenRequest { name, scopes, producer, tenant }).await?;
            if common.json { output::json(&serde_json::to_value(&made)?) } else { output::line(&made.token) }
        }
        TokensCommand::List => {
            let value = common.client()?.get("/v1/tokens", &Query::new()).await?;
            if common.json { output::json(&value) } else { table(&value) }
        }
        TokensCommand::Revoke { id } => {
            common.client()?.call(Method::DELETE, &format!("/v1/tokens/{id}"), &Query::new(), None).await?;
            if common.json { output::json(&json!({ "revoked": id })) } else { output::line("revoked") }
        }
    }
}

async fn create(common: &Common, request: &TokenRequest) -> anyhow::Result<NewlyMade> {
    if std::env::var_os("DATABASE_URL").is_none() {
        let body = serde_json::to_value(request)?;
        return read(&common.client()?.call(Method::POST, "/v1/tokens", &Query::new(), Some(&body)).await?);
    }
    let settings = common.settings()?;
    let store = Store::new(&settings.database.url, 1)?;
    store.check_schema().await?;
    match tokens::create(&store, None, request).await {
        Ok(made) => Ok(made),
        Err(TokenError::Refused(problems)) => {
            let list: Vec<_> = problems.iter().map(|p| format!("\n  {}: {}", p.pointer, p.reason)).collect();
            anyhow::bail!("refused:{}", list.concat())
        }
        Err(TokenError::Store(error)) => Err(error.into()),
    }
}

fn table(value: &Value) -> anyhow::Result<()> {
    let tokens: Vec<TokenInfo> = read(value)?;
    let row = |t: &TokenInfo| {
        let state = t.revoked_at.map_or_else(|| "good".to_owned(), |at| format!("revoked {}", output::time(at)));
        vec![
            t.id.to_string(),
            t.name.clone(),
            output::maybe(t.producer.as_ref()),
            t.scopes.join(","),
            output::time(t.created_at),
            state,
        ]
    };
    output::table(
        &["ID", "NAME", "PRODUCER", "SCOPES", "CREATED", "STATE"],
        &tokens.iter().map(row).collect::<Vec<_>>(),
    )
}
