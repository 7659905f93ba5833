-- Due messages, one recipient each, over the numbers of account `bench`: :n in all, or :seconds' worth of each number's
-- limit when that is not 0. Due :lead seconds from now.
\set ON_ERROR_STOP on
BEGIN;
CREATE TEMP TABLE lane_of AS
SELECT n.id AS number_id, n.account_id, t.id AS template_id, uuid_in(overlay(gen_random_uuid()::text PLACING '7' FROM 15 FOR 1)::cstring) AS tail,
       row_number() OVER (ORDER BY n.id) AS i, coalesce(n.limit_per_s * nullif(:seconds, 0), :n / count(*) OVER ())::int AS size
FROM business_number n JOIN account a ON a.id = n.account_id JOIN template t ON t.account_id = a.id AND t.category = 'marketing'
WHERE a.name = 'bench';
ALTER TABLE lane_of ADD batch_id uuid;
UPDATE lane_of SET batch_id = (substr(uuid_floor(now())::text, 1, 14) || substr(tail::text, 15))::uuid;
INSERT INTO batch (batch_id, tenant_id, producer, job_id, account_id, number_id, template_id, lane, params, state, recipients, send_at, expires_at)
SELECT batch_id, 1, 'bench', batch_id::text, account_id, number_id, template_id, 'marketing', '{"body.shop":"渋谷店"}', 'planned', size,
       now(), now() + interval '1 day' FROM lane_of;
INSERT INTO batch_tally (batch_id, pending) SELECT batch_id, size FROM lane_of;
INSERT INTO message (batch_id, seq, recipient, params)
SELECT batch_id, s, '+8190' || lpad(((i * 1000003 + s) % 100000000)::text, 8, '0'), jsonb_build_object('body.name', '佐藤' || s)
FROM lane_of, generate_series(1, size) s;
INSERT INTO work (batch_id, seq, number_id, lane, stage, turn_group, wake_at)
SELECT batch_id, s, number_id, 'marketing', 'ready', batch_id, now() + make_interval(secs => :lead)
FROM lane_of, generate_series(1, size) s;
COMMIT;
ANALYZE work, message, batch;
