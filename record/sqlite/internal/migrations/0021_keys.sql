-- No two devices share a key, whatever holds it.

-- +goose Up

CREATE INDEX devices_idevid_key ON devices (idevid_key, hardware);
