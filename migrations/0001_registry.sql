-- Who may send, from what, with which texts; who may call the API; why something is not being sent.
-- Small tables, read often, written by people. Takes no lock worth naming: everything is new.

CREATE TABLE installation (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    name       text        NOT NULL DEFAULT substr(md5(gen_random_uuid()::text), 1, 8),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN installation.name IS 'second part of every token, so that two installations never settle each other''s messages';
INSERT INTO installation DEFAULT VALUES;

-- Processes keep the registry in memory and read it again when the version moves.
CREATE TABLE registry_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL DEFAULT 1
);
INSERT INTO registry_version DEFAULT VALUES;

CREATE TABLE tenant (
    id         integer     PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name       text        NOT NULL CONSTRAINT tenant_name_is_unique UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO tenant (name) VALUES ('default');

CREATE TABLE producer (
    name       text        PRIMARY KEY CHECK (name ~ '^[a-z0-9-]{1,64}$'),
    tenant_id  integer     NOT NULL REFERENCES tenant,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX producer_by_tenant ON producer (tenant_id);

CREATE TABLE api_token (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  integer     NOT NULL REFERENCES tenant,
    name       text        NOT NULL,
    producer   text        REFERENCES producer,
    hash       bytea       NOT NULL CONSTRAINT api_token_hash_is_unique UNIQUE,
    scopes     text[]      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
COMMENT ON COLUMN api_token.hash IS 'SHA-256 of the token; the token itself is shown once and kept nowhere';
CREATE INDEX api_token_by_tenant ON api_token (tenant_id);
CREATE INDEX api_token_by_producer ON api_token (producer);

CREATE TABLE account (
    id          integer     PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant_id   integer     NOT NULL REFERENCES tenant,
    name        text        NOT NULL,
    portfolio   text,
    channel     text        NOT NULL,
    provider    text        NOT NULL,
    base_url    text        NOT NULL,
    api_version text        NOT NULL,
    waba_id     text        NOT NULL,
    credentials bytea       NOT NULL,
    -- keyed digest of the secret that signs callbacks: accounts that share it are one app at the provider
    app_digest  bytea       NOT NULL,
    hook        uuid        NOT NULL DEFAULT gen_random_uuid() CONSTRAINT account_hook_is_unique UNIQUE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT account_name_is_unique UNIQUE (tenant_id, name)
);
COMMENT ON COLUMN account.credentials IS 'secrets by name, as JSON under XChaCha20-Poly1305 with secrets.key; never leaves the process in clear';

CREATE TABLE business_number (
    id                 integer     PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    account_id         integer     NOT NULL REFERENCES account,
    business_number    text        NOT NULL,
    provider_number_id text        NOT NULL,
    limit_per_s        integer     CHECK (limit_per_s > 0),
    status             text        NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT business_number_is_unique UNIQUE (account_id, business_number)
);
COMMENT ON COLUMN business_number.limit_per_s IS 'messages a second the provider allows; NULL is unlimited';
CREATE INDEX business_number_by_provider_id ON business_number (provider_number_id);

CREATE TABLE template (
    id               integer     PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    account_id       integer     NOT NULL REFERENCES account,
    name             text        NOT NULL,
    language         text        NOT NULL,
    category         text        NOT NULL,
    status           text        NOT NULL,
    parameter_format text        NOT NULL,
    components       jsonb       NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT template_is_unique UNIQUE (account_id, name, language)
);

CREATE TABLE hold (
    id         bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant_id  integer     REFERENCES tenant,
    scope      text        NOT NULL,
    cause      text        NOT NULL,
    detail     text        NOT NULL DEFAULT '',
    resume     text        NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),
    until      timestamptz,
    closed_at  timestamptz,
    closed_by  text,
    reason     text,
    -- work parked under a closed hold is given back in chunks; set when none is left
    released_at timestamptz
);
COMMENT ON COLUMN hold.scope IS 'everything, provider:<name>, portfolio:<tenant>/<name>, account:<id>, number:<id>, number:<id>:<lane>, template:<id> or batch:<id>';
COMMENT ON COLUMN hold.tenant_id IS 'whose hold it is; NULL for provider and everything';
CREATE INDEX hold_by_tenant ON hold (tenant_id);
-- The same fault seen by a thousand messages opens one hold.
CREATE UNIQUE INDEX hold_open_once ON hold (scope, cause) WHERE closed_at IS NULL;
CREATE INDEX hold_to_release ON hold (id) WHERE closed_at IS NOT NULL AND released_at IS NULL;
