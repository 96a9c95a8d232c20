-- Coming back: what a model allows, and what an administrator does.

-- +goose Up

-- For how long after its last working certificate a device comes back by itself, in
-- microseconds; 0 means for ever.
ALTER TABLE models ADD COLUMN grace INTEGER NOT NULL DEFAULT 0 CHECK (grace >= 0);

-- A device without hardware is known by its key.
CREATE UNIQUE INDEX devices_key ON devices (idevid_key) WHERE hardware = 0;

CREATE TABLE grants (
	seq      INTEGER PRIMARY KEY,
	id       TEXT NOT NULL UNIQUE CHECK (id <> ''),
	device   INTEGER NOT NULL REFERENCES devices,
	new_key  INTEGER NOT NULL,
	created  INTEGER NOT NULL,
	expires  INTEGER NOT NULL,
	redeemed INTEGER
) STRICT;

CREATE INDEX grants_device ON grants (device);

-- +goose StatementBegin
CREATE TRIGGER grants_once BEFORE UPDATE OF redeemed ON grants WHEN OLD.redeemed IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a grant is redeemed once'); END;
-- +goose StatementEnd
