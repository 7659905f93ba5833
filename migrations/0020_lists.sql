-- Checklists by every filter: what was accepted, by number and time, and what is found by producer, campaign, template, mark
-- and code. Takes SHARE on `batch`, `message`, `failed_message` and `work` while their indexes are made, which on a large
-- database is minutes, and goes once through the messages.

CREATE TABLE sent_group (
    number_id integer     NOT NULL,
    batch_id  uuid        NOT NULL,
    first_at  timestamptz NOT NULL,
    last_at   timestamptz NOT NULL,
    seqs      integer[]   NOT NULL
) PARTITION BY RANGE (batch_id);
COMMENT ON TABLE sent_group IS
    'what was accepted, in groups as it was settled: each message once, with the accepted_at that its row has';
COMMENT ON COLUMN sent_group.last_at IS 'within the hour of first_at: a range of time finds its groups by first_at alone';
CREATE INDEX sent_group_by_number ON sent_group (number_id, first_at, batch_id);
CREATE INDEX sent_group_by_batch ON sent_group (batch_id, first_at);

-- As before, with one more parent.
CREATE OR REPLACE FUNCTION ensure_partitions(since timestamptz, months integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    child  text;
    first  timestamptz;
    made   integer := 0;
    extra  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
    FOR i IN 0 .. months - 1 LOOP
        first := date_trunc('month', (since AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
        FOREACH parent IN ARRAY ARRAY['batch', 'message', 'failed_message', 'attempt', 'decision', 'sent_group'] LOOP
            child := parent || '_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM');
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            extra := CASE parent WHEN 'message' THEN
                ' WITH (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.1)'
                ELSE '' END;
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)%s', child, parent,
                uuid_floor(first),
                uuid_floor((date_trunc('month', (since AT TIME ZONE 'UTC') + make_interval(months => i + 1))) AT TIME ZONE 'UTC'),
                extra);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

-- Every month that has messages, and those ahead.
DO $$
DECLARE
    month text;
BEGIN
    FOR month IN SELECT right(c.relname, 7) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE i.inhparent = 'message'::regclass LOOP
        PERFORM ensure_partitions((replace(month, '_', '-') || '-15')::timestamptz, 1);
    END LOOP;
END $$;
SELECT ensure_partitions(now() - interval '1 month', 9);

-- As before, with one more parent.
CREATE OR REPLACE FUNCTION drop_month(first timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    child  text;
BEGIN
    PERFORM set_config('lock_timeout', '500ms', true);
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
    FOREACH parent IN ARRAY ARRAY['message', 'attempt', 'failed_message', 'decision', 'sent_group', 'batch'] LOOP
        child := parent || '_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM');
        IF to_regclass(child) IS NOT NULL THEN
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', child);
        END IF;
    END LOOP;
    -- Looked at under the locks: whoever brings work back has its message locked before.
    IF EXISTS (SELECT FROM work w WHERE w.batch_id >= uuid_floor(first)
               AND w.batch_id < uuid_floor(((first AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC')) THEN
        RETURN false;
    END IF;
    FOREACH parent IN ARRAY ARRAY['message', 'attempt', 'failed_message', 'decision', 'sent_group', 'batch'] LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', parent || '_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM'));
    END LOOP;
    RETURN true;
END $$;

-- What a callback told before its call was settled had no time of acceptance: from now on the first news that proves it
-- gives it one. What was accepted so far is grouped once.
UPDATE message SET accepted_at = coalesce(sent_at, delivered_at, read_at)
WHERE accepted_at IS NULL AND coalesce(sent_at, delivered_at, read_at) IS NOT NULL;
INSERT INTO sent_group (number_id, batch_id, first_at, last_at, seqs)
SELECT b.number_id, m.batch_id, min(m.accepted_at), max(m.accepted_at), array_agg(m.seq ORDER BY m.seq)
FROM message m JOIN batch b ON b.batch_id = m.batch_id
WHERE m.accepted_at IS NOT NULL
GROUP BY b.number_id, m.batch_id, date_trunc('hour', m.accepted_at), m.seq / 200;

CREATE INDEX batch_by_producer ON batch (producer, batch_id);
CREATE INDEX batch_by_template ON batch (template_id, batch_id);
CREATE INDEX batch_by_campaign ON batch (campaign, batch_id) WHERE campaign IS NOT NULL;
-- The producer's mark never changes: an index on it does not make a change of state dearer.
CREATE INDEX message_by_ref ON message (ref, batch_id) WHERE ref IS NOT NULL;
CREATE INDEX failed_message_by_code ON failed_message (number_id, code, failed_at);
CREATE INDEX work_unsure ON work (batch_id, seq) WHERE stage = 'unsure';

-- The order of these columns is the lists' order by time.
COMMENT ON COLUMN failed_message.failed_at IS 'the time of the list of failed messages';
COMMENT ON COLUMN message.accepted_at IS 'when the provider took it, or the first news that proves that it did; the time of the list of sent messages';
