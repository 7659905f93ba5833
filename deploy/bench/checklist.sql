-- :n messages over fourteen months until now, as a life of sending leaves them: one in twenty is a job of its own, the rest
-- are in batches of 100 to 100 000. States, codes, numbers, templates, campaigns and producers are mixed; among them are
-- names that nearly everything has and names that nearly nothing has.
\set ON_ERROR_STOP on
SET synchronous_commit = off;
SET jit = off;
SET maintenance_work_mem = '256MB';
SET work_mem = '64MB';
SELECT setseed(0.42);
SELECT ensure_partitions(now() - interval '14 months', 15);
INSERT INTO producer (name, tenant_id) SELECT p, 1 FROM unnest(ARRAY['shop', 'crm', 'seldom']) p ON CONFLICT DO NOTHING;

-- Indexes that no insert below needs are made at the end: that takes a third of the time.
ALTER TABLE message DROP CONSTRAINT message_once_per_batch;
DROP INDEX message_by_ref;

CREATE TEMP TABLE way AS
SELECT row_number() OVER (ORDER BY n.id) - 1 AS i, n.id AS number_id, n.account_id,
       (SELECT array_agg(t.id ORDER BY t.name) FROM template t WHERE t.account_id = n.account_id) AS templates
FROM business_number n;

CREATE TEMP TABLE made AS
WITH sizes AS (
    SELECT g AS i, (ARRAY[100, 100, 100, 1000, 100, 1000, 100, 10000, 100, 1000, 100, 10000, 100, 1000, 100, 10000, 100, 1000, 100000])[1 + g % 19] AS size
    FROM generate_series(1, :n / 4000) g
), large AS (
    SELECT i, size FROM (SELECT i, size, sum(size) OVER (ORDER BY i) AS total FROM sizes) s WHERE total <= :n - :n / 20
), wanted AS (
    SELECT i, size, random() AS r FROM large
    UNION ALL SELECT 0, rest, random() FROM (SELECT :n - :n / 20 - sum(size) AS rest FROM large) l WHERE rest > 0
    UNION ALL SELECT 1000000 + g, 1, random() FROM generate_series(1, :n / 20) g
), timed AS (
    SELECT i, size, r, now() - interval '14 months' + (now() - (now() - interval '14 months')) * random() AS at FROM wanted
)
SELECT (substr(uuid_floor(t.at)::text, 1, 15) || substr(gen_random_uuid()::text, 16))::uuid AS batch_id, t.i, t.size, t.at,
       w.number_id, w.account_id, w.templates[1 + (t.i / 7) % 3] AS template_id,
       CASE WHEN t.r < 0.0005 THEN 'seldom' WHEN t.r < 0.3 THEN 'crm' ELSE 'shop' END AS producer,
       CASE WHEN t.size > 1 THEN CASE WHEN t.i % 400 = 7 THEN 'once-' || t.i ELSE 'season-' || (t.i % 40) END END AS campaign,
       t.at > now() - interval '1 day' AS is_young
FROM timed t JOIN way w ON w.i = t.i % (SELECT count(*) FROM way);

INSERT INTO batch (batch_id, tenant_id, producer, job_id, campaign, account_id, number_id, template_id, lane, params, state,
                   recipients, send_at, expires_at, created_at)
SELECT m.batch_id, 1, m.producer, 'job-' || m.i, m.campaign, m.account_id, m.number_id, m.template_id, t.category::lane,
       '{"body.shop":"渋谷店"}', 'planned', m.size, m.at, m.at + interval '2 days', m.at
FROM made m JOIN template t ON t.id = m.template_id ORDER BY m.batch_id;
INSERT INTO job (tenant_id, producer, job_id, body_sha256, batch_id, created_at)
SELECT 1, producer, 'job-' || i, sha256(batch_id::text::bytea), batch_id, at FROM made;

-- A number of 80 a second settles twenty at a time.
INSERT INTO message (batch_id, seq, recipient, ref, params, state, attempt, provider_message_id, code, accepted_at, sent_at,
                     delivered_at, read_at, ended_at)
