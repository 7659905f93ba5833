//! Files of recipients: what became of them, row by row.

use uuid::Uuid;

use crate::{
    checklist::{ChecklistError, Page, key, row_key, size},
    domain::{address::Address, ids::TenantId},
    store::{
        Store,
        checklist::imports::{self, ChangedCellRow, ImportRow, RejectedImportRow},
    },
};

/// A page of imports.
pub async fn list_imports(
    store: &Store,
    tenant: TenantId,
    limit: Option<u16>,
    after: Option<&str>,
) -> Result<Page<ImportRow>, ChecklistError> {
    let limit = size(limit);
    let rows = imports::list(&mut *store.acquire().await?, tenant, key(after)?, i64::from(limit) + 1).await?;
    Ok(Page::cut(rows, limit, |row| row.id.to_string()))
}

/// One import.
pub async fn find_import(store: &Store, tenant: TenantId, id: Uuid) -> Result<Option<ImportRow>, ChecklistError> {
    Ok(imports::find(&mut *store.acquire().await?, tenant, id).await?)
}

/// A page of the rows of an import that were refused; none when there is no such import.
pub async fn list_rejected_rows(
    store: &Store,
    tenant: TenantId,
    import: Uuid,
    limit: Option<u16>,
    after: Option<&str>,
) -> Result<Option<Page<RejectedImportRow>>, ChecklistError> {
    let (mut connection, limit) = (store.acquire().await?, size(limit));
    if imports::find(&mut connection, tenant, import).await?.is_none() {
        return Ok(None);
    }
    let rows = imports::rejected_rows(&mut connection, import, row_key(after)?, i64::from(limit) + 1).await?;
    Ok(Some(Page::cut(rows, limit, |r| format!("{}:{}", r.row, r.field))))
}

/// A page of the cells that a spreadsheet took for numbers; none when there is no such import. Addresses are masked
/// unless they may be seen.
pub async fn list_changed_cells(
    store: &Store,
    tenant: TenantId,
    import: Uuid,
    sees_addresses: bool,
    limit: Option<u16>,
    after: Option<&str>,
) -> Result<Option<Page<ChangedCellRow>>, ChecklistError> {
    let (mut connection, limit) = (store.acquire().await?, size(limit));
    if imports::find(&mut connection, tenant, import).await?.is_none() {
        return Ok(None);
    }
    let mut rows = imports::changed_cells(&mut connection, import, row_key(after)?, i64::from(limit) + 1).await?;
    for row in rows.iter_mut().filter(|row| row.field == "to" && !sees_addresses) {
        row.given = Address::from_store(std::mem::take(&mut row.given)).masked();
        row.used = Address::from_store(std::mem::take(&mut row.used)).masked();
    }
    Ok(Some(Page::cut(rows, limit, |r| format!("{}:{}", r.row, r.field))))
}
