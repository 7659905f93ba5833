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
