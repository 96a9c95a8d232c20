-- Which change a job made last, how much one operator has revoked alone, and the way back
-- for a device whose tombstones two operators have lifted.

-- +goose Up

ALTER TABLE jobs ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN changed INTEGER;

CREATE INDEX jobs_operator ON jobs (operator, created);
CREATE INDEX events_ended ON events (actor, time) WHERE verb IN ('device.revoked', 'device.retired');
CREATE INDEX tombstones_device ON tombstones (device);

DROP TRIGGER devices_final;
-- +goose StatementBegin
CREATE TRIGGER devices_final BEFORE UPDATE OF state ON devices
WHEN OLD.state = 'revoked' AND (NEW.state <> 'active' OR EXISTS (SELECT 1 FROM tombstones WHERE device = OLD.seq))
BEGIN SELECT RAISE(ABORT, 'a revocation is final while there are tombstones'); END;
-- +goose StatementEnd
