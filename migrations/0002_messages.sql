-- A batch's messages, the work that is left to do for them, and what became of each.
-- `message` is wide and written few times; `work` is narrow and hot. Nothing that changes with the state is indexed on
-- `message`: an index, or an index predicate, on such a column doubles the cost of every settle.

CREATE TYPE message_state AS ENUM
    ('pending', 'uncertain', 'accepted', 'sent', 'delivered', 'read', 'failed', 'expired', 'suppressed', 'cancelled');
CREATE TYPE work_stage AS ENUM ('ready', 'calling', 'parked', 'unsure');
CREATE TYPE lane AS ENUM ('authentication', 'utility', 'marketing');
CREATE TYPE batch_state AS ENUM ('planning', 'planned');

CREATE TABLE batch (
    batch_id     uuid        NOT NULL,
    tenant_id    integer     NOT NULL,
    producer     text        NOT NULL,
    job_id       text        NOT NULL,
    campaign     text,
    account_id   integer     NOT NULL,
    number_id    integer     NOT NULL,
    template_id  integer     NOT NULL,
    lane         lane        NOT NULL,
    params       jsonb       NOT NULL DEFAULT '{}',
    notify       text[]      NOT NULL DEFAULT '{}',
    state        batch_state NOT NULL,
    recipients   integer     NOT NULL,
    rejected     integer     NOT NULL DEFAULT 0,
    import_id    uuid,
    planned_row  bigint      NOT NULL DEFAULT 0,
    send_at      timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz,
    PRIMARY KEY (batch_id)
) PARTITION BY RANGE (batch_id);
COMMENT ON COLUMN batch.batch_id IS 'UUIDv7 whose time is when the batch is due: partitions go by it';
COMMENT ON COLUMN batch.planned_row IS 'the import''s row up to which messages have been made, while planning';
CREATE INDEX batch_by_tenant ON batch (tenant_id, created_at);
CREATE INDEX batch_by_number ON batch (number_id, batch_id);
CREATE INDEX batch_to_plan ON batch (batch_id) WHERE state = 'planning';
CREATE INDEX batch_cancelled ON batch (cancelled_at) WHERE cancelled_at IS NOT NULL;

