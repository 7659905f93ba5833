//! What may be an alarm, a statement for each question. Run every few seconds by one process, so none reads messages: they
//! go by keys, by narrow tables, or by indexes that hold only what is asked for, and count rows up to [`COUNTED`].

use std::time::Duration;

use sqlx::PgConnection;

use crate::{
    domain::{
        alarm::{AlarmKind, COUNTED, Sign},
        ids::{NumberId, TenantId},
    },
    store::{Doing as _, StoreError},
};

/// Latest failures that are looked at of each number: a batch that fails is among them.
const LATEST: i64 = 500;
/// Turns that are looked at of a number without a worker.
const TURNS: i32 = 1000;

/// Open holds that only a person ends.
pub async fn holds(connection: &mut PgConnection) -> Result<Vec<Sign>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT h.id, h.tenant_id, h.scope, h.cause, h.detail, h.since,
                  coalesce(
                      (SELECT a.name FROM account a
                       WHERE a.id = CASE WHEN h.scope LIKE 'account:%' THEN split_part(h.scope, ':', 2)::int END),
                      (SELECT n.business_number FROM business_number n
                       WHERE n.id = CASE WHEN h.scope LIKE 'number:%' THEN split_part(h.scope, ':', 2)::int END),
                      (SELECT t.name FROM template t
                       WHERE t.id = CASE WHEN h.scope LIKE 'template:%' THEN split_part(h.scope, ':', 2)::int END),
                      '') AS "name!",
                  coalesce(
                      -- What waits for a batch is known; of a wider scope only what was found waiting is parked.
                      (SELECT t.pending::bigint FROM batch_tally t
                       WHERE t.batch_id = CASE WHEN h.scope LIKE 'batch:%' THEN split_part(h.scope, ':', 2)::uuid END),
                      (SELECT count(*) FROM (SELECT FROM work w WHERE w.hold_id = h.id LIMIT $1) w)) AS "count!"
           FROM hold h WHERE h.closed_at IS NULL AND h.resume IN ('person', 'credentials')"#,
        COUNTED
    )
    .fetch_all(connection)
    .await
    .doing("look for holds that a person must end")?;
    let signs = rows.into_iter().map(|row| Sign {
        kind: AlarmKind::Hold,
        subject: format!("hold:{}", row.id),
        tenant: row.tenant_id.map(TenantId),
        scope: row.scope,
        name: row.name,
        detail: if row.detail.is_empty() { row.cause } else { format!("{}: {}", row.cause, row.detail) },
        count: row.count,
        of: 0,
        since: Some(row.since),
        goes_on: true,
    });
    Ok(signs.collect())
}

/// Batches with failures in the last `within`, and those that are alarms already.
pub async fn failing(connection: &mut PgConnection, within: Duration) -> Result<Vec<Sign>, StoreError> {
    let rows = sqlx::query!(
        r#"
        WITH failing AS (
            SELECT f.batch_id
            FROM business_number n
            CROSS JOIN LATERAL (
                SELECT f.batch_id FROM failed_message f
                WHERE f.number_id = n.id AND f.failed_at > now() - make_interval(secs => $1)
                  -- A batch is named after its time: the months that can fail now, and no other partitions.
                  AND f.batch_id > uuid_floor(now() - interval '40 days') AND f.batch_id < uuid_floor(now() + interval '1 day')
                ORDER BY f.failed_at DESC LIMIT $2
            ) f
            UNION
            SELECT split_part(a.subject, ':', 2)::uuid FROM alarm a WHERE a.kind = 'batch_failing' AND a.cleared_at IS NULL
        )
        SELECT b.batch_id, b.tenant_id, b.producer, b.job_id, coalesce(b.campaign, '') AS "campaign!",
               t.pending > 0 AS "goes_on!", (t.failed + t.expired)::bigint AS "failed!",
               (t.failed + t.expired + t.accepted + t.sent + t.delivered + t.read)::bigint AS "ended!"
        FROM failing f
        -- By key, however many the planner expects: both tables are as long as history.
        CROSS JOIN LATERAL (SELECT * FROM batch_tally t WHERE t.batch_id = f.batch_id LIMIT 1) t
        CROSS JOIN LATERAL (SELECT * FROM batch b WHERE b.batch_id = f.batch_id LIMIT 1) b
        "#,
        within.as_secs_f64(),
        LATEST
    )
    .fetch_all(connection)
    .await
    .doing("look for batches that fail")?;
    let signs = rows.into_iter().map(|row| Sign {
        kind: AlarmKind::BatchFailing,
        subject: format!("batch:{}", row.batch_id),
        tenant: Some(TenantId(row.tenant_id)),
        scope: format!("batch:{}", row.batch_id),
        name: row.campaign,
        detail: format!("{} of {} failed, job {} of {}", row.failed, row.ended, row.job_id, row.producer),
        count: row.failed,
        of: row.ended,
        since: None,
        goes_on: row.goes_on,
    });
    Ok(signs.collect())
}

