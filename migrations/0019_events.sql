-- Events about batches and holds. Takes ACCESS EXCLUSIVE on `batch_tally` and SHARE ROW EXCLUSIVE on `hold` for an
-- instant: the new columns are NULL everywhere. What was dispatched, completed or held before is not told afterwards.

ALTER TABLE batch_tally ADD COLUMN dispatched_at timestamptz, ADD COLUMN completed_at timestamptz;
COMMENT ON COLUMN batch_tally.dispatched_at IS 'when it was told that nothing was left to call; told once';
COMMENT ON COLUMN batch_tally.completed_at IS 'when it was told that nothing was pending or uncertain; told once';

-- Holds are opened by many statements; here none of them can forget to tell it, and one that is open already is not new.
-- What the first messages of a batch wait under goes on by itself: it is told when it stays for a person.
CREATE FUNCTION tell_hold() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    event uuid := gen_random_uuid();
BEGIN
    INSERT INTO outbox (messages)
    SELECT jsonb_build_array(jsonb_build_object(
        'to', 'events', 'key', 'hold.opened.v1', 'id', event,
        'body', jsonb_strip_nulls(jsonb_build_object(
            'id', event, 'type', 'hold.opened.v1', 'time', now(), 'tenant', (SELECT name FROM tenant WHERE id = NEW.tenant_id),
            'data', jsonb_build_object(
                'id', NEW.id, 'scope', NEW.scope, 'cause', NEW.cause, 'detail', NEW.detail, 'resume', NEW.resume,
                'since', NEW.since, 'until', NEW.until)))));
    RETURN NULL;
END $$;
CREATE TRIGGER hold_is_told AFTER INSERT ON hold
    FOR EACH ROW WHEN (NEW.resume <> 'canary') EXECUTE FUNCTION tell_hold();
CREATE TRIGGER hold_that_stays_is_told AFTER UPDATE OF resume ON hold
    FOR EACH ROW WHEN (OLD.resume = 'canary' AND NEW.resume = 'person') EXECUTE FUNCTION tell_hold();
