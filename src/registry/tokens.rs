//! Bearer tokens: made once, shown once, kept as SHA-256.
//!
//! A token has 256 random bits, so its plain hash can be looked up: there is nothing to guess and no timing to learn
//! from, because what is compared is the hash of a value the caller cannot steer.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    domain::{ids::TenantId, named},
    registry::{Problem, file::DEFAULT_TENANT},
    store::{
        Connection, Store, StoreError, accounts, commit,
        registry::bump,
        tokens::{self, NewToken, TokenRow},
    },
};

/// So that a token found in a log is known for what it is.
const PREFIX: &str = "cdt_";

named! {
    /// What a token may do.
    pub enum Scope {
        /// Publish jobs, import files, keep audience groups.
        Publish = "publish",
        /// Open and close holds, decide about uncertain messages, change and run campaigns, record and lift suppressions.
        Operate = "operate",
        /// See lists and the registry.
        Read = "read",
        /// See whole addresses in them.
        Pii = "pii",
        /// Change the registry and tokens. Includes every other scope but `pii`.
        Admin = "admin",
    }
}

/// What a new token should be.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The producer it speaks for, registered when it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// Whose it is; absent is the caller's tenant (`default` on the command line).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// A token that was just made.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewlyMade {
    /// Its id.
    pub id: Uuid,
    /// The token. Shown once.
    pub token: String,
}

/// A token as lists show it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenInfo {
    /// Its id.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
    /// The producer it speaks for.
    pub producer: Option<String>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Until when it was good.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token.
    pub id: Uuid,
    /// Its name, which stands in records of what it did.
    pub name: String,
    /// Whose it is: every query starts from it.
    pub tenant: TenantId,
    /// The producer it speaks for.
    pub producer: Option<String>,
    scopes: Vec<Scope>,
}

impl Caller {
    /// Whether the token may do this. An admin may do all but see whole addresses.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || (scope != Scope::Pii && self.scopes.contains(&Scope::Admin))
    }
}

impl From<TokenRow> for Caller {
    fn from(row: TokenRow) -> Self {
        // A scope of a later version is not one this version can grant.
        let scopes = row.scopes.iter().filter_map(|s| s.parse().ok()).collect();
        let (id, name, tenant, producer) = (row.id, row.name, row.tenant, row.producer);
        Self { id, name, tenant, producer, scopes }
    }
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The request cannot be met.
    #[error("the token was refused")]
    Refused(Vec<Problem>),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a token. `caller` is the tenant of who asks; absent when asked on the database itself.
pub async fn create(store: &Store, caller: Option<TenantId>, request: &TokenRequest) -> Result<NewlyMade, TokenError> {
    let mut problems = check(request);
    let mut transaction = store.begin().await?;
    accounts::lock(&mut transaction).await?;
    let default = accounts::find_tenant(&mut transaction, DEFAULT_TENANT).await?;
    let tenant = match (&request.tenant, caller) {
        (None, Some(own)) => Some(own),
        (name, _) => {
            let name = name.as_deref().unwrap_or(DEFAULT_TENANT);
            accounts::find_tenant(&mut transaction, name).await?
        }
    };
    let Some(tenant) = tenant else {
        problems.push(Problem::new("/tenant", "unknown_tenant", "there is no such tenant: register it first"));
        return Err(TokenError::Refused(problems));
    };
    if caller.is_some_and(|own| own != tenant && Some(own) != default) {
        problems.push(Problem::new(
            "/tenant",
            "other_tenant",
            "only a token of the tenant `default` may make tokens for others",
        ));
    }
    if let Some(name) = &request.producer {
        match accounts::find_producer(&mut transaction, name).await? {
            Some(owner) if owner != tenant => {
                problems.push(Problem::new("/producer", "other_tenant", "this producer belongs to another tenant"));
            }
            None if problems.is_empty() => {
                accounts::insert_producer(&mut transaction, name, tenant).await?;
                bump(&mut transaction).await?;
            }
            Some(_) | None => {}
        }
    }
    if !problems.is_empty() {
        return Err(TokenError::Refused(problems));
    }
    let made = keep(&mut transaction, tenant, request).await?;
    commit(transaction, "commit a token").await?;
    Ok(made)
}

async fn keep(connection: &mut Connection, tenant: TenantId, request: &TokenRequest) -> Result<NewlyMade, StoreError> {
    let token = format!("{PREFIX}{}", hex::encode(rand::random::<[u8; 32]>()));
    let scopes: Vec<String> = request.scopes.iter().map(ToString::to_string).collect();
    let new = NewToken {
        tenant,
        name: request.name.trim(),
        producer: request.producer.as_deref(),
        hash: &hash(&token),
        scopes: &scopes,
    };
    let id = tokens::insert(connection, &new).await?;
    Ok(NewlyMade { id, token })
}

fn check(request: &TokenRequest) -> Vec<Problem> {
    let mut problems = Vec::new();
    if request.name.trim().is_empty() {
        problems.push(Problem::new("/name", "empty", "a token needs a name"));
    }
    if request.scopes.is_empty() {
        let all: Vec<_> = Scope::ALL.iter().map(|s| s.as_str()).collect();
        let reason = format!("a token needs a scope: {}", all.join(", "));
        problems.push(Problem::new("/scopes", "empty", reason));
    }
    if let Some(name) = &request.producer
        && !is_producer_name(name)
    {
        problems.push(Problem::new("/producer", "ill_formed", "a producer's name is 1 to 64 of a-z, 0-9 and -"));
    }
    problems
}

fn is_producer_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// What is kept of a token.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Who holds the token of this hash.
pub async fn authenticate(store: &Store, hash: &[u8; 32]) -> Result<Option<Caller>, StoreError> {
    let mut connection = store.acquire().await?;
    Ok(tokens::find(&mut connection, hash).await?.map(Caller::from))
}

/// A tenant's tokens, the newest first.
pub async fn list(store: &Store, tenant: TenantId) -> Result<Vec<TokenInfo>, StoreError> {
    let mut connection = store.acquire().await?;
    let rows = tokens::list(&mut connection, tenant).await?;
    let shown = rows.into_iter().map(|row| TokenInfo {
        id: row.id,
        name: row.name,
        producer: row.producer,
        scopes: row.scopes,
        created_at: row.created_at,
        revoked_at: row.revoked_at,
    });
    Ok(shown.collect())
}

/// Makes a token useless; says whether there was one to revoke.
pub async fn revoke(store: &Store, tenant: TenantId, id: Uuid) -> Result<bool, StoreError> {
    let mut connection = store.acquire().await?;
    tokens::revoke(&mut connection, tenant, id).await
}
