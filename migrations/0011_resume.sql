-- How far a file was read, so that it can be sent again after a crash and goes on there.
ALTER TABLE import ADD COLUMN last_row bigint NOT NULL DEFAULT 0, ADD COLUMN digest bytea NOT NULL DEFAULT '';
COMMENT ON COLUMN import.last_row IS 'the file''s row up to which everything is committed';
COMMENT ON COLUMN import.digest IS 'SHA-256 of the rows up to that one: another file does not go on there';
