-- What recipients write to our numbers, and who must not be messaged. Both are found by person at every claim or listed by
-- number and time, so they are tables of their own and narrow; neither is partitioned: replies are a few in a hundred
-- messages, and a suppression holds until it is lifted.
-- Takes no lock worth naming: both tables are new.

CREATE TABLE inbound_message (
    id                  bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    account_id          integer     NOT NULL REFERENCES account,
    number_id           integer     REFERENCES business_number,
    provider_message_id text        NOT NULL,
    sender              text        NOT NULL,
    kind                text        NOT NULL,
    text                text,
    payload             text,
    replies_to          text,
    wish                text        CHECK (wish IN ('stop', 'resume')),
    received_at         timestamptz NOT NULL,
    stored_at           timestamptz NOT NULL DEFAULT now(),
    -- providers repeat what they tell
    CONSTRAINT inbound_message_once UNIQUE (account_id, provider_message_id)
);
COMMENT ON TABLE inbound_message IS 'messages of recipients to our numbers';
COMMENT ON COLUMN inbound_message.number_id IS 'NULL when the provider named a number that is not registered';
COMMENT ON COLUMN inbound_message.received_at IS 'by the provider''s clock, so that a repeat says the same';
CREATE INDEX inbound_message_by_account ON inbound_message (account_id, received_at, id);
CREATE INDEX inbound_message_by_number ON inbound_message (number_id, received_at, id);
CREATE INDEX inbound_message_by_sender ON inbound_message (sender, received_at, id);

CREATE TABLE suppression (
    id          bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant_id   integer     NOT NULL REFERENCES tenant,
    account_id  integer     REFERENCES account,
    scope       text        NOT NULL CHECK (scope IN ('marketing', 'account', 'tenant')),
    recipient   text        NOT NULL,
    source      text        NOT NULL,
    detail      text        NOT NULL DEFAULT '',
    since       timestamptz NOT NULL DEFAULT now(),
    said_at     timestamptz NOT NULL DEFAULT now(),
    lifted_at   timestamptz,
    lifted_by   text,
    reason      text,
    CONSTRAINT suppression_of_an_account CHECK ((scope = 'tenant') = (account_id IS NULL)),
    CONSTRAINT suppression_lifted_whole CHECK ((lifted_at IS NULL) = (lifted_by IS NULL))
) WITH (fillfactor = 90);
COMMENT ON TABLE suppression IS 'who must not be messaged; a lifted one stays, and says who lifted it and why';
COMMENT ON COLUMN suppression.scope IS 'marketing of the account, everything of the account, everything of the tenant';
COMMENT ON COLUMN suppression.source IS 'provider_code, preference, button, keyword, api or file';
COMMENT ON COLUMN suppression.said_at IS 'when it was said last: a resume from before that does not lift it';
COMMENT ON COLUMN suppression.lifted_at IS 'when that was said: an older stop that is told again does not open it again';
-- A claim asks it for every message; the first columns are what that knows.
CREATE UNIQUE INDEX suppression_open_once ON suppression (recipient, tenant_id, account_id, scope) NULLS NOT DISTINCT
    WHERE lifted_at IS NULL;
-- Whether there is anybody at all whom other messages than marketing concern.
CREATE INDEX suppression_wide ON suppression (tenant_id) WHERE lifted_at IS NULL AND scope <> 'marketing';
CREATE INDEX suppression_by_recipient ON suppression (recipient, id);
CREATE INDEX suppression_by_tenant ON suppression (tenant_id, id);
CREATE INDEX suppression_by_account ON suppression (account_id, id);

CREATE OR REPLACE VIEW checklist.received AS
SELECT i.id, t.name AS tenant, a.channel, a.name AS account, n.business_number, i.provider_message_id, i.sender, i.kind,
       i.text, i.payload, i.replies_to, i.wish, i.received_at
FROM inbound_message i
JOIN account a ON a.id = i.account_id
JOIN tenant t ON t.id = a.tenant_id
LEFT JOIN business_number n ON n.id = i.number_id;
COMMENT ON COLUMN checklist.received.id IS 'the message here';
COMMENT ON COLUMN checklist.received.tenant IS 'who owns the account';
COMMENT ON COLUMN checklist.received.channel IS 'whatsapp, viber, messenger, instagram or email';
COMMENT ON COLUMN checklist.received.account IS 'the account it came to';
COMMENT ON COLUMN checklist.received.business_number IS 'the identity it was written to';
COMMENT ON COLUMN checklist.received.provider_message_id IS 'the provider''s id of the message';
COMMENT ON COLUMN checklist.received.sender IS 'who wrote it, as the channel gives it';
COMMENT ON COLUMN checklist.received.kind IS 'the provider''s word: text, button, button_reply, image …';
COMMENT ON COLUMN checklist.received.text IS 'what it says, or the label of the button';
COMMENT ON COLUMN checklist.received.payload IS 'what the template gave the button';
COMMENT ON COLUMN checklist.received.replies_to IS 'the provider''s id of the message it answers';
COMMENT ON COLUMN checklist.received.wish IS 'stop or resume, when it was taken for that';
COMMENT ON COLUMN checklist.received.received_at IS 'when the provider received it';
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'dispatch_reader') THEN
        GRANT SELECT ON checklist.received TO dispatch_reader;
    END IF;
END $$;
