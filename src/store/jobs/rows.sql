-- All that a group of jobs writes; see rows.rs.
WITH given AS MATERIALIZED (
    SELECT *, coalesce(send_at, now()) AS starts,
           coalesce(expires_at, coalesce(send_at, now()) + life_s * interval '1 second') AS ends
    FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::integer[],
                $8::integer[], $9::text[]::lane[], $10::jsonb[], $11::text[], $12::integer[], $13::integer[],
                $14::uuid[], $15::timestamptz[], $16::timestamptz[], $17::bigint[], $18::jsonb[], $19::uuid[],
                $20::bigint[], $21::timestamptz[], $22::bytea[], $23::jsonb[], $32::boolean[])
         AS g (batch_id, tenant_id, producer, job_id, campaign, account_id, number_id, template_id, lane,
               params, notify, recipients, rejected, import_id, send_at, expires_at, life_s, windows, turn_group,
               hold_id, hold_until, body_sha256, told, has_tally)
), held AS MATERIALIZED (
    -- Under a canary work is not parked: the first messages are taken from it.
    SELECT FROM hold WHERE closed_at IS NULL AND scope = ANY($24) AND resume <> 'canary' LIMIT 1
), taken AS (
    INSERT INTO job (tenant_id, producer, job_id, body_sha256, batch_id)
    SELECT tenant_id, producer, job_id, body_sha256, batch_id FROM given
    WHERE body_sha256 IS NOT NULL AND NOT EXISTS (SELECT FROM held)
    ON CONFLICT (tenant_id, producer, job_id) DO NOTHING
    RETURNING batch_id
), new AS MATERIALIZED (
    -- Without a digest the key was taken earlier in the transaction.
    SELECT * FROM given WHERE body_sha256 IS NULL OR batch_id IN (SELECT batch_id FROM taken)
), batches AS (
    INSERT INTO batch (batch_id, tenant_id, producer, job_id, campaign, account_id, number_id, template_id, lane,
                       params, notify, state, recipients, rejected, import_id, send_at, expires_at, windows)
    SELECT batch_id, tenant_id, producer, job_id, campaign, account_id, number_id, template_id, lane,
           params, string_to_array(notify, ','),
           (CASE WHEN import_id IS NULL THEN 'planned' ELSE 'planning' END)::batch_state,
           recipients, rejected, import_id, starts, ends, windows
    FROM new
), tallies AS (
    INSERT INTO batch_tally (batch_id, pending)
    SELECT batch_id, recipients FROM new WHERE has_tally
), works AS (
    INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at, hold_id)
    SELECT batch_id, seq, number_id, lane, (CASE WHEN hold_id IS NULL THEN 'ready' ELSE 'parked' END)::work_stage,
           -- least() passes over the hold that has no end
           turn_group, CASE WHEN hold_id IS NULL THEN starts ELSE least(hold_until, ends) END, hold_id
    FROM new, generate_series(1, new.recipients) AS seq
), messages AS (
    INSERT INTO message (batch_id, seq, recipient, ref, time_zone, params)
    SELECT * FROM UNNEST($25::uuid[], $26::integer[], $27::text[], $28::text[], $29::text[], $30::jsonb[])
        AS m (batch_id, seq, recipient, ref, time_zone, params)
    WHERE m.batch_id IN (SELECT batch_id FROM new)
), owed AS (
    INSERT INTO outbox (messages)
    SELECT jsonb_agg(one) FROM new, jsonb_array_elements(new.told) AS one HAVING count(*) > 0
)
SELECT batch_id AS "batch_id!", CASE WHEN $31 THEN set_config('synchronous_commit', 'off', true) END AS unflushed FROM new
