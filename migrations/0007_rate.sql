-- A number that the provider throttles goes slower, and whoever takes the number goes on at the rate found.
-- Takes ACCESS EXCLUSIVE on `number_lease` for an instant.

ALTER TABLE number_lease ADD COLUMN rate_per_s integer CHECK (rate_per_s > 0);
COMMENT ON COLUMN number_lease.rate_per_s IS 'messages a second at which the holder sends after the provider throttled; NULL is the number''s limit';
