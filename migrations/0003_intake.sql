-- What producers asked, what was answered, what is still to be told; files of recipients; callbacks that wait.

-- Idempotency keys, spread over hash partitions so that keeping them as long as the messages stays cheap.
CREATE TABLE job (
    tenant_id   integer     NOT NULL,
    producer    text        NOT NULL,
    job_id      text        NOT NULL,
    body_sha256 bytea       NOT NULL,
    batch_id    uuid        NOT NULL,
    answer      jsonb,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, producer, job_id)
) PARTITION BY HASH (tenant_id, producer, job_id);
COMMENT ON COLUMN job.body_sha256 IS 'of the canonical form of the body: a repeat with another one is refused';
COMMENT ON COLUMN job.answer IS 'the first answer; NULL when it was accepted whole and no hold was met';
DO $$ BEGIN
    FOR i IN 0 .. 7 LOOP
        EXECUTE format('CREATE TABLE job_%s PARTITION OF job FOR VALUES WITH (MODULUS 8, REMAINDER %s)', i, i);
    END LOOP;
END $$;

CREATE TABLE rejected_job (
    id          bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant_id   integer     NOT NULL REFERENCES tenant,
    producer    text        NOT NULL,
    job_id      text,
    source      text        NOT NULL,
    body_sha256 bytea       NOT NULL,
    body_bytes  integer     NOT NULL,
    errors      jsonb       NOT NULL,
    rejected_at timestamptz NOT NULL DEFAULT now(),
    times       integer     NOT NULL DEFAULT 1,
    -- a redelivery, or a producer that repeats itself, is counted, not listed again
    CONSTRAINT rejected_job_once UNIQUE (producer, body_sha256)
);
CREATE INDEX rejected_job_by_tenant ON rejected_job (tenant_id, id);

CREATE TABLE batch_rejected (
    batch_id uuid    NOT NULL,
    row      integer NOT NULL,
    pointer  text    NOT NULL,
    code     text    NOT NULL,
    reason   text    NOT NULL,
    PRIMARY KEY (batch_id, row, pointer)
);
COMMENT ON TABLE batch_rejected IS 'recipients of an accepted job that were refused, with the reason';

CREATE TABLE import (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id   integer     NOT NULL REFERENCES tenant,
    account_id  integer     NOT NULL REFERENCES account,
    template_id integer     NOT NULL REFERENCES template,
    file_name   text        NOT NULL,
    state       text        NOT NULL DEFAULT 'reading' CHECK (state IN ('reading', 'ready', 'failed')),
    rows        bigint      NOT NULL DEFAULT 0,
    good        bigint      NOT NULL DEFAULT 0,
    bad         bigint      NOT NULL DEFAULT 0,
    problem     text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz
);
CREATE INDEX import_by_tenant ON import (tenant_id, created_at);
CREATE INDEX import_by_account ON import (account_id);
CREATE INDEX import_by_template ON import (template_id);

CREATE TABLE import_row (
    import_id uuid   NOT NULL REFERENCES import ON DELETE CASCADE,
    row       bigint NOT NULL,
    recipient text   NOT NULL,
    ref       text,
    time_zone text,
    params    jsonb  NOT NULL,
    PRIMARY KEY (import_id, row),
    CONSTRAINT import_row_once UNIQUE (import_id, recipient)
);
COMMENT ON COLUMN import_row.row IS 'as a spreadsheet counts: the header is row 1';

CREATE TABLE import_rejected (
    import_id uuid   NOT NULL REFERENCES import ON DELETE CASCADE,
    row       bigint NOT NULL,
    field     text   NOT NULL,
    code      text   NOT NULL,
    reason    text   NOT NULL,
    PRIMARY KEY (import_id, row, field)
);

CREATE TABLE outbox (
    id         bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    messages   jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE outbox IS 'broker messages that a committed transaction owes, several a row; published with confirms, then deleted';

CREATE TABLE callback_kept (
    id          bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    account_id  integer     NOT NULL REFERENCES account,
    kind        text        NOT NULL,
    body        text        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE callback_kept IS 'callbacks, or parts of them, that changed no message: inbound, management, unparsed, unmatched';
CREATE INDEX callback_kept_by_account ON callback_kept (account_id, id);

CREATE TABLE callback_waiting (
    id         bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    account_id integer     NOT NULL REFERENCES account,
    event      jsonb       NOT NULL,
    tries      integer     NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE callback_waiting IS 'callbacks that came before what they are about; tried again, then kept as unmatched';
CREATE INDEX callback_waiting_by_time ON callback_waiting (next_try_at);
CREATE INDEX callback_waiting_by_account ON callback_waiting (account_id);
