-- Batches that send failed messages of others again; see mod.rs.
WITH given AS MATERIALIZED (
    SELECT g.*, b.number_id, b.lane, coalesce($7, now()) AS starts, b.expires_at - b.send_at AS life
    FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::uuid[]) AS g(of, batch_id, messages, turn_group)
    JOIN batch b ON b.batch_id = g.of
), chosen AS MATERIALIZED (
    SELECT m.*, g.batch_id AS again, g.number_id, g.lane, g.turn_group, g.starts
    FROM unnest($5::uuid[], $6::int[]) AS c(of, seq)
    JOIN given g ON g.of = c.of
    JOIN message m ON m.batch_id = c.of AND m.seq = c.seq
), batches AS (
    INSERT INTO batch (batch_id, tenant_id, producer, job_id, campaign, account_id, number_id, template_id, lane, params,
                       notify, state, recipients, send_at, expires_at, windows, resend_of, resend)
    SELECT g.batch_id, b.tenant_id, b.producer, b.job_id, b.campaign, b.account_id, b.number_id, b.template_id, b.lane,
           b.params, b.notify, 'planned', g.messages, g.starts, coalesce($8, g.starts + g.life), b.windows, g.of, $9
    FROM given g JOIN batch b ON b.batch_id = g.of
), tallies AS (
    INSERT INTO batch_tally (batch_id, pending) SELECT batch_id, messages FROM given
), works AS (
    INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at)
    SELECT again, seq, number_id, lane, 'ready', turn_group, starts FROM chosen
), copies AS (
    INSERT INTO message (batch_id, seq, recipient, ref, time_zone, params)
    SELECT again, seq, recipient, ref, time_zone, params FROM chosen
)
UPDATE message m SET resent_in = c.again FROM chosen c WHERE m.batch_id = c.batch_id AND m.seq = c.seq
