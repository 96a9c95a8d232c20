-- A grant for a new key ends certificates, and counts with what its operator revoked.

-- +goose Up

DROP INDEX events_ended;
CREATE INDEX events_ended ON events (actor, time) WHERE verb IN ('device.revoked', 'device.retired', 'device.granted');
