-- Who gave out what others may use later: it ends when that operator is disabled.

-- +goose Up

ALTER TABLE tickets ADD COLUMN operator TEXT;
ALTER TABLE grants ADD COLUMN operator TEXT;
ALTER TABLE operators ADD COLUMN invited_by TEXT;

CREATE INDEX tickets_operator ON tickets (operator) WHERE redeemed IS NULL;
CREATE INDEX grants_operator ON grants (operator) WHERE redeemed IS NULL;
