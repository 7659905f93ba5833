//! Messages of a list by the list's own time: sent by `accepted_at` and failed by `failed_at`, the latest first; pending and
//! uncertain by `due_at`, the next first.
//!
//! Each number, or each of the few batches that the filter leaves, is walked by an index of a narrow table that has the
//! time; the first rows of each are merged. So a page costs what it has, wherever in fourteen months it lies. Where the
//! numbers are many, one index of the time alone is walked. What was accepted is kept in groups: the list goes by the time
//! of a group, which for nearly all is that of its messages, and differs by less than an hour for those of whose acceptance
//! callbacks told.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder};

use super::{
    lists::push_states,
    which::{List, MessageFilter},
};
use crate::domain::ids::MessageKey;

/// Numbers that are walked one by one; with more, all rows of the time are walked.
const FEW_NUMBERS: usize = 64;

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

/// Of each number or batch the first rows, and of these the first. What is asked of a group or of its batch is asked before
/// its messages are looked at.
fn push_narrow(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    let is_sent = filter.list == List::Sent;
    let (time, seq) = if is_sent { ("d.first_at", "s.seq") } else { ("d.failed_at", "d.seq") };
    sql.push("k AS MATERIALIZED (SELECT r.at, r.batch_id, r.seq FROM ");
    let of_one = push_each(sql, filter);
    sql.push("(SELECT d.at, d.batch_id, ").push(seq).push(" FROM (SELECT ").push(time).push(" AS at, d.batch_id, ");
    sql.push(if is_sent { "d.seqs FROM sent_group d" } else { "d.seq FROM failed_message d" });
    push_batch(sql, filter);
    sql.push(" WHERE ").push(of_one.unwrap_or("true"));
    if of_one != Some(NUMBER) {
        sql.push(" AND d.number_id = ANY(").push_bind(numbers(filter)).push(")");
    }
    filter.span.push(sql, time, if is_sent { GROUP_S } else { 0.0 });
    if !is_sent {
        push_code(sql, filter, "d.code");
    }
    push_from(sql, filter, time, "<=");
    sql.push(" ORDER BY ").push(time).push(" DESC, d.batch_id DESC OFFSET 0) d");
    push_messages(sql, filter, seq);
    sql.push(" WHERE true");
    push_beyond(sql, filter, ("d.at", seq), "<");
    sql.push(" ORDER BY d.at DESC, d.batch_id DESC, ").push(seq).push(" LIMIT ").push_bind(filter.limit);
    sql.push(") r ORDER BY r.at DESC, r.batch_id DESC, r.seq LIMIT ").push_bind(filter.limit).push(")");
}

const NUMBER: &str = "d.number_id = o.id";

/// Each batch or number that is walked for itself, as `o`, and how its rows are known; none when the numbers are so many that
/// all rows are walked.
fn push_each(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) -> Option<&'static str> {
    let numbers = numbers(filter);
    let of_one = match filter.batches() {
        Some(batches) => {
            sql.push("unnest(").push_bind(batches);
            "d.batch_id = o.id"
        }
        None if numbers.len() <= FEW_NUMBERS => {
            sql.push("unnest(").push_bind(numbers);
            NUMBER
        }
        None => return None,
    };
    sql.push(") AS o(id) CROSS JOIN LATERAL ");
    Some(of_one)
}

/// A list by time is always one of numbers: those of the tenant, if not fewer.
fn numbers(filter: &MessageFilter) -> Vec<i32> {
    filter.of.numbers.clone().unwrap_or_default()
}

/// The messages of `d` that are in the list. OFFSET 0 keeps one from being found by reading its whole batch.
fn push_messages(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter, seq: &str) {
    let is_sent = filter.list == List::Sent;
    if is_sent {
        sql.push(" CROSS JOIN LATERAL unnest(d.seqs) AS s(seq)");
    } else if filter.state.is_none() {
        return;
    }
    sql.push(" CROSS JOIN LATERAL (SELECT FROM message m WHERE m.batch_id = d.batch_id AND m.seq = ").push(seq);
    push_states(sql, filter);
    if is_sent {
        filter.span.push(sql, "m.accepted_at", 0.0);
        push_code(sql, filter, "m.code");
    }
    sql.push(" OFFSET 0) m");
}

/// OFFSET 0 keeps a batch from being found by reading all.
fn push_batch(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter) {
    if filter.of.is_narrow() {
        sql.push(" CROSS JOIN LATERAL (SELECT FROM batch b WHERE b.batch_id = d.batch_id");
        filter.of.push_narrow(sql);
        sql.push(" OFFSET 0) b");
    }
}

fn push_code(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter, column: &str) {
    if let Some(code) = &filter.code {
        sql.push(" AND ").push(column).push(" = ").push_bind(code.clone());
    }
}

/// Not what comes before the place: as far as an index of times and batches can tell.
fn push_from(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter, time: &str, operator: &str) {
    if let Some((at, key)) = place(filter) {
        sql.push(" AND (").push(time).push(", d.batch_id) ").push(operator).push(" (");
        sql.push_bind(at).push(", ").push_bind(key.batch_id.0).push(")");
    }
}

/// Only what comes after the place.
fn push_beyond(sql: &mut QueryBuilder<Postgres>, filter: &MessageFilter, (time, seq): (&str, &str), operator: &str) {
    if let Some((at, key)) = place(filter) {
        sql.push(" AND ((").push(time).push(", d.batch_id) ").push(operator).push(" (");
        sql.push_bind(at).push(", ").push_bind(key.batch_id.0);
        sql.push(") OR ").push(seq).push(" > ").push_bind(key.seq).push(")");
    }
}

fn place(filter: &MessageFilter) -> Option<(DateTime<Utc>, MessageKey)> {
    filter.after.and_then(|place| Some((place.at?, place.key)))
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
        sql.push(") e WHERE g.number_id = ANY(").push_bind(numbers(filter));
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
    push_batch(sql, filter);
    if filter.code.is_some() {
        sql.push(" CROSS JOIN LATERAL (SELECT FROM message m WHERE m.batch_id = d.batch_id AND m.seq = d.seq");
        push_code(sql, filter, "m.code");
        sql.push(" OFFSET 0) m");
    }
    sql.push(" WHERE ").push(which).push(" AND d.number_id = ANY(");
    sql.push_bind(numbers(filter)).push(")");
    if let Some(batches) = filter.batches() {
        sql.push(" AND d.batch_id = ANY(").push_bind(batches).push(")");
    }
    filter.span.push(sql, "d.wake_at", 0.0);
    push_from(sql, filter, "d.wake_at", ">=");
    push_beyond(sql, filter, ("d.wake_at", "d.seq"), ">");
    sql.push(" ORDER BY d.wake_at, d.batch_id, d.seq LIMIT ").push_bind(filter.limit);
}
