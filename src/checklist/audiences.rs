//! The audience groups there are.

use super::{ChecklistError, Page, size};
use crate::{
    domain::ids::TenantId,
    store::{
        Store,
        audiences::{self, AudienceRow},
    },
};

/// A page of audience groups, by name.
pub async fn list_audiences(
    store: &Store,
    tenant: TenantId,
    limit: Option<u16>,
    after: Option<&str>,
) -> Result<Page<AudienceRow>, ChecklistError> {
    let limit = size(limit);
    let after = after.unwrap_or_default();
    let rows = audiences::list(&mut *store.acquire().await?, tenant, after, i64::from(limit) + 1).await?;
    Ok(Page::cut(rows, limit, |row| row.name.clone()))
}
