//! Messages of a list by the list's own time: sent by `accepted_at` and failed by `failed_at`, the latest first; pending and
//! uncertain by `due_at`, the next first.
//!
//! Each number, or each of the few batches that the filter leaves, is walked by an index of a narrow table that has the
//! time; the first rows of each are merged. So a page costs what it has, wherever in fourteen months it lies. What was
//! accepted is kept in groups: the list goes by the time of a group, which for nearly all is that of its messages, and
//! differs by less than an hour for those of whose acceptance callbacks told.

use sqlx::{Postgres, QueryBuilder};

use super::{
    lists::push_states,
    which::{List, MessageFilter},
};

/// How much later than its group's time a message may have been accepted.
const GROUP_S: f64 = 3600.0;

const LATEST_FIRST: &str = " ORDER BY k.at DESC, k.batch_id DESC, k.seq";
const NEXT_FIRST: &str = " ORDER BY k.at, k.batch_id, k.seq";

/// The keys of a page as `k`; returns their order.
pub(super) fn push_keys(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) -> &'static str {
    match filter.list {
        List::Pending | List::Uncertain => {
            push_work(sql, filter);
            NEXT_FIRST
        }
        List::All | List::Sent | List::Failed => {
            push_narrow(sql, filter);
            LATEST_FIRST
        }
    }
}

/// Of each number or batch the first rows, and of these the first.
fn push_narrow(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    let is_sent = filter.list == List::Sent;
    let (time, seq) = if is_sent { ("d.first_at", "s.seq") } else { ("d.failed_at", "d.seq") };
    sql.push("k AS MATERIALIZED (SELECT r.at, r.batch_id, r.seq FROM unnest(");
    let batches = filter.batches();
    let is_by_batch = batches.is_some();
    match batches {
        Some(batches) => sql.push_bind(batches),
        None => sql.push_bind(filter.of.numbers.clone().unwrap_or_default()),
    };
    sql.push(") AS o(id) CROSS JOIN LATERAL (SELECT ").push(time).push(" AS at, d.batch_id, ").push(seq).push(" FROM ");
    push_tables(sql, filter);
    sql.push(if is_by_batch { " WHERE d.batch_id = o.id" } else { " WHERE d.number_id = o.id" });
    if let (true, Some(numbers)) = (is_by_batch, &filter.of.numbers) {
        sql.push(" AND d.number_id = ANY(").push_bind(numbers.clone()).push(")");
    }
    filter.span.push(sql, time, if is_sent { GROUP_S } else { 0.0 });
    if is_sent {
        filter.span.push(sql, "m.accepted_at", 0.0);
        push_states(sql, filter);
    } else if filter.state.is_some() {
        push_states(sql, filter);
    }
    if let Some(code) = &filter.code {
        sql.push(if is_sent { " AND m.code = " } else { " AND d.code = " }).push_bind(code.clone());
    }
    filter.of.push_narrow(sql);
    push_after(sql, filter, (time, seq), ("<=", "<"));
    sql.push(" ORDER BY ").push(time).push(" DESC, d.batch_id DESC, ").push(seq).push(" LIMIT ");
    sql.push_bind(filter.limit).push(") r ORDER BY r.at DESC, r.batch_id DESC, r.seq LIMIT ");
    sql.push_bind(filter.limit).push(")");
}

/// The narrow table as `d`, with what the filter needs beside it.
fn push_tables(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    if filter.list == List::Sent {
        sql.push("sent_group d CROSS JOIN LATERAL unnest(d.seqs) AS s(seq) JOIN message m ON m.batch_id = d.batch_id AND m.seq = s.seq");
    } else {
        sql.push("failed_message d");
        if filter.state.is_some() {
            sql.push(" JOIN message m ON m.batch_id = d.batch_id AND m.seq = d.seq");
        }
    }
    if filter.of.is_narrow() {
        sql.push(" JOIN batch b ON b.batch_id = d.batch_id");
    }
}

/// Only what comes after the page before: the first comparison is one the index can make.
fn push_after(
    sql: &mut QueryBuilder<Postgres>,
    filter: &MessageFilter,
    (time, seq): (&str, &str),
    (from, beyond): (&str, &str),
) {
    let Some((at, key)) = filter.after.and_then(|place| Some((place.at?, place.key))) else {
        return;
    };
    for (joint, operator) in [(" AND ", from), (" AND (", beyond)] {
        sql.push(joint).push("(").push(time).push(", d.batch_id) ").push(operator).push(" (").push_bind(at);
        sql.push(", ").push_bind(key.batch_id.0).push(")");
    }
    sql.push(" OR ").push(seq).push(" > ").push_bind(key.seq).push(")");
}

/// What is ready, by the groups that the index of the claim has, and what is not.
fn push_work(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    let is_pending = filter.list == List::Pending;
    if is_pending {
        // Jumps from group to group.
        sql.push(
            "g AS ((SELECT w.number_id, w.lane, w.turn_group FROM work w WHERE w.stage = 'ready'
                    ORDER BY w.number_id, w.lane, w.turn_group LIMIT 1)
                   UNION ALL
                   SELECT n.number_id, n.lane, n.turn_group FROM g CROSS JOIN LATERAL (
                       SELECT w.number_id, w.lane, w.turn_group FROM work w
                       WHERE w.stage = 'ready' AND (w.number_id, w.lane, w.turn_group) > (g.number_id, g.lane, g.turn_group)
                       ORDER BY w.number_id, w.lane, w.turn_group LIMIT 1) n), ",
        );
    }
    sql.push("k AS MATERIALIZED (SELECT r.at, r.batch_id, r.seq FROM (");
    if is_pending {
        sql.push("SELECT e.* FROM g CROSS JOIN LATERAL (");
        push_work_rows(
            sql,
            filter,
            "d.stage = 'ready' AND d.number_id = g.number_id AND d.lane = g.lane AND d.turn_group = g.turn_group",
        );
        sql.push(") e WHERE g.number_id = ANY(").push_bind(filter.of.numbers.clone().unwrap_or_default());
        sql.push(") UNION ALL (");
        push_work_rows(sql, filter, "d.stage <> 'ready' AND d.stage <> 'unsure'");
        sql.push(")");
    } else {
        push_work_rows(sql, filter, "d.stage <> 'ready' AND d.stage = 'unsure'");
    }
    sql.push(") r ORDER BY r.at, r.batch_id, r.seq LIMIT ").push_bind(filter.limit).push(")");
}

fn push_work_rows(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter, which: &str) {
    sql.push("SELECT d.wake_at AS at, d.batch_id, d.seq FROM work d");
    if filter.code.is_some() {
        sql.push(" JOIN message m ON m.batch_id = d.batch_id AND m.seq = d.seq");
    }
    if filter.of.is_narrow() {
        sql.push(" JOIN batch b ON b.batch_id = d.batch_id");
    }
    sql.push(" WHERE ").push(which).push(" AND d.number_id = ANY(");
    sql.push_bind(filter.of.numbers.clone().unwrap_or_default()).push(")");
    if let Some(batches) = filter.batches() {
        sql.push(" AND d.batch_id = ANY(").push_bind(batches).push(")");
    }
    if let Some(code) = &filter.code {
        sql.push(" AND m.code = ").push_bind(code.clone());
    }
    filter.span.push(sql, "d.wake_at", 0.0);
    filter.of.push_narrow(sql);
    push_after(sql, filter, ("d.wake_at", "d.seq"), (">=", ">"));
    sql.push(" ORDER BY d.wake_at, d.batch_id, d.seq LIMIT ").push_bind(filter.limit);
}
