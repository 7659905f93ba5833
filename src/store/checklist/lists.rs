//! Messages by list: sent, pending, failed, uncertain, all.
//!
//! The order is the latest due batch first, within a batch by place. Each list walks the batches that can have rows for
//! it: pending and uncertain those of `work`, failed those of `failed_message` (by jumping from batch to batch in the
//! primary key), sent and all those of `batch`. So a list costs what its page has, not what the tables have. A list of a
//! range of time goes by time: [`super::by_time`].

use sqlx::{Connection as _, Executor as _, PgConnection, Postgres, QueryBuilder};

use super::{
    by_time,
    messages::{MessageRow, SHOWN, WHOLE},
    which::{List, MessageFilter},
};
use crate::{
    domain::ids::TenantId,
    store::{Doing as _, StoreError},
};

/// A page of messages, with one row's time of the list where it goes by time.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &MessageFilter,
) -> Result<Vec<MessageRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("WITH RECURSIVE ");
    let order = if filter.is_by_time() {
        by_time::push_keys(&mut sql, filter)
    } else {
        push_batches(&mut sql, tenant, filter);
        push_keys(&mut sql, tenant, filter);
        " ORDER BY k.batch_id DESC, k.seq"
    };
    sql.push(" SELECT ").push(SHOWN).push(", k.at AS list_at FROM k").push(WHOLE).push(order);
    let mut look = connection.begin().await.doing("begin to list messages")?;
    // Indexes give every order. The planner, who knows the size of no batch, would read one whole to sort it.
    look.execute("SET LOCAL enable_sort = off").await.doing("plan a list")?;
    let rows = sql.build_query_as().fetch_all(&mut *look).await.doing("list messages")?;
    look.rollback().await.doing("end a list")?;
    Ok(rows)
}

fn push_keys(sql: &mut QueryBuilder<Postgres>, tenant: TenantId, filter: &MessageFilter) {
    sql.push(", k AS MATERIALIZED (SELECT NULL::timestamptz AS at, r.batch_id, r.seq FROM g");
    if !filter.walks_batches() {
        sql.push(" CROSS JOIN LATERAL (SELECT FROM batch b WHERE b.batch_id = g.batch_id AND b.tenant_id = ");
        sql.push_bind(tenant.0);
        filter.of.push(sql);
        sql.push(" OFFSET 0) b");
    }
    if filter.list.table() == "message" && !filter.is_little() {
        push_tally(sql, filter);
    }
    sql.push(" CROSS JOIN LATERAL (");
    push_rows(sql, filter);
    sql.push(") r LIMIT ").push_bind(filter.limit).push(")");
}

/// A batch that has nothing of the list is passed by instead of being read to its end.
fn push_tally(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    let counted = match filter.state {
        Some(state) => format!("t.{state}"),
        None => filter.list.states().iter().map(|state| format!("t.{state}")).collect::<Vec<_>>().join(" + "),
    };
    if !counted.is_empty() {
        sql.push(" CROSS JOIN LATERAL (SELECT FROM (VALUES (1)) one LEFT JOIN batch_tally t ON t.batch_id = g.batch_id WHERE t.batch_id IS NULL OR ")
            .push(counted)
            .push(" > 0 OFFSET 0) t");
    }
}

