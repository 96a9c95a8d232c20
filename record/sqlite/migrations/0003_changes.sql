-- Changes of certificates' status, numbered. The triggers number them whatever
-- statement makes them, so that none is forgotten. AUTOINCREMENT never gives a number
-- twice.

-- +goose Up

CREATE TABLE changes (
	number      INTEGER PRIMARY KEY AUTOINCREMENT,
	certificate INTEGER NOT NULL UNIQUE REFERENCES certificates -- its last change
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER certificates_changed AFTER UPDATE OF revoked, reason ON certificates
WHEN NEW.revoked IS NOT OLD.revoked OR NEW.reason <> OLD.reason
BEGIN
	DELETE FROM changes WHERE certificate = NEW.seq;
	INSERT INTO changes (certificate) VALUES (NEW.seq);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER certificates_found AFTER UPDATE OF issued ON certificates
WHEN NEW.revoked IS NOT NULL
BEGIN
	DELETE FROM changes WHERE certificate = NEW.seq;
	INSERT INTO changes (certificate) VALUES (NEW.seq);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER certificates_born_ended AFTER INSERT ON certificates
WHEN NEW.revoked IS NOT NULL
BEGIN
	INSERT INTO changes (certificate) VALUES (NEW.seq);
END;
-- +goose StatementEnd

INSERT INTO changes (certificate) SELECT seq FROM certificates WHERE revoked IS NOT NULL ORDER BY revoked, seq;

-- What has not expired, with what a filter asks of it.
CREATE INDEX certificates_standing ON certificates (issuer, not_after, serial, revoked);

-- A list that knows less than the stored one must not replace it, whatever its number.
CREATE TABLE lists (
	issuer      TEXT NOT NULL,
	shard       INTEGER NOT NULL,
	sequence    INTEGER NOT NULL,
	shows       INTEGER NOT NULL, -- the last change that it knows
	this_update INTEGER NOT NULL,
	next_update INTEGER NOT NULL,
	der         BLOB NOT NULL,
	PRIMARY KEY (issuer, shard)
) STRICT;

INSERT INTO lists SELECT issuer, shard, sequence, 0, this_update, next_update, der FROM crls;
DROP TABLE crls;
ALTER TABLE lists RENAME TO crls;
