-- What became of messages that are locked. Those that are accepted by it join the sent messages of their number, by the hour.
WITH moved AS (
UPDATE message m
SET state = coalesce(u.state, m.state), attempt = u.attempt,
    dropped_attempt = coalesce(u.dropped_attempt, m.dropped_attempt), code = coalesce(u.code, m.code),
    provider_message_id = coalesce(u.provider_message_id, m.provider_message_id),
    accepted_at = CASE WHEN u.accepted THEN coalesce(m.accepted_at, least(u.accepted_at, now())) ELSE m.accepted_at END,
    sent_at = CASE WHEN u.sent THEN coalesce(m.sent_at, u.sent_at, now()) ELSE m.sent_at END,
    delivered_at = CASE WHEN u.delivered THEN coalesce(m.delivered_at, u.delivered_at, now()) ELSE m.delivered_at END,
    read_at = CASE WHEN u.read THEN coalesce(m.read_at, u.read_at, now()) ELSE m.read_at END,
    ended_at = CASE WHEN u.ended THEN coalesce(u.ended_at, now()) ELSE m.ended_at END
FROM unnest($1::uuid[], $2::int[], $3::text[]::message_state[], $4::smallint[], $5::text[], $6::text[],
            $7::bool[], $8::timestamptz[], $9::bool[], $10::timestamptz[], $11::bool[], $12::timestamptz[],
            $13::bool[], $14::timestamptz[], $15::bool[], $16::timestamptz[], $17::smallint[], $18::int[])
    AS u(batch_id, seq, state, attempt, provider_message_id, code, accepted, accepted_at, sent, sent_at,
         delivered, delivered_at, read, read_at, ended, ended_at, dropped_attempt, number_id)
WHERE m.batch_id = u.batch_id AND m.seq = u.seq
RETURNING u.number_id, m.batch_id, m.seq, m.accepted_at
)
INSERT INTO sent_group (number_id, batch_id, first_at, last_at, seqs)
SELECT number_id, batch_id, min(accepted_at), max(accepted_at), array_agg(seq)
FROM moved WHERE number_id IS NOT NULL
GROUP BY number_id, batch_id, date_trunc('hour', accepted_at, 'UTC')