SELECT m.batch_id, s.seq, '+8190' || (10000000 + (m.i * 7919::bigint + s.seq * 104729::bigint) % 70000000),
       CASE WHEN (m.i + s.seq) % 3 = 0 THEN 'crm-' || m.i || '-' || s.seq END,
       '{"body.name":"佐藤"}', k.state, 1, 'wamid.' || m.i || '.' || s.seq, k.code,
       CASE WHEN k.state IN ('accepted', 'sent', 'delivered', 'read') THEN t.at END,
       CASE WHEN k.state IN ('sent', 'delivered', 'read') THEN t.at + interval '1 second' END,
       CASE WHEN k.state IN ('delivered', 'read') THEN t.at + interval '3 seconds' END,
       CASE WHEN k.state = 'read' THEN t.at + interval '10 minutes' END,
       CASE WHEN k.state IN ('failed', 'expired', 'suppressed', 'cancelled') THEN t.at END
FROM (SELECT * FROM made ORDER BY batch_id) m
CROSS JOIN LATERAL generate_series(1, m.size) AS s(seq)
CROSS JOIN LATERAL (SELECT (m.i * 31::bigint + s.seq * 7919::bigint) % 1000 AS lot, m.at + make_interval(secs => ((s.seq - 1) / 20) * 0.25) AS at) t
CROSS JOIN LATERAL (
    SELECT CASE WHEN m.is_young AND t.lot < 300 THEN 'pending' WHEN m.is_young AND t.lot < 310 THEN 'uncertain'
                WHEN t.lot < 400 THEN 'read' WHEN t.lot < 780 THEN 'delivered' WHEN t.lot < 870 THEN 'sent' WHEN t.lot < 920 THEN 'accepted'
                WHEN t.lot < 970 THEN 'failed' WHEN t.lot < 980 THEN 'expired' WHEN t.lot < 995 THEN 'suppressed' ELSE 'cancelled' END::message_state AS state,
           CASE WHEN t.lot >= 920 AND t.lot < 970 THEN (ARRAY['131026', '131047', '131049', '131050', '131051', '132001', '132012', '131053', '130472', '131000', '131008', '131021'])[1 + t.lot % 12]
                WHEN t.lot >= 970 AND t.lot < 980 THEN 'expired' WHEN t.lot >= 980 AND t.lot < 995 THEN 'suppressed_marketing' END AS code
) k;

INSERT INTO batch_tally
SELECT m.batch_id, count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'uncertain'),
       count(*) FILTER (WHERE state = 'accepted'), count(*) FILTER (WHERE state = 'sent'), count(*) FILTER (WHERE state = 'delivered'),
       count(*) FILTER (WHERE state = 'read'), count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'expired'),
       count(*) FILTER (WHERE state = 'suppressed'), count(*) FILTER (WHERE state = 'cancelled')
FROM message m JOIN made d ON d.batch_id = m.batch_id AND d.size > 1 GROUP BY 1;
INSERT INTO sent_group (number_id, batch_id, first_at, last_at, seqs)
SELECT d.number_id, m.batch_id, m.accepted_at, m.accepted_at, array_agg(m.seq)
FROM message m JOIN made d ON d.batch_id = m.batch_id WHERE m.accepted_at IS NOT NULL GROUP BY 1, 2, 3;
INSERT INTO failed_message (batch_id, seq, number_id, template_id, attempt, code, class, reason, failed_at)
SELECT m.batch_id, m.seq, d.number_id, d.template_id, 1, m.code, 'recipient', 'as the provider says it', m.ended_at
FROM message m JOIN made d ON d.batch_id = m.batch_id WHERE m.state IN ('failed', 'expired');
INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at, attempt)
SELECT m.batch_id, m.seq, d.number_id, b.lane, CASE m.state WHEN 'pending' THEN 'ready' ELSE 'unsure' END::work_stage,
       CASE WHEN d.size > 50 THEN d.batch_id ELSE '00000000-0000-0000-0000-000000000000' END,
       now() + interval '1 hour' + make_interval(secs => m.seq), 1
FROM message m JOIN made d ON d.batch_id = m.batch_id JOIN batch b ON b.batch_id = m.batch_id WHERE m.state IN ('pending', 'uncertain');
INSERT INTO inbound_message (account_id, number_id, provider_message_id, sender, kind, text, received_at)
SELECT d.account_id, d.number_id, 'in.' || d.batch_id, '+8190' || (10000000 + d.i % 70000000), 'text', 'ありがとう', d.at
FROM made d;

ALTER TABLE message ADD CONSTRAINT message_once_per_batch UNIQUE (recipient, batch_id);
CREATE INDEX message_by_ref ON message (ref, batch_id) WHERE ref IS NOT NULL;
VACUUM (ANALYZE) batch, message, batch_tally, sent_group, failed_message, work, job, inbound_message;
