-- Lists of a range of time in the whole order that they have, also over more numbers than are worth walking one by one; the
-- provider's codes of templates. Takes SHARE on `sent_group` and `failed_message` while the indexes are made.

CREATE INDEX sent_group_by_time ON sent_group (first_at, batch_id);
CREATE INDEX failed_message_by_time ON failed_message (failed_at, batch_id);
DROP INDEX failed_message_by_number;
CREATE INDEX failed_message_by_number ON failed_message (number_id, failed_at, batch_id);
DROP INDEX failed_message_by_code;
CREATE INDEX failed_message_by_code ON failed_message (number_id, code, failed_at, batch_id);
ALTER TABLE template ADD COLUMN provider_template_id text;
COMMENT ON COLUMN template.provider_template_id IS 'the provider''s own code of it, where it has one besides the name';