CREATE TABLE batch_tally (
    batch_id   uuid    PRIMARY KEY,
    pending    integer NOT NULL DEFAULT 0,
    uncertain  integer NOT NULL DEFAULT 0,
    accepted   integer NOT NULL DEFAULT 0,
    sent       integer NOT NULL DEFAULT 0,
    delivered  integer NOT NULL DEFAULT 0,
    read       integer NOT NULL DEFAULT 0,
    failed     integer NOT NULL DEFAULT 0,
    expired    integer NOT NULL DEFAULT 0,
    suppressed integer NOT NULL DEFAULT 0,
    cancelled  integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE batch_tally IS 'messages by state, changed in the transaction that changes the state; a batch of one has no row';

CREATE TABLE message (
    batch_id            uuid          NOT NULL,
    seq                 integer       NOT NULL,
    recipient           text          NOT NULL,
    ref                 text,
    time_zone           text,
    params              jsonb,
    state               message_state NOT NULL DEFAULT 'pending',
    attempt             smallint      NOT NULL DEFAULT 0,
    dropped_attempt     smallint      NOT NULL DEFAULT 0,
    provider_message_id text,
    code                text,
    accepted_at         timestamptz,
    sent_at             timestamptz,
    delivered_at        timestamptz,
    read_at             timestamptz,
    ended_at            timestamptz,
    PRIMARY KEY (batch_id, seq),
    -- recipient first, so that the one index also answers "what did this person get"
    CONSTRAINT message_once_per_batch UNIQUE (recipient, batch_id)
) PARTITION BY RANGE (batch_id);
COMMENT ON COLUMN message.attempt IS 'the highest attempt that has a name: none is ever named twice';
COMMENT ON COLUMN message.dropped_attempt IS 'the latest attempt that the provider said failed after it had taken it; only a delivery speaks for it or an older one';
COMMENT ON COLUMN message.ended_at IS 'when it failed, expired, was suppressed or cancelled';

CREATE TABLE failed_message (
    batch_id    uuid        NOT NULL,
    seq         integer     NOT NULL,
    number_id   integer     NOT NULL,
    template_id integer     NOT NULL,
    attempt     smallint    NOT NULL,
    code        text        NOT NULL,
    class       text        NOT NULL,
    reason      text        NOT NULL,
    failed_at   timestamptz NOT NULL,
    PRIMARY KEY (batch_id, seq)
) PARTITION BY RANGE (batch_id);
COMMENT ON TABLE failed_message IS 'one row while a message is failed or expired; removed when a late success lifts it';
CREATE INDEX failed_message_by_number ON failed_message (number_id, failed_at);

CREATE TABLE attempt (
    batch_id uuid        NOT NULL,
    seq      integer     NOT NULL,
    attempt  smallint    NOT NULL,
    outcome  text        NOT NULL,
    code     text        NOT NULL,
    class    text        NOT NULL,
    reason   text        NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (batch_id, seq, attempt, outcome)
) PARTITION BY RANGE (batch_id);
COMMENT ON TABLE attempt IS 'calls that did not end accepted; a clean first call has no row';

CREATE TABLE work (
    batch_id   uuid        NOT NULL,
    seq        integer     NOT NULL,
    number_id  integer     NOT NULL,
    lane       lane        NOT NULL,
    stage      work_stage  NOT NULL,
    turn_group uuid        NOT NULL,
    wake_at    timestamptz NOT NULL,
    attempt    smallint    NOT NULL DEFAULT 0,
    charged    smallint    NOT NULL DEFAULT 0,
    claim_id   uuid,
    hold_id    bigint,
    PRIMARY KEY (batch_id, seq),
    CONSTRAINT work_parked_has_hold CHECK ((stage = 'parked') = (hold_id IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
COMMENT ON TABLE work IS 'exactly one row for every pending or uncertain message; deleted when the outcome is settled';
COMMENT ON COLUMN work.wake_at IS 'ready: due; calling: end of the claim; parked: end of the hold or of the message; unsure: end of the grace';
COMMENT ON COLUMN work.turn_group IS 'whose turn it is within a lane: the batch, or all small batches together (nil)';
COMMENT ON COLUMN work.charged IS 'tries that count towards the cap; attempt only names calls and never repeats';
CREATE INDEX work_to_claim ON work (number_id, lane, turn_group, wake_at) WHERE stage = 'ready';
CREATE INDEX work_to_sweep ON work (wake_at) WHERE stage <> 'ready';
CREATE INDEX work_by_hold ON work (hold_id) WHERE hold_id IS NOT NULL;

CREATE TABLE worker (
    worker_id  uuid        PRIMARY KEY,
    host       text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE number_lease (
    number_id    integer     PRIMARY KEY REFERENCES business_number,
    lease_id     uuid,
    worker_id    uuid,
    expires_at   timestamptz NOT NULL DEFAULT '-infinity',
    next_send_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
COMMENT ON COLUMN number_lease.next_send_at IS 'written at give-up: the taker starts no earlier, so that two holders never share a second';

-- The smallest UUIDv7 of an instant.
CREATE FUNCTION uuid_floor(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000' || '8000000000000000')::uuid $$;

-- Makes the monthly partitions from the month of `since` on. Takes ACCESS EXCLUSIVE on the parents for an instant, and
-- only when a partition is missing.
CREATE FUNCTION ensure_partitions(since timestamptz, months integer) RETURNS integer LANGUAGE plpgsql AS $$
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
        FOREACH parent IN ARRAY ARRAY['batch', 'message', 'failed_message', 'attempt'] LOOP
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

-- Last month for clocks that disagree at its end, this month, and the seven that `send_at` may reach.
SELECT ensure_partitions(now() - interval '1 month', 9);
