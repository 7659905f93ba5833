-- What a provider allows and charges an account, as far as the registry file says it: forecasts go by it.
-- Takes ACCESS EXCLUSIVE on `account` for an instant.

ALTER TABLE account ADD COLUMN terms jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN account.terms IS 'what forecasts go by: tier of the portfolio, countries it may send to, rates; sending does not';
