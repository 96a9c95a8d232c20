-- Devices for which a relay's command fails.

-- +goose Up

ALTER TABLE enforcements ADD COLUMN failing TEXT NOT NULL DEFAULT ''; -- the list of the newest report, JSON, or ''

-- Which change each began with: those that go on, and the last thousand.
CREATE TABLE enforcement_failures (
	party  TEXT NOT NULL REFERENCES operators,
	change INTEGER NOT NULL,
	device INTEGER NOT NULL REFERENCES devices,
	ended  INTEGER, -- when it was not reported any more
	PRIMARY KEY (party, change, device)
) STRICT, WITHOUT ROWID;
