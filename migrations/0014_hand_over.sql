-- A number that is handed over takes its log of calls with it, so that the next holder goes on at once instead of waiting
-- until the last call has left the second.
-- Takes ACCESS EXCLUSIVE on `number_lease` for an instant.

ALTER TABLE number_lease ADD COLUMN calls_at timestamptz[];
COMMENT ON COLUMN number_lease.calls_at IS 'written at give-up: the calls that may still fill a second, for the pace of the next holder; NULL where they are not known, and next_send_at is the wait instead';
COMMENT ON COLUMN number_lease.next_send_at IS 'written at give-up and at a takeover: the taker starts no earlier, so that no second ever holds the calls of two who do not know of each other''s';
