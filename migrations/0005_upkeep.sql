-- What is decided about uncertain messages, what upkeep needs to audit, tidy and end by itself, and the sign of life by
-- which a process notices that the database went back in time. Takes ACCESS EXCLUSIVE on account for an instant.

ALTER TABLE account ADD COLUMN uncertain jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN account.uncertain IS 'policy for uncertain messages by category, where it is not that of the settings: hold, resend or fail';

CREATE TABLE decision (
    batch_id   uuid        NOT NULL,
    seq        integer     NOT NULL,
    attempt    smallint    NOT NULL,
    decision   text        NOT NULL,
    decided_by text        NOT NULL,
    reason     text        NOT NULL,
    evidence   text        NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, seq, attempt, at)
) PARTITION BY RANGE (batch_id);
COMMENT ON TABLE decision IS 'what was decided about a call whose outcome nobody knew, in the transaction that did it';
COMMENT ON COLUMN decision.decision IS 'sent, failed or resend';
COMMENT ON COLUMN decision.decided_by IS 'policy, or token:<name>';

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
        FOREACH parent IN ARRAY ARRAY['batch', 'message', 'failed_message', 'attempt', 'decision'] LOOP
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

-- Drops the month of `first` from every table that is kept by batch, unless there is work left in it. Takes ACCESS
-- EXCLUSIVE on the parents for an instant. Gives up soon when somebody uses them for long, and before the deadlock
-- detector would choose somebody else.
CREATE FUNCTION drop_month(first timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    child  text;
BEGIN
    PERFORM set_config('lock_timeout', '500ms', true);
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
    FOREACH parent IN ARRAY ARRAY['message', 'attempt', 'failed_message', 'decision', 'batch'] LOOP
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
    FOREACH parent IN ARRAY ARRAY['message', 'attempt', 'failed_message', 'decision', 'batch'] LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', parent || '_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM'));
    END LOOP;
    RETURN true;
END $$;

CREATE TABLE batch_to_audit (
    batch_id uuid        PRIMARY KEY,
    since    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE batch_to_audit IS 'batches that were completed and whose tally is still to be compared with a recount';

CREATE TABLE round (
    name  text        PRIMARY KEY,
    begun timestamptz NOT NULL
);
COMMENT ON TABLE round IS 'when a repair that is done once in a long while was last begun, by whichever process';

CREATE TABLE alive (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    last_alive timestamptz NOT NULL,
    timeline   text        NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE alive IS 'the last sign of life, and the Postgres timeline it was given on: both tell of a database that went back in time';
