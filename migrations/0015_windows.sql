-- Hours of the recipients: each message of a batch that has them waits for the window of its recipient and ends with it.
-- Takes ACCESS EXCLUSIVE on `batch` and `work` for an instant, and SHARE on `work` while its rows are gone through for an
-- index that has none of them.

ALTER TABLE batch ADD COLUMN windows jsonb;
COMMENT ON COLUMN batch.windows IS 'the hours of the recipients in which it goes out; NULL is always';

ALTER TABLE work ADD COLUMN until timestamptz;
COMMENT ON COLUMN work.until IS
    'when the window of the recipient closes, in which wake_at lies; 1970 when none opens; NULL is not before the end of the message';
CREATE INDEX work_to_close ON work (until) WHERE until IS NOT NULL AND stage IN ('ready', 'parked');

-- Why a message is too late to be called; NULL when it is not.
CREATE FUNCTION work_late(until timestamptz, expires_at timestamptz) RETURNS text LANGUAGE sql STABLE AS
$$ SELECT CASE WHEN until = 'epoch'::timestamptz THEN 'no_window' WHEN expires_at <= now() THEN 'life'
               WHEN until <= now() THEN 'window' END $$;

CREATE OR REPLACE VIEW checklist.pending AS
SELECT m.*, w.stage::text AS stage, w.wake_at AS due_at, w.charged, w.hold_id,
       nullif(w.until, 'epoch'::timestamptz) AS window_closes_at
FROM work w JOIN checklist.messages m ON m.batch_id = w.batch_id AND m.seq = w.seq
WHERE m.state = 'pending';
COMMENT ON COLUMN checklist.pending.window_closes_at IS
    'when the window of the recipient''s hours closes, which opens at due_at: not sent after';
