-- What is asked: a name of the filter and a path each line; several values of a filter, so that none is answered from
-- memory only. Lists that do not go by time are also asked from somewhere in their midst, as who has paged on for long.
CREATE TEMP TABLE chosen AS SELECT b.* FROM batch b TABLESAMPLE BERNOULLI (20) ORDER BY random() LIMIT 40;
CREATE TEMP TABLE people AS
SELECT m.* FROM (SELECT batch_id, 1 + floor(random() * recipients)::int AS seq FROM chosen) k JOIN message m USING (batch_id, seq);
CREATE TEMP TABLE spans AS
SELECT length, 'since=' || to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') || '&until=' ||
       to_char((at + span) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS query
FROM (VALUES ('hour', interval '1 hour'), ('day', interval '1 day'), ('month', interval '1 month'), ('year', interval '1 year')) v(length, span),
     generate_series(1, 5) i, LATERAL (SELECT now() - interval '14 months' + (interval '14 months' - span) * random() + i * interval '0 s' AS at) a;
WITH q(name, path) AS (
    SELECT list, '/v1/messages?list=' || list FROM unnest(ARRAY['all', 'sent', 'pending', 'failed', 'uncertain']) list
    UNION ALL SELECT list || ' by number', '/v1/messages?list=' || list || '&number=%2B' || substr(business_number, 2)
    FROM unnest(ARRAY['all', 'sent', 'pending', 'failed', 'uncertain']) list, business_number
    UNION ALL SELECT 'batch', '/v1/messages?batch=' || batch_id FROM chosen
    UNION ALL SELECT 'batch, failed', '/v1/messages?list=failed&batch=' || batch_id FROM chosen
    UNION ALL SELECT 'recipient', '/v1/messages?recipient=%2B' || substr(recipient, 2) FROM people
    UNION ALL SELECT 'ref', '/v1/messages?ref=' || ref FROM people WHERE ref IS NOT NULL
    UNION ALL SELECT 'job id', '/v1/messages?job_id=' || job_id FROM chosen
    UNION ALL SELECT list || ' by template', '/v1/messages?list=' || list || '&template=' || name FROM unnest(ARRAY['all', 'sent', 'failed', 'pending']) list, template
    UNION ALL SELECT list || ' by category', '/v1/messages?list=' || list || '&category=' || c FROM unnest(ARRAY['sent', 'failed']) list, unnest(ARRAY['marketing', 'utility', 'authentication']) c
    UNION ALL SELECT list || ' by account', '/v1/messages?list=' || list || '&account=' || name FROM unnest(ARRAY['sent', 'failed']) list, account
    UNION ALL SELECT list || ' by channel', '/v1/messages?list=' || list || '&channel=whatsapp' FROM unnest(ARRAY['sent', 'failed']) list
    UNION ALL SELECT list || ' by campaign', '/v1/messages?list=' || list || '&campaign=' || campaign
    FROM unnest(ARRAY['all', 'sent', 'failed', 'pending']) list, (SELECT DISTINCT campaign FROM batch WHERE campaign IS NOT NULL ORDER BY 1 LIMIT 20) c
    UNION ALL SELECT list || ' by producer', '/v1/messages?list=' || list || '&producer=' || p FROM unnest(ARRAY['all', 'sent', 'failed', 'pending']) list, unnest(ARRAY['shop', 'crm', 'seldom']) p
    UNION ALL SELECT 'state ' || s, '/v1/messages?state=' || s FROM unnest(ARRAY['accepted', 'sent', 'delivered', 'read', 'failed', 'expired', 'suppressed', 'cancelled', 'pending', 'uncertain']) s
    UNION ALL SELECT 'code', '/v1/messages?code=' || c FROM unnest(ARRAY['131026', '131047', '131049', '132001', 'expired', 'unheard_of']) c
    UNION ALL SELECT 'code of a ' || length, '/v1/messages?code=131049&' || query FROM spans
    UNION ALL SELECT list || ' of a ' || length, '/v1/messages?list=' || list || '&' || query FROM unnest(ARRAY['all', 'sent', 'failed']) list, spans
    UNION ALL SELECT 'pending soon', '/v1/messages?list=pending&since=2020-01-01T00:00:00Z'
    UNION ALL SELECT 'sent by number of a ' || length, '/v1/messages?list=sent&number=%2B81312340003&' || query FROM spans
    UNION ALL SELECT 'sent by producer of a ' || length, '/v1/messages?list=sent&producer=' || p || '&' || query FROM spans, unnest(ARRAY['shop', 'seldom']) p
    UNION ALL SELECT 'sent by campaign of a ' || length, '/v1/messages?list=sent&campaign=season-7&' || query FROM spans
    UNION ALL SELECT 'failed by template of a ' || length, '/v1/messages?list=failed&template=notice&' || query FROM spans
    UNION ALL SELECT 'batches', '/v1/batches'
    UNION ALL SELECT 'batches by number', '/v1/batches?number=%2B' || substr(business_number, 2) FROM business_number
    UNION ALL SELECT 'batches by producer', '/v1/batches?producer=' || p FROM unnest(ARRAY['shop', 'crm', 'seldom']) p
    UNION ALL SELECT 'batches by campaign', '/v1/batches?campaign=season-' || g FROM generate_series(1, 9) g
    UNION ALL SELECT 'batches by template', '/v1/batches?template=' || name FROM template
    UNION ALL SELECT 'batches of a ' || length, '/v1/batches?' || query FROM spans
    UNION ALL SELECT 'received', '/v1/received'
    UNION ALL SELECT 'received of a ' || length, '/v1/received?' || query FROM spans
    UNION ALL SELECT 'report by ' || r || ' of a day', '/v1/reports?zone=Asia/Tokyo&by=' || r || '&' || query FROM spans, unnest(ARRAY['day', 'business_number', 'template', 'campaign', 'error']) r WHERE length = 'day'
)
SELECT name, path FROM q
UNION ALL SELECT name, path || '&after=' || p.batch_id || '.' || p.seq
FROM q CROSS JOIN LATERAL (SELECT batch_id, seq FROM people ORDER BY md5(q.path || batch_id) LIMIT 3) p
WHERE path ~ '^/v1/messages' AND path !~ 'since=|code=' AND name !~ '^(batch|recipient|ref|job)';
