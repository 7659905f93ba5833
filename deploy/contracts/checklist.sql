CREATE SCHEMA checklist;
COMMENT ON SCHEMA checklist IS 'read-only views of what was sent, what is pending and what failed; columns are only ever added';

CREATE VIEW checklist.batches AS
SELECT b.batch_id, t.name AS tenant, b.producer, b.job_id, b.campaign, a.channel, a.name AS account, n.business_number,
       tp.name AS template, tp.language, tp.category, b.state::text AS state, b.recipients, b.rejected,
       coalesce(ta.pending, (one.state = 'pending')::int, 0) AS pending,
       coalesce(ta.uncertain, (one.state = 'uncertain')::int, 0) AS uncertain,
       coalesce(ta.accepted, (one.state = 'accepted')::int, 0) AS accepted,
       coalesce(ta.sent, (one.state = 'sent')::int, 0) AS sent,
       coalesce(ta.delivered, (one.state = 'delivered')::int, 0) AS delivered,
       coalesce(ta.read, (one.state = 'read')::int, 0) AS read,
       coalesce(ta.failed, (one.state = 'failed')::int, 0) AS failed,
       coalesce(ta.expired, (one.state = 'expired')::int, 0) AS expired,
       coalesce(ta.suppressed, (one.state = 'suppressed')::int, 0) AS suppressed,
       coalesce(ta.cancelled, (one.state = 'cancelled')::int, 0) AS cancelled,
       b.send_at, b.expires_at, b.created_at, b.cancelled_at
FROM batch b
JOIN tenant t ON t.id = b.tenant_id
JOIN account a ON a.id = b.account_id
JOIN business_number n ON n.id = b.number_id
JOIN template tp ON tp.id = b.template_id
LEFT JOIN batch_tally ta ON ta.batch_id = b.batch_id
LEFT JOIN LATERAL (
    SELECT m.state FROM message m WHERE m.batch_id = b.batch_id AND m.seq = 1 AND ta.batch_id IS NULL
) one ON true;

CREATE VIEW checklist.messages AS
SELECT m.batch_id, m.seq, t.name AS tenant, b.producer, b.job_id, b.campaign, a.channel, a.name AS account,
       n.business_number, tp.name AS template, tp.language, tp.category, m.recipient, m.ref, m.state::text AS state,
       m.attempt, m.provider_message_id, m.code, b.send_at, b.expires_at, m.accepted_at, m.sent_at, m.delivered_at,
       m.read_at, m.ended_at, b.created_at
FROM message m
JOIN batch b ON b.batch_id = m.batch_id
JOIN tenant t ON t.id = b.tenant_id
JOIN account a ON a.id = b.account_id
JOIN business_number n ON n.id = b.number_id
JOIN template tp ON tp.id = b.template_id;

CREATE VIEW checklist.sent AS
SELECT * FROM checklist.messages WHERE state IN ('accepted', 'sent', 'delivered', 'read');

CREATE VIEW checklist.pending AS
SELECT m.*, w.stage::text AS stage, w.wake_at AS due_at, w.charged, w.hold_id
FROM work w JOIN checklist.messages m ON m.batch_id = w.batch_id AND m.seq = w.seq
WHERE m.state = 'pending';

CREATE VIEW checklist.uncertain AS
SELECT m.*, w.wake_at AS next_decision_at
FROM work w JOIN checklist.messages m ON m.batch_id = w.batch_id AND m.seq = w.seq
WHERE m.state = 'uncertain';

CREATE VIEW checklist.failed AS
SELECT m.*, f.class, f.reason, f.failed_at
FROM failed_message f JOIN checklist.messages m ON m.batch_id = f.batch_id AND m.seq = f.seq;

CREATE VIEW checklist.failures_by_code AS
SELECT t.name AS tenant, n.business_number, tp.name AS template, f.code, f.class, count(*) AS messages,
       min(f.failed_at) AS first_at, max(f.failed_at) AS last_at, min(f.reason) AS sample
FROM failed_message f
JOIN business_number n ON n.id = f.number_id
JOIN template tp ON tp.id = f.template_id
JOIN account a ON a.id = n.account_id
JOIN tenant t ON t.id = a.tenant_id
GROUP BY t.name, n.business_number, tp.name, f.code, f.class;

CREATE VIEW checklist.holds AS
SELECT h.id, t.name AS tenant, h.scope, h.cause, h.detail, h.resume, h.since, h.until, h.closed_at, h.closed_by, h.reason,
       (SELECT count(*) FROM work w WHERE w.hold_id = h.id) AS parked
FROM hold h LEFT JOIN tenant t ON t.id = h.tenant_id;

