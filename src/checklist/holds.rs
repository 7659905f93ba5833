//! Why something is not being sent: listed, opened and closed by people.

use serde_json::json;

use super::{ChecklistError, Page, key, size};
use crate::{
    domain::{
        act::Act,
        hold::HoldScope,
        ids::{HoldId, TenantId},
    },
    store::{
        Store,
        acts::{self, NewAct},
        campaigns::{Person, batches::APPROVAL},
        commit,
        holds_list::{self, Closed, HoldRow},
        registry::Snapshot,
    },
};

/// A page of holds.
pub async fn list_holds(
    store: &Store,
    tenant: TenantId,
    open: Option<bool>,
    limit: Option<u16>,
    after: Option<&str>,
) -> Result<Page<HoldRow>, ChecklistError> {
    let (limit, before) = (size(limit), key(after)?.map(HoldId));
    let rows = holds_list::list(&mut *store.acquire().await?, tenant, open, before, i64::from(limit) + 1).await?;
    Ok(Page::cut(rows, limit, |row| row.id.to_string()))
}

/// A hold.
pub async fn find_hold(store: &Store, tenant: TenantId, hold: HoldId) -> Result<Option<HoldRow>, ChecklistError> {
    Ok(holds_list::find(&mut *store.acquire().await?, tenant, hold).await?)
}

/// Opens a hold in the name of `by` over something of the tenant's, or over everybody when `everybody` is set; `None` when
/// there is no such thing.
pub async fn open_hold(
    store: &Store,
    snapshot: &Snapshot,
    tenant: TenantId,
    everybody: bool,
    scope: &HoldScope,
    (by, reason): (&Person, &str),
) -> Result<Option<HoldId>, ChecklistError> {
    let mut tx = store.begin().await?;
    let mine = |owner: Option<TenantId>| owner == Some(tenant);
    let of_account = |id| snapshot.accounts.get(id).map(|account| account.tenant);
    let (known, owner) = match scope {
        HoldScope::Everything => (everybody, None),
        HoldScope::Provider(name) => {
            (everybody && snapshot.accounts.values().any(|account| account.provider == *name), None)
        }
        HoldScope::Portfolio(name) => {
            let of = |portfolio: &String| format!("{tenant}/{portfolio}") == *name;
            let has = snapshot.accounts.values().any(|a| a.tenant == tenant && a.portfolio.as_ref().is_some_and(of));
            (has, Some(tenant))
        }
        HoldScope::Account(id) => (mine(of_account(id)), Some(tenant)),
        HoldScope::Number(id) | HoldScope::NumberLane(id, _) => {
            (mine(snapshot.numbers.get(id).map(|number| number.account.tenant)), Some(tenant))
        }
        HoldScope::Template(id) => {
            (mine(snapshot.templates.get(id).and_then(|template| of_account(&template.account))), Some(tenant))
        }
        HoldScope::Batch(id) => (holds_list::owns_batch(&mut tx, tenant, *id).await?, Some(tenant)),
    };
    if !known {
        return Ok(None);
    }
    let hold = holds_list::open(&mut tx, owner, scope, &by.name, reason).await?;
    acts::record(&mut tx, &NewAct::on(tenant, by, Act::HoldOpen, scope.to_string(), reason)).await?;
    commit(tx, "commit a hold").await?;
    Ok(Some(hold))
}

/// Closes a hold in the name of `by`. A hold on everybody needs the caller to be one who may speak for `everybody`.
pub async fn close_hold(
    store: &Store,
    tenant: TenantId,
    everybody: bool,
    hold: HoldId,
    by: &Person,
    reason: &str,
) -> Result<Closed, ChecklistError> {
    let mut tx = store.begin().await?;
    let found = holds_list::find(&mut tx, tenant, hold).await?;
    let closed = holds_list::close(&mut tx, tenant, everybody, hold, by, reason).await?;
    if let (Closed::Now, Some(found)) = (closed, found) {
        let act = if found.cause == APPROVAL { Act::Approve } else { Act::HoldClose };
        // By what it covered, so that a batch shows it.
        let filter = json!({ "hold": hold.0, "cause": found.cause });
        let act = NewAct { filter, count: found.parked, ..NewAct::on(tenant, by, act, found.scope, reason) };
        acts::record(&mut tx, &act).await?;
        commit(tx, "commit the end of a hold").await?;
    }
    Ok(closed)
}