/// The batches to look into as `g`, in the order of the list, made one by one as the page needs them.
fn push_batches(sql: &mut QueryBuilder<Postgres>, tenant: TenantId, filter: &MessageFilter) {
    let from = filter.after.map(|place| place.key.batch_id.0);
    let push_from = |sql: &mut QueryBuilder<Postgres>, column: &str| {
        if let Some(from) = from {
            sql.push(" AND ").push(column).push(" <= ").push_bind(from);
        }
        if filter.list == List::All {
            filter.span.push_due(sql, column);
        }
    };
    if let Some(batch) = filter.batch {
        sql.push("g AS (SELECT b.batch_id FROM batch b WHERE b.batch_id = ").push_bind(batch.0);
        push_from(sql, "b.batch_id");
        sql.push(")");
    } else if let Some(recipient) = &filter.recipient {
        sql.push("g AS (SELECT m.batch_id FROM message m WHERE m.recipient = ").push_bind(recipient.clone());
        push_from(sql, "m.batch_id");
        sql.push(" ORDER BY m.batch_id DESC)");
    } else if let Some(reference) = &filter.reference {
        sql.push("g AS (SELECT DISTINCT m.batch_id FROM message m WHERE m.ref = ").push_bind(reference.clone());
        push_from(sql, "m.batch_id");
        sql.push(" ORDER BY m.batch_id DESC)");
    } else if let Some(batches) = &filter.of.batches {
        sql.push("g AS (SELECT b.batch_id FROM unnest(").push_bind(batches.clone());
        sql.push(") AS b(batch_id) WHERE true");
        push_from(sql, "b.batch_id");
        sql.push(" ORDER BY b.batch_id DESC)");
    } else if filter.walks_batches() {
        sql.push("g AS (SELECT b.batch_id FROM batch b WHERE b.tenant_id = ").push_bind(tenant.0);
        filter.of.push(sql);
        push_from(sql, "b.batch_id");
        sql.push(" ORDER BY b.batch_id DESC)");
    } else {
        push_jumps(sql, filter, push_from);
    }
}

/// Jumps over all rows of a batch at once: the next batch is the first key below this one's.
fn push_jumps(
    sql: &mut QueryBuilder<Postgres>,
    filter: &MessageFilter,
    push_from: impl Fn(&mut QueryBuilder<Postgres>, &str),
) {
    let table = filter.list.table();
    let rows = if filter.list == List::Uncertain { " t WHERE t.stage = 'unsure'" } else { " t WHERE true" };
    sql.push("g AS ((SELECT t.batch_id FROM ").push(table).push(rows);
    push_from(sql, "t.batch_id");
    sql.push(" ORDER BY t.batch_id DESC LIMIT 1) UNION ALL SELECT n.batch_id FROM g CROSS JOIN LATERAL (SELECT t.batch_id FROM ")
        .push(table)
        .push(rows)
        .push(" AND t.batch_id < g.batch_id ORDER BY t.batch_id DESC LIMIT 1) n)");
}

/// The rows of one batch that belong to the list.
fn push_rows(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    let table = filter.list.table();
    sql.push("SELECT m.batch_id, m.seq FROM message m");
    let (seq, time) = match filter.list {
        List::All => ("m.seq", None),
        List::Sent => ("m.seq", Some("m.accepted_at")),
        List::Pending | List::Uncertain => ("d.seq", Some("d.wake_at")),
        List::Failed => ("d.seq", Some("d.failed_at")),
    };
    if table != "message" {
        sql.push(" JOIN ")
            .push(table)
            .push(" d ON d.batch_id = m.batch_id AND d.seq = m.seq AND d.batch_id = g.batch_id");
    }
    sql.push(" WHERE m.batch_id = g.batch_id");
    if filter.list == List::Uncertain {
        sql.push(" AND d.stage = 'unsure'");
    }
    if let Some(after) = filter.after {
        sql.push(" AND ").push(seq).push(" > CASE WHEN g.batch_id = ").push_bind(after.key.batch_id.0);
        sql.push(" THEN ").push_bind(after.key.seq).push(" ELSE 0 END");
    }
    if let Some(recipient) = &filter.recipient {
        sql.push(" AND m.recipient = ").push_bind(recipient.clone());
    }
    if let Some(reference) = &filter.reference {
        sql.push(" AND m.ref = ").push_bind(reference.clone());
    }
    if let Some(code) = &filter.code {
        sql.push(" AND m.code = ").push_bind(code.clone());
    }
    if let Some(time) = time {
        filter.span.push(sql, time, 0.0);
    }
    push_states(sql, filter);
    sql.push(" ORDER BY ").push(seq).push(" LIMIT ").push_bind(filter.limit);
}

/// Only messages whose row `m` is in a state of the list.
pub(super) fn push_states(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    if let Some(state) = filter.state {
        sql.push(" AND m.state = ").push_bind(state.as_str()).push("::message_state");
    } else if !filter.list.states().is_empty() {
        sql.push(" AND m.state = ANY(").push_bind(filter.list.states()).push("::message_state[])");
    }
}
