-- Audience groups: recipients that are kept by name, and copied into an import of its own whenever a job names the group.
-- Takes ACCESS EXCLUSIVE on `import` for an instant.

CREATE TABLE audience (
    id         integer     PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant_id  integer     NOT NULL REFERENCES tenant,
    name       text        NOT NULL,
    channel    text        NOT NULL,
    time_zone  text,
    country    text,
    members    bigint      NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audience_name_is_unique UNIQUE (tenant_id, name)
);
COMMENT ON COLUMN audience.time_zone IS 'IANA; of members that have none of their own';
COMMENT ON COLUMN audience.country IS 'ISO 3166; national numbers are read as numbers of it';
COMMENT ON COLUMN audience.members IS 'how many there are; changed in the transaction that changes them';
COMMENT ON COLUMN audience.changed_at IS 'when its members were changed last';

CREATE TABLE audience_member (
    audience_id integer NOT NULL,
    recipient   text    NOT NULL,
    ref         text,
    time_zone   text,
    params      jsonb   NOT NULL DEFAULT '{}',
    PRIMARY KEY (audience_id, recipient)
);
COMMENT ON TABLE audience_member IS
    'written without a look at its audience: whoever changes members has locked the audience, and whoever deletes it deletes them first';
COMMENT ON COLUMN audience_member.recipient IS 'the address as the channel takes it, parsed';

ALTER TABLE import ADD COLUMN batch_id uuid;
COMMENT ON COLUMN import.batch_id IS 'the batch that it is the frozen copy of an audience group for; NULL of a file';
CREATE UNIQUE INDEX import_copies ON import (batch_id) WHERE batch_id IS NOT NULL;
