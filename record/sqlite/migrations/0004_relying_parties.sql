-- Relying parties are invited as operators are and hold certificates like theirs, under
-- one set of names; kind keeps the two apart.

-- +goose Up

ALTER TABLE operators ADD COLUMN kind TEXT NOT NULL DEFAULT 'operator' CHECK (kind IN ('operator', 'relying-party'));

-- The newest report of each.
CREATE TABLE enforcements (
	party    TEXT NOT NULL PRIMARY KEY REFERENCES operators,
	number   INTEGER NOT NULL,
	since    INTEGER NOT NULL,
	reported INTEGER NOT NULL,
	formats  TEXT NOT NULL,
	program  TEXT NOT NULL,
	fail     TEXT NOT NULL CHECK (fail IN ('open', 'closed')),
	until    INTEGER,
	problem  TEXT NOT NULL,
	version  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- When each reported a higher number than before: the last thousand steps.
CREATE TABLE enforcement_steps (
	party  TEXT NOT NULL REFERENCES operators,
	number INTEGER NOT NULL,
	since  INTEGER NOT NULL,
	PRIMARY KEY (party, number)
) STRICT, WITHOUT ROWID;
