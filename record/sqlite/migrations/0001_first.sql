-- The first schema. Times are microseconds since 1970, UTC; NULL is a time that has
-- not come. Text that is not there is '' but where a constraint or an index needs
-- NULL. Big blobs stand last in their row, so that reading the rest skips them.

-- +goose Up

PRAGMA application_id = 0x48414C4D; -- "HALM"

CREATE TABLE models (
	name            TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
	assurance       TEXT NOT NULL CHECK (assurance IN ('certified', 'registered', 'first-use', 'software')),
	ldevid_lifetime INTEGER NOT NULL CHECK (ldevid_lifetime >= 0),
	created         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE lots (
	name    TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
	model   TEXT NOT NULL REFERENCES models,
	quota   INTEGER NOT NULL CHECK (quota >= 0),
	used    INTEGER NOT NULL DEFAULT 0 CHECK (quota = 0 OR used <= quota),
	created INTEGER NOT NULL,
	closed  INTEGER,
	listed  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE lot_list (
	lot     TEXT NOT NULL REFERENCES lots,
	ek_name BLOB NOT NULL,
	PRIMARY KEY (lot, ek_name)
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
	seq           INTEGER PRIMARY KEY, -- order of enrolment
	id            TEXT NOT NULL UNIQUE CHECK (id <> ''),
	model         TEXT NOT NULL,
	lot           TEXT NOT NULL REFERENCES lots,
	serial        TEXT NOT NULL CHECK (serial <> ''),
	serial_folded TEXT NOT NULL,
	state         TEXT NOT NULL CHECK (state IN ('active', 'suspended', 'revoked')),
	certified     INTEGER NOT NULL,
	registered    INTEGER NOT NULL,
	hardware      INTEGER NOT NULL,
	tpm_maker     TEXT NOT NULL,
	tpm_model     TEXT NOT NULL,
	tpm_firmware  TEXT NOT NULL,
	enrolled      INTEGER NOT NULL,
	renewed       INTEGER,
	seen          INTEGER NOT NULL,
	ak_name       BLOB UNIQUE, -- NULL: no hardware
	ak_public     BLOB,
	idevid_key    BLOB,
	UNIQUE (serial_folded, model) -- in this order it also finds a serial number in all models
) STRICT;

CREATE INDEX devices_lot ON devices (lot);
CREATE INDEX devices_tpm ON devices (tpm_maker, tpm_model, tpm_firmware);
CREATE INDEX devices_ended ON devices (state) WHERE state <> 'active';

CREATE TABLE eks (
	seq         INTEGER PRIMARY KEY, -- the enrolling one first
	device      INTEGER NOT NULL REFERENCES devices,
	fingerprint BLOB NOT NULL UNIQUE CHECK (length(fingerprint) = 32),
	issuer      TEXT NOT NULL,
	name        BLOB,
	public      BLOB,
	certificate BLOB
) STRICT;

CREATE INDEX eks_device ON eks (device);
CREATE INDEX eks_issuer ON eks (issuer);

CREATE TABLE tickets (
	id       TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
	lot      TEXT NOT NULL REFERENCES lots,
	serial   TEXT NOT NULL,
	ek_name  BLOB,
	created  INTEGER NOT NULL,
	expires  INTEGER NOT NULL,
	redeemed INTEGER,
	device   INTEGER REFERENCES devices,
	CHECK ((redeemed IS NULL) = (device IS NULL))
) STRICT, WITHOUT ROWID;

-- Redeemed challenge sessions, kept until nobody would accept them any more.
CREATE TABLE sessions (
	id      TEXT NOT NULL PRIMARY KEY,
	expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_expires ON sessions (expires);

CREATE TABLE tombstones (
	kind   TEXT NOT NULL CHECK (kind IN ('ek', 'ak', 'serial')),
	value  TEXT NOT NULL,
	device INTEGER NOT NULL REFERENCES devices,
	since  INTEGER NOT NULL,
	reason TEXT NOT NULL,
	PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;

CREATE TABLE operators (
	name          TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
	created       INTEGER NOT NULL,
	disabled      INTEGER,
	invitation    TEXT UNIQUE,
	invited_until INTEGER,
	accepted      BLOB CHECK (length(accepted) = 32), -- SHA-256 of the key that did
	CHECK ((invitation IS NULL) = (invited_until IS NULL)),
	CHECK (accepted IS NULL OR invitation IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE TABLE shards (
	issuer TEXT NOT NULL,
	number INTEGER NOT NULL,
	given  INTEGER NOT NULL,
	ends   INTEGER, -- when its last certificate has ended, up to a day later; NULL: it has none yet
	PRIMARY KEY (issuer, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE certificates (
	seq         INTEGER PRIMARY KEY, -- order of intent
	issuer      TEXT NOT NULL CHECK (issuer <> ''),
	serial      TEXT NOT NULL CHECK (serial <> ''),
	profile     TEXT NOT NULL,
	device      INTEGER REFERENCES devices,
	operator    TEXT REFERENCES operators,
	subject     TEXT NOT NULL,
	shard       INTEGER NOT NULL,
	key         BLOB NOT NULL CHECK (length(key) = 32),
	not_before  INTEGER NOT NULL,
	not_after   INTEGER NOT NULL,
	intended    INTEGER NOT NULL,
	issued      INTEGER,
	predecessor TEXT NOT NULL,
	used        INTEGER,
	revoked     INTEGER,
	reason      INTEGER NOT NULL DEFAULT 0,
	tbs         BLOB, -- dropped when der, which holds it, is there
	der         BLOB,
	UNIQUE (serial, issuer), -- in this order it also finds a serial number in all issuers
	CHECK ((der IS NULL) = (issued IS NULL))
) STRICT;

CREATE INDEX certificates_device ON certificates (device) WHERE device IS NOT NULL;
CREATE INDEX certificates_own ON certificates (operator) WHERE device IS NULL;
CREATE INDEX certificates_open ON certificates (seq) WHERE issued IS NULL;
CREATE INDEX certificates_revoked ON certificates (issuer, shard, serial, revoked, reason, not_after) WHERE revoked IS NOT NULL; -- all that a CRL needs
CREATE INDEX certificates_ended ON certificates (seq) WHERE revoked IS NOT NULL; -- pages of them

CREATE TABLE crls (
	issuer      TEXT NOT NULL,
	shard       INTEGER NOT NULL,
	sequence    INTEGER NOT NULL,
	this_update INTEGER NOT NULL,
	next_update INTEGER NOT NULL,
	der         BLOB NOT NULL,
	PRIMARY KEY (issuer, shard)
) STRICT;

CREATE TABLE authorities (
	fingerprint TEXT NOT NULL PRIMARY KEY,
	added       INTEGER NOT NULL,
	added_by    TEXT NOT NULL,
	der         BLOB NOT NULL
) STRICT;

CREATE TABLE events (
	seq    INTEGER PRIMARY KEY,
	time   INTEGER NOT NULL,
	actor  TEXT NOT NULL,
	verb   TEXT NOT NULL,
	object TEXT NOT NULL,
	reason TEXT NOT NULL,
	detail TEXT NOT NULL -- a JSON object of strings, or ''
) STRICT;

-- What must never change is refused here too, so that no later statement of ours
-- can do it by mistake.

-- +goose StatementBegin
CREATE TRIGGER events_kept BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER events_fixed BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER certificates_kept BEFORE DELETE ON certificates
BEGIN SELECT RAISE(ABORT, 'certificates are never deleted'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER certificates_final BEFORE UPDATE OF revoked, reason ON certificates
WHEN OLD.revoked IS NOT NULL AND OLD.reason <> 6
BEGIN SELECT RAISE(ABORT, 'a revocation is final'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER devices_kept BEFORE DELETE ON devices
BEGIN SELECT RAISE(ABORT, 'devices are never deleted'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER devices_final BEFORE UPDATE OF state ON devices WHEN OLD.state = 'revoked'
BEGIN SELECT RAISE(ABORT, 'a revocation is final'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER lots_used BEFORE UPDATE OF used ON lots WHEN NEW.used < OLD.used
BEGIN SELECT RAISE(ABORT, 'a spent quota never comes back'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tickets_once BEFORE UPDATE OF redeemed ON tickets WHEN OLD.redeemed IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a ticket is redeemed once'); END;
-- +goose StatementEnd
