-- A firing that was given up: what intake has of it is cancelled, and what it takes later too.
ALTER TABLE occurrence ADD COLUMN cancelled_at timestamptz;
COMMENT ON COLUMN occurrence.cancelled_at IS 'when a person gave up what it had not sent; a job that intake takes later is cancelled at once';
