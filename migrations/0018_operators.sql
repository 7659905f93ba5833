-- What operators did and why, failures that somebody has seen, and messages that were sent again as new ones.
-- Takes ACCESS EXCLUSIVE on `message`, `batch` and `failed_message` for an instant: the new columns are NULL everywhere.

CREATE TABLE audit (
    id        bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant_id integer     NOT NULL REFERENCES tenant,
    at        timestamptz NOT NULL DEFAULT now(),
    token_id  uuid        NOT NULL,
    token     text        NOT NULL,
    act       text        NOT NULL,
    subject   text        NOT NULL,
    reason    text        NOT NULL DEFAULT '',
    filter    jsonb       NOT NULL DEFAULT '{}',
    count     bigint      NOT NULL DEFAULT 0
);
COMMENT ON TABLE audit IS 'every act of a person, written in the transaction that does it';
COMMENT ON COLUMN audit.token IS 'name of the token at that time';
COMMENT ON COLUMN audit.subject IS 'what it is about: batch:<id>, message:<id>, hold:<id>, campaign:<key>, failures, uncertain, registry, …';
COMMENT ON COLUMN audit.filter IS 'which ones, where the act is about many';
COMMENT ON COLUMN audit.count IS 'how many messages, or things, it concerned';
CREATE INDEX audit_by_tenant ON audit (tenant_id, id);
CREATE INDEX audit_by_subject ON audit (subject, id);

ALTER TABLE failed_message ADD COLUMN acknowledged bigint;
COMMENT ON COLUMN failed_message.acknowledged IS 'the row of audit by which somebody said that it is seen to';

-- A message that is sent again keeps its place: <resent_in>.<seq> is its re-send.
ALTER TABLE message ADD COLUMN resent_in uuid;
COMMENT ON COLUMN message.resent_in IS 'the batch in which it was sent again, with the same seq; never twice';
ALTER TABLE batch ADD COLUMN resend_of uuid, ADD COLUMN resend bigint;
COMMENT ON COLUMN batch.resend_of IS 'the batch whose failed messages it sends again';
COMMENT ON COLUMN batch.resend IS 'the row of audit by which somebody did so';
CREATE INDEX batch_resends ON batch (resend_of) WHERE resend_of IS NOT NULL;

CREATE TABLE resend_in_vain (
    batch_id uuid    NOT NULL,
    seq      integer NOT NULL,
    PRIMARY KEY (batch_id, seq)
);
COMMENT ON TABLE resend_in_vain IS
    'messages sent again whose first ones arrived after all: written with that, and given up by the sweep if they are not called yet';

CREATE OR REPLACE VIEW checklist.failed AS
SELECT m.batch_id, m.seq, m.tenant, m.producer, m.job_id, m.campaign, m.channel, m.account, m.business_number, m.template,
       m.language, m.category, m.recipient, m.ref, m.state, m.attempt, m.provider_message_id, m.code, m.send_at, m.expires_at,
       m.accepted_at, m.sent_at, m.delivered_at, m.read_at, m.ended_at, m.created_at, f.class, f.reason, f.failed_at,
       a.at AS acknowledged_at, a.reason AS note, o.resent_in
FROM failed_message f
JOIN checklist.messages m ON m.batch_id = f.batch_id AND m.seq = f.seq
JOIN message o ON o.batch_id = f.batch_id AND o.seq = f.seq
LEFT JOIN audit a ON a.id = f.acknowledged;
COMMENT ON COLUMN checklist.failed.acknowledged_at IS 'when somebody said that it is seen to';
COMMENT ON COLUMN checklist.failed.note IS 'what they said';
COMMENT ON COLUMN checklist.failed.resent_in IS 'the batch in which it was sent again, with the same seq';

CREATE OR REPLACE VIEW checklist.failures_by_code AS
SELECT t.name AS tenant, n.business_number, tp.name AS template, f.code, f.class, count(*) AS messages,
       min(f.failed_at) AS first_at, max(f.failed_at) AS last_at, min(f.reason) AS sample, count(f.acknowledged) AS acknowledged
FROM failed_message f
JOIN business_number n ON n.id = f.number_id
JOIN template tp ON tp.id = f.template_id
JOIN account a ON a.id = n.account_id
JOIN tenant t ON t.id = a.tenant_id
GROUP BY t.name, n.business_number, tp.name, f.code, f.class;
COMMENT ON COLUMN checklist.failures_by_code.acknowledged IS 'how many of them somebody said are seen to';
