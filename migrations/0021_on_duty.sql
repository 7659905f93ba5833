-- What people on duty are told: alarms that stand, what is owed to chat and mail about them, the traffic of each number by
-- the minute, and tallies that do not balance.
-- Takes SHARE on `work` while its rows are gone through for an index of those in doubt, which are few, and ACCESS EXCLUSIVE
-- on `occurrence` for an instant, then SHARE while its index is made.

CREATE TABLE alarm (
    id         bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    kind       text        NOT NULL,
    subject    text        NOT NULL,
    tenant_id  integer     REFERENCES tenant,
    scope      text        NOT NULL,
    name       text        NOT NULL,
    detail     text        NOT NULL,
    count      bigint      NOT NULL,
    since      timestamptz NOT NULL,
    raised_at  timestamptz,
    told_at    timestamptz,
    cleared_at timestamptz,
    CONSTRAINT alarm_told_when_raised CHECK ((raised_at IS NULL) = (told_at IS NULL))
) WITH (fillfactor = 80);
COMMENT ON TABLE alarm IS 'what somebody must look at: raised once, told again now and then, cleared when it is over';
COMMENT ON COLUMN alarm.subject IS 'what it is about, once for each kind: hold:<id>, batch:<id>, campaign:<id>, account:<id>, number:<id>, …';
COMMENT ON COLUMN alarm.tenant_id IS 'whose it is; NULL concerns everybody';
COMMENT ON COLUMN alarm.raised_at IS 'NULL while it is seen and has not lasted long enough';
COMMENT ON COLUMN alarm.told_at IS 'when it was told last: at its beginning, or as a reminder';
CREATE UNIQUE INDEX alarm_open_once ON alarm (kind, subject) WHERE cleared_at IS NULL;
CREATE INDEX alarm_by_tenant ON alarm (tenant_id);

CREATE TABLE notification (
    id          bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    way         text        NOT NULL CHECK (way IN ('http', 'mail')),
    text        text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    tries       integer     NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE notification IS 'what is owed to people, written with the alarms it tells of; told in order, then deleted';
COMMENT ON COLUMN notification.next_try_at IS 'while it is being told, when that has failed for certain';
CREATE INDEX notification_by_way ON notification (way, id);

CREATE TABLE number_traffic (
    number_id integer     NOT NULL,
    minute    timestamptz NOT NULL,
    accepted  integer     NOT NULL DEFAULT 0,
    heard     integer     NOT NULL DEFAULT 0,
    PRIMARY KEY (number_id, minute)
) WITH (fillfactor = 70);
COMMENT ON TABLE number_traffic IS
    'messages that the provider took and callbacks about them, a few hours of them; written every few seconds by those who call and hear, beside their transactions: a process that is killed loses the last seconds of its counts';

CREATE TABLE tally_difference (
    batch_id uuid        PRIMARY KEY,
    since    timestamptz NOT NULL DEFAULT now(),
    detail   text        NOT NULL
);
COMMENT ON TABLE tally_difference IS 'batches whose tally was not what a recount found; removed when one finds it right';

-- How long calls have been in doubt, by number.
CREATE INDEX work_in_doubt ON work (number_id, wake_at) WHERE stage = 'unsure';

-- `decided_at` moves when a firing that waited is settled.
ALTER TABLE occurrence ADD COLUMN recorded_at timestamptz;
ALTER TABLE occurrence ALTER COLUMN recorded_at SET DEFAULT now();
COMMENT ON COLUMN occurrence.recorded_at IS 'when it was found due; NULL of those before this was recorded';
CREATE INDEX occurrence_late ON occurrence (recorded_at) WHERE run = '' AND recorded_at - fire_at > interval '1 minute';
