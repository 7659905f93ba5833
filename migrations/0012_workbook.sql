-- A file's bad rows as they stand in it, so that its report is the same file with only those; and the cells that a
-- spreadsheet took for numbers, with what is used for them.
-- Takes ACCESS EXCLUSIVE on `import` for an instant.

ALTER TABLE import
    ADD COLUMN changed bigint NOT NULL DEFAULT 0,
    ADD COLUMN format  jsonb,
    ADD COLUMN header  jsonb;
COMMENT ON COLUMN import.changed IS 'cells of import_changed';
COMMENT ON COLUMN import.format IS 'what the file is written in';
COMMENT ON COLUMN import.header IS 'its first row, cell by cell';

CREATE TABLE import_line (
    import_id uuid   NOT NULL REFERENCES import ON DELETE CASCADE,
    row       bigint NOT NULL,
    cells     jsonb  NOT NULL,
    PRIMARY KEY (import_id, row)
);
COMMENT ON TABLE import_line IS 'refused rows as they stand in the file';

CREATE TABLE import_changed (
    import_id uuid   NOT NULL REFERENCES import ON DELETE CASCADE,
    row       bigint NOT NULL,
    field     text   NOT NULL,
    given     text   NOT NULL,
    used      text   NOT NULL,
    PRIMARY KEY (import_id, row, field)
);
COMMENT ON TABLE import_changed IS 'cells that a spreadsheet took for numbers, and what is used for them';
