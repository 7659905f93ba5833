-- :n due messages, one recipient each, spread over the numbers of account `bench`; due :lead seconds from now.
\set ON_ERROR_STOP on
BEGIN;
CREATE TEMP TABLE lane_of AS
SELECT n.id AS number_id, n.account_id, t.id AS template_id, uuid_in(overlay(gen_random_uuid()::text PLACING '7' FROM 15 FOR 1)::cstring) AS tail,
       row_number() OVER (ORDER BY n.id) AS i, count(*) OVER () AS numbers
FROM business_number n JOIN account a ON a.id = n.account_id JOIN template t ON t.account_id = a.id
WHERE a.name = 'bench';
ALTER TABLE lane_of ADD batch_id uuid, ADD size int;
UPDATE lane_of SET batch_id = (substr(uuid_floor(now())::text, 1, 14) || substr(tail::text, 15))::uuid, size = :n / numbers;
INSERT INTO batch (batch_id, tenant_id, producer, job_id, account_id, number_id, template_id, lane, params, state, recipients, send_at, expires_at)
SELECT batch_id, 1, 'bench', batch_id::text, account_id, number_id, template_id, 'marketing', '{"body.shop":"渋谷店"}', 'planned', size,
       now(), now() + interval '1 day' FROM lane_of;
INSERT INTO batch_tally (batch_id, pending) SELECT batch_id, size FROM lane_of;
INSERT INTO message (batch_id, seq, recipient, params)
SELECT batch_id, s, '+8190' || lpad((i * 1000000 + s)::text, 8, '0'), jsonb_build_object('body.name', '佐藤' || s)
FROM lane_of, generate_series(1, size) s;
INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at)
SELECT batch_id, s, number_id, 'marketing', 'ready', batch_id, now() + make_interval(secs => :lead)
FROM lane_of, generate_series(1, size) s;
COMMIT;
ANALYZE work, message, batch;
