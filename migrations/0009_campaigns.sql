-- Campaigns, and one row for each of their firings, also for those that send nothing.
-- Takes ACCESS EXCLUSIVE on `hold` for an instant, and SHARE on `rejected_job` while its index is made.

CREATE TABLE campaign (
    id            integer     PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant_id     integer     NOT NULL REFERENCES tenant,
    key           text        NOT NULL,
    producer      text        NOT NULL,
    document      jsonb       NOT NULL,
    state         text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'archived')),
    next_fire_at  timestamptz,
    applied_by    text        NOT NULL,
    applied_token uuid        NOT NULL,
    applied_at    timestamptz NOT NULL DEFAULT now(),
    changed_by    text,
    changed_at    timestamptz,
    CONSTRAINT campaign_key_is_unique UNIQUE (tenant_id, key),
    CONSTRAINT campaign_archived_never_fires CHECK (state <> 'archived' OR next_fire_at IS NULL)
);
COMMENT ON COLUMN campaign.document IS 'as it was applied (campaign/v1)';
COMMENT ON COLUMN campaign.next_fire_at IS 'advanced in the transaction that records the occurrence';
COMMENT ON COLUMN campaign.changed_by IS 'who paused, resumed or archived it last';
CREATE INDEX campaign_due ON campaign (next_fire_at) WHERE next_fire_at IS NOT NULL;

CREATE TABLE occurrence (
    campaign_id   integer     NOT NULL REFERENCES campaign,
    fire_at       timestamptz NOT NULL,
    run           text        NOT NULL DEFAULT '',
    tenant_id     integer     NOT NULL REFERENCES tenant,
    producer      text        NOT NULL,
    job_id        text        NOT NULL,
    state         text        NOT NULL CHECK (state IN ('waiting', 'fired', 'skipped')),
    reason        text,
    started_by    text        NOT NULL,
    started_token uuid        NOT NULL,
    send_at       timestamptz,
    expires_at    timestamptz,
    approval_over bigint,
    batch_id      uuid,
    decided_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (campaign_id, fire_at, run),
    CONSTRAINT occurrence_job_once UNIQUE (tenant_id, producer, job_id),
    CONSTRAINT occurrence_skipped_says_why CHECK ((state = 'skipped') = (reason IS NOT NULL)),
    CONSTRAINT occurrence_sent_ends CHECK (state = 'skipped' OR expires_at IS NOT NULL)
);
COMMENT ON TABLE occurrence IS 'one firing of a campaign: recorded once, whoever ticks';
COMMENT ON COLUMN occurrence.run IS 'empty for the schedule''s own; the name of the run when a person asked for it';
COMMENT ON COLUMN occurrence.approval_over IS 'with more recipients, the batch waits for another person';
COMMENT ON COLUMN occurrence.batch_id IS 'written by intake, in the transaction that takes the job';
CREATE INDEX occurrence_live ON occurrence (campaign_id, expires_at) WHERE state <> 'skipped';
CREATE INDEX occurrence_waiting ON occurrence (campaign_id, fire_at) WHERE state = 'waiting';
CREATE INDEX occurrence_by_time ON occurrence (fire_at);

ALTER TABLE hold ADD COLUMN not_by uuid;
COMMENT ON COLUMN hold.not_by IS 'the token that may not close it: an approval is another person''s';

-- Whether the job of a firing was refused.
CREATE INDEX rejected_job_by_job ON rejected_job (tenant_id, producer, job_id);