/// Campaigns that fired late in the last hour, or that are due and have not fired.
pub async fn late_firings(connection: &mut PgConnection) -> Result<Vec<Sign>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT c.id, c.tenant_id, c.key, count(*) AS "count!", min(late.fire_at) AS "since!",
               extract(epoch FROM max(late.by))::bigint AS "late_s!", bool_or(late.is_due) AS "is_due!"
        FROM (
            SELECT o.campaign_id, o.fire_at, o.recorded_at - o.fire_at AS by, false AS is_due
            FROM occurrence o
            WHERE o.recorded_at > now() - interval '1 hour' AND o.run = ''
              AND o.recorded_at - o.fire_at > interval '1 minute'
              AND (o.reason IS NULL OR o.reason IN ('late', 'missed'))
            UNION ALL
            SELECT id, next_fire_at, now() - next_fire_at, true FROM campaign
            WHERE next_fire_at < now() - interval '1 minute' AND state = 'active'
        ) late
        JOIN campaign c ON c.id = late.campaign_id
        GROUP BY c.id
        "#
    )
    .fetch_all(connection)
    .await
    .doing("look for campaigns that fire late")?;
    let signs = rows.into_iter().map(|row| Sign {
        kind: AlarmKind::LateFiring,
        subject: format!("campaign:{}", row.id),
        tenant: Some(TenantId(row.tenant_id)),
        scope: format!("campaign:{}", row.key),
        name: row.key,
        detail: if row.is_due {
            format!("due for {} s and not fired: no process with the role campaigns runs", row.late_s)
        } else {
            format!("fired, or was skipped, up to {} s late", row.late_s)
        },
        count: row.count,
        of: 0,
        since: Some(row.since),
        goes_on: row.is_due,
    });
    Ok(signs.collect())
}

/// What accounts had accepted longer than `silence` ago, and since when nothing was heard. One that is an alarm is found
/// until something is heard, however much it had accepted.
pub async fn silent(connection: &mut PgConnection, silence: Duration) -> Result<Vec<Sign>, StoreError> {
    let rows = sqlx::query!(
        r#"
        WITH heard AS MATERIALIZED (
            SELECT n.account_id, max(last.minute) AS at
            FROM business_number n
            LEFT JOIN LATERAL (
                SELECT t.minute FROM number_traffic t WHERE t.number_id = n.id AND t.heard > 0
                ORDER BY t.minute DESC LIMIT 1
            ) last ON true
            GROUP BY n.account_id
        )
        SELECT a.id, a.tenant_id, a.name, coalesce(sum(t.accepted), 0)::bigint AS "accepted!", min(t.since) AS since,
               coalesce(heard.at < date_trunc('minute', al.raised_at), true) AS "goes_on!"
        FROM heard
        JOIN account a ON a.id = heard.account_id
        JOIN business_number n ON n.account_id = a.id
        CROSS JOIN LATERAL (
            SELECT sum(t.accepted) AS accepted, min(t.minute) AS since FROM number_traffic t
            WHERE t.number_id = n.id AND t.accepted > 0
              AND t.minute > coalesce(heard.at, '-infinity') AND t.minute <= now() - make_interval(secs => $1)
        ) t
        LEFT JOIN alarm al ON al.kind = 'webhook_silent' AND al.subject = 'account:' || a.id AND al.cleared_at IS NULL
        WHERE al.id IS NOT NULL OR t.accepted > 0
        GROUP BY a.id, heard.at, al.raised_at
        "#,
        silence.as_secs_f64()
    )
    .fetch_all(connection)
    .await
    .doing("look for accounts whose provider is silent")?;
    let signs = rows.into_iter().map(|row| Sign {
        kind: AlarmKind::WebhookSilent,
        subject: format!("account:{}", row.id),
        tenant: Some(TenantId(row.tenant_id)),
        scope: format!("account:{}", row.id),
        name: row.name,
        detail: "messages were accepted and no callback came: is the webhook registered, does it reach `serve`?"
            .to_owned(),
        count: row.accepted,
        of: 0,
        since: row.since,
        goes_on: row.goes_on,
    });
    Ok(signs.collect())
}

