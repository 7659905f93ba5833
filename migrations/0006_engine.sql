-- A lease lives as long as its worker's row: renewing 5 000 numbers is one small update instead of 5 000.
-- Takes ACCESS EXCLUSIVE on `worker` and `number_lease` for an instant. Workers of an earlier version can no longer
-- renew and stop sending within the life of a lease; whoever takes their numbers waits that long.

ALTER TABLE worker DROP COLUMN seen_at;
ALTER TABLE worker ADD COLUMN expires_at timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE worker ALTER COLUMN expires_at DROP DEFAULT;
ALTER TABLE worker ADD COLUMN is_dead boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN worker.expires_at IS 'silent until then, it has lost its numbers';
COMMENT ON COLUMN worker.is_dead IS 'somebody found it expired and said so under a lock: it can no longer renew, and its numbers are free';
UPDATE worker SET is_dead = true;

UPDATE number_lease SET next_send_at = greatest(next_send_at, expires_at + interval '2 seconds'), lease_id = NULL, worker_id = NULL;
ALTER TABLE number_lease DROP COLUMN expires_at;
ALTER TABLE number_lease ADD CONSTRAINT number_lease_whole CHECK ((lease_id IS NULL) = (worker_id IS NULL));
COMMENT ON COLUMN number_lease.next_send_at IS 'written at give-up and at a takeover: the taker starts no earlier, so that two holders never share a second';
-- Also finds the free ones (NULL).
CREATE INDEX number_lease_by_worker ON number_lease (worker_id);

-- Holds that try themselves: when the time has come one message is let through, and the row says so before it goes.
ALTER TABLE hold ADD COLUMN probe_at timestamptz;
ALTER TABLE hold ADD COLUMN probes integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN hold.probe_at IS 'when the next single message is let through, of a hold that a probe ends';
COMMENT ON COLUMN hold.probes IS 'messages let through so far to see whether the cause is gone';

-- Large marketing batches open with a few messages; which may go is counted here and not in a process.
CREATE TABLE canary (
    hold_id       bigint      PRIMARY KEY REFERENCES hold,
    batch_id      uuid        NOT NULL UNIQUE,
    number_id     integer     NOT NULL,
    messages      integer     NOT NULL,
    fault_percent integer     NOT NULL,
    wait_s        integer     NOT NULL,
    let_through   integer     NOT NULL DEFAULT 0,
    good          integer     NOT NULL DEFAULT 0,
    faulty        integer     NOT NULL DEFAULT 0,
    started_at    timestamptz,
    CONSTRAINT canary_never_lets_more_through CHECK (let_through BETWEEN 0 AND messages)
) WITH (fillfactor = 50);
COMMENT ON TABLE canary IS 'the first messages of a large marketing batch: while its hold is open, only these go out';
COMMENT ON COLUMN canary.let_through IS 'claimed and not given back; what was not called or has no outcome gives its place back';

CREATE OR REPLACE VIEW checklist.holds AS
SELECT h.id, t.name AS tenant, h.scope, h.cause, h.detail, h.resume, h.since, h.until, h.closed_at, h.closed_by, h.reason,
       (SELECT count(*) FROM work w WHERE w.hold_id = h.id) AS parked, h.probe_at, h.probes
FROM hold h LEFT JOIN tenant t ON t.id = h.tenant_id;
COMMENT ON COLUMN checklist.holds.probe_at IS 'when the next single message is let through to see whether the cause is gone';
COMMENT ON COLUMN checklist.holds.probes IS 'messages let through so far to see whether the cause is gone';