DO $$
DECLARE
    said jsonb := '{
      "batch_id": "the batch: one run of a job", "seq": "place in the batch, from 1", "tenant": "who owns it",
      "producer": "who published the job", "job_id": "the producer''s id of the job", "campaign": "the campaign the job named",
      "channel": "whatsapp, viber, messenger, instagram or email", "account": "the account sent from",
      "business_number": "the identity sent from", "template": "name of the text", "language": "language of the text",
      "category": "authentication, utility or marketing", "recipient": "who it is for, as the channel takes it",
      "ref": "the producer''s own mark on the recipient", "state": "where it stands; see the state tables",
      "attempt": "number of the last call", "provider_message_id": "the provider''s id of the message",
      "code": "the provider''s code of the last failure", "send_at": "not sent before", "expires_at": "not sent after",
      "accepted_at": "when the provider took it", "sent_at": "when the provider says it left",
      "delivered_at": "when it reached the device", "read_at": "when it was opened",
      "ended_at": "when it failed, expired, was suppressed or cancelled", "created_at": "when the job was accepted",
      "cancelled_at": "when the batch was cancelled", "recipients": "messages in the batch; the states add up to it",
      "rejected": "recipients that were refused at intake", "pending": "still to be sent", "uncertain": "called, and nobody knows",
      "accepted": "taken by the provider", "sent": "left the provider", "delivered": "reached the device", "read": "opened",
      "failed": "will not arrive", "expired": "not sent in time", "suppressed": "not sent: the recipient''s wish",
      "cancelled": "not sent: cancelled", "stage": "ready, calling, parked or unsure", "due_at": "when the next step is due",
      "charged": "tries that count towards the cap", "hold_id": "the hold it is parked under",
      "next_decision_at": "when the policy for uncertain messages decides", "class": "what the code means",
      "reason": "the provider''s words, or why a person closed the hold", "failed_at": "when it failed",
      "messages": "how many messages", "first_at": "the first failure", "last_at": "the latest failure", "sample": "one reason",
      "id": "the hold", "scope": "what it covers", "cause": "why, in one word", "detail": "why, in a sentence",
      "resume": "who or what ends it", "since": "when it opened", "until": "when it ends by itself",
      "closed_at": "when it ended", "closed_by": "who ended it", "parked": "messages waiting under it"}';
    col record;
BEGIN
    FOR col IN SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'checklist' LOOP
        EXECUTE format('COMMENT ON COLUMN checklist.%I.%I IS %L', col.table_name, col.column_name, said ->> col.column_name);
    END LOOP;
END $$;

-- Roles belong to the cluster: another database of it may have made this one already, and only who has CREATEROLE can.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dispatch_reader') THEN
        BEGIN
            CREATE ROLE dispatch_reader NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                -- Another database's migration made it in this moment. Looking into a table that this transaction has not
                -- opened makes the session hear of it; without that the GRANT below still knows of no such role.
                PERFORM FROM pg_db_role_setting LIMIT 1;
            WHEN insufficient_privilege THEN
                RAISE WARNING 'the role dispatch_reader was not made: % has no CREATEROLE. Run as a superuser in this database: CREATE ROLE dispatch_reader NOLOGIN; GRANT USAGE ON SCHEMA checklist TO dispatch_reader; GRANT SELECT ON ALL TABLES IN SCHEMA checklist TO dispatch_reader;', current_user;
                RETURN;
        END;
    END IF;
    GRANT USAGE ON SCHEMA checklist TO dispatch_reader;
    GRANT SELECT ON ALL TABLES IN SCHEMA checklist TO dispatch_reader;
END $$;

CREATE OR REPLACE VIEW checklist.holds AS
SELECT h.id, t.name AS tenant, h.scope, h.cause, h.detail, h.resume, h.since, h.until, h.closed_at, h.closed_by, h.reason,
       (SELECT count(*) FROM work w WHERE w.hold_id = h.id) AS parked, h.probe_at, h.probes
FROM hold h LEFT JOIN tenant t ON t.id = h.tenant_id;
COMMENT ON COLUMN checklist.holds.probe_at IS 'when the next single message is let through to see whether the cause is gone';
COMMENT ON COLUMN checklist.holds.probes IS 'messages let through so far to see whether the cause is gone';

CREATE OR REPLACE VIEW checklist.pending AS
SELECT m.*, w.stage::text AS stage, w.wake_at AS due_at, w.charged, w.hold_id,
       nullif(w.until, 'epoch'::timestamptz) AS window_closes_at
FROM work w JOIN checklist.messages m ON m.batch_id = w.batch_id AND m.seq = w.seq
WHERE m.state = 'pending';
COMMENT ON COLUMN checklist.pending.window_closes_at IS
    'when the window of the recipient''s hours closes, which opens at due_at: not sent after';

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