/// Numbers whose calls are in doubt beyond the grace, which ends `grace` after the call; the message fails `give_up` after
/// it.
pub async fn uncertain(
    connection: &mut PgConnection,
    grace: Duration,
    give_up: Duration,
) -> Result<Vec<Sign>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT n.id, a.tenant_id, n.business_number, doubt.count AS "count!",
                  doubt.first - make_interval(secs => $2) AS "since!"
           FROM business_number n
           JOIN account a ON a.id = n.account_id
           CROSS JOIN LATERAL (
               SELECT count(*) AS count, min(w.wake_at) AS first
               FROM (SELECT w.wake_at FROM work w
                     WHERE w.stage = 'unsure' AND w.number_id = n.id AND w.wake_at > now() + make_interval(secs => $1)
                     ORDER BY w.wake_at LIMIT $3) w
           ) doubt
           WHERE doubt.count > 0"#,
        grace.as_secs_f64(),
        give_up.as_secs_f64(),
        COUNTED
    )
    .fetch_all(connection)
    .await
    .doing("look for messages that are uncertain for long")?;
    let signs = rows.into_iter().map(|row| Sign {
        kind: AlarmKind::Uncertain,
        subject: format!("number:{}", row.id),
        tenant: Some(TenantId(row.tenant_id)),
        scope: format!("number:{}", row.id),
        name: row.business_number,
        detail: "nobody knows whether they were sent: resolve them with evidence".to_owned(),
        count: row.count,
        of: 0,
        since: Some(row.since),
        goes_on: true,
    });
    Ok(signs.collect())
}

/// What is to be published.
pub async fn outbox(connection: &mut PgConnection) -> Result<Option<Sign>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "count!", min(created_at) AS since
           FROM (SELECT created_at FROM outbox ORDER BY id LIMIT $1) o"#,
        COUNTED
    )
    .fetch_one(connection)
    .await
    .doing("look how old the outbox is")?;
    Ok((row.count > 0).then(|| Sign {
        kind: AlarmKind::Outbox,
        subject: "outbox".to_owned(),
        tenant: None,
        scope: "outbox".to_owned(),
        name: String::new(),
        detail:
            "events, answers and firings are not published: is RabbitMQ there, does a process with the role upkeep run?"
                .to_owned(),
        count: row.count,
        of: 0,
        since: row.since,
        goes_on: true,
    }))
}

/// Batches whose tally was not what a recount found.
pub async fn tallies(connection: &mut PgConnection) -> Result<Vec<Sign>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT d.batch_id AS "batch_id!", b.tenant_id AS "tenant_id?", d.detail AS "detail!", d.since AS "since!"
           FROM tally_difference d
           LEFT JOIN LATERAL (SELECT b.tenant_id FROM batch b WHERE b.batch_id = d.batch_id LIMIT 1) b ON true"#
    )
    .fetch_all(connection)
    .await
    .doing("look for tallies that differ")?;
    let signs = rows.into_iter().map(|row| Sign {
        kind: AlarmKind::Tally,
        subject: format!("batch:{}", row.batch_id),
        tenant: row.tenant_id.map(TenantId),
        scope: format!("batch:{}", row.batch_id),
        name: String::new(),
        detail: format!("a recount differs, and nothing was changed: {}", row.detail),
        count: 1,
        of: 0,
        since: Some(row.since),
        goes_on: true,
    });
    Ok(signs.collect())
}

/// Those of `numbers` that have due work and no living worker. Since when is only known by looking: work may be old that
/// was held.
pub async fn unserved(connection: &mut PgConnection, numbers: &[NumberId]) -> Result<Vec<Sign>, StoreError> {
    let numbers: Vec<i32> = numbers.iter().map(|number| number.0).collect();
    let rows = sqlx::query_file!("src/store/alarms/unserved.sql", &numbers, TURNS, COUNTED)
        .fetch_all(connection)
        .await
        .doing("look for numbers without a worker")?;
    let signs = rows.into_iter().map(|row| Sign {
        kind: AlarmKind::NoWorker,
        subject: format!("number:{}", row.id),
        tenant: Some(TenantId(row.tenant_id)),
        scope: format!("number:{}", row.id),
        name: row.business_number,
        detail: "due messages, and no process with the role dispatch sends for it".to_owned(),
        count: row.count,
        of: 0,
        since: None,
        goes_on: true,
    });
    Ok(signs.collect())
}
