-- Of each make and model of certified TPM the endorsement keys that count.

-- +goose Up

CREATE TABLE ek_types (
	maker      TEXT NOT NULL,
	model      TEXT NOT NULL,
	type       TEXT NOT NULL CHECK (type <> ''),
	since      INTEGER NOT NULL,
	device     INTEGER REFERENCES devices, -- the first, which decided; NULL: an operator did
	allowed_by TEXT NOT NULL,
	PRIMARY KEY (maker, model, type),
	CHECK ((device IS NULL) = (allowed_by <> ''))
) STRICT, WITHOUT ROWID;
