-- The schema. Steps that came before are merged in here (hence the number); from now on a
-- change is another file. Times are microseconds since 1970, UTC; NULL is a time that has not
-- come. Text that is not there is '' but where a constraint or an index needs NULL. Big
-- blobs stand last in their row, so that reading the rest skips them.

-- +goose Up

PRAGMA application_id = 0x48414C4D; -- "HALM"

CREATE TABLE models (
	name            TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
	assurance       TEXT NOT NULL CHECK (assurance IN ('certified', 'registered', 'first-use', 'software')),
	ldevid_lifetime INTEGER NOT NULL CHECK (ldevid_lifetime >= 0),
	poll            INTEGER NOT NULL DEFAULT 0, -- how often devices ask when to renew, in µs: 0 the installation's default, < 0 they need not
	grace           INTEGER NOT NULL DEFAULT 0 CHECK (grace >= 0), -- how long after its last working certificate a device comes back, in µs; 0: for ever
	subject         TEXT NOT NULL DEFAULT '', -- the template of the commonName in working certificates; '': MODEL:SERIAL
	serve_names     TEXT NOT NULL DEFAULT '', -- templates of the DNS names of a device's own web page; '': it has none
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
	expires       INTEGER, -- of the newest working certificate, as key_algorithm is: selectors ask for them
	key_algorithm TEXT NOT NULL DEFAULT '',
	ak_name       BLOB UNIQUE, -- NULL: no hardware
	ak_public     BLOB,
	idevid_key    BLOB,
	UNIQUE (serial_folded, model) -- in this order it also finds a serial number in all models
) STRICT;

CREATE INDEX devices_lot ON devices (lot);
CREATE INDEX devices_tpm ON devices (tpm_maker, tpm_model, tpm_firmware);
CREATE INDEX devices_ended ON devices (state) WHERE state <> 'active';
CREATE INDEX devices_expires ON devices (expires);
CREATE UNIQUE INDEX devices_key ON devices (idevid_key) WHERE hardware = 0; -- what a device without hardware is known by

CREATE TABLE labels (
	device INTEGER NOT NULL REFERENCES devices,
	key    TEXT NOT NULL CHECK (key <> ''),
	value  TEXT NOT NULL,
	PRIMARY KEY (device, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX labels_value ON labels (key, value);

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

-- Of each make and model of certified TPM the endorsement keys that count.
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

-- What an administrator allows a device to come back with.
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

CREATE INDEX tombstones_device ON tombstones (device);

-- Relying parties are invited as operators are and hold certificates like theirs, under
-- one set of names; kind keeps the two apart.
CREATE TABLE operators (
	name          TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
	kind          TEXT NOT NULL DEFAULT 'operator' CHECK (kind IN ('operator', 'relying-party')),
	created       INTEGER NOT NULL,
	disabled      INTEGER,
	invitation    TEXT UNIQUE,
	invited_until INTEGER,
	accepted      BLOB CHECK (length(accepted) = 32), -- SHA-256 of the key that did
	alerted       INTEGER NOT NULL DEFAULT 0, -- the last alert seen
	CHECK ((invitation IS NULL) = (invited_until IS NULL)),
	CHECK (accepted IS NULL OR invitation IS NOT NULL)
) STRICT, WITHOUT ROWID;

-- The newest report of each relying party.
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

CREATE TABLE shards (
	issuer TEXT NOT NULL,
	number INTEGER NOT NULL,
	given  INTEGER NOT NULL,
	ends   INTEGER, -- when its last certificate has ended, up to a day later; NULL: it has none yet
	PRIMARY KEY (issuer, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE certificates (
	seq           INTEGER PRIMARY KEY, -- order of intent
	issuer        TEXT NOT NULL CHECK (issuer <> ''),
	serial        TEXT NOT NULL CHECK (serial <> ''),
	profile       TEXT NOT NULL,
	device        INTEGER REFERENCES devices,
	operator      TEXT REFERENCES operators,
	subject       TEXT NOT NULL,
	shard         INTEGER NOT NULL,
	key           BLOB NOT NULL CHECK (length(key) = 32),
	key_algorithm TEXT NOT NULL DEFAULT '',
	not_before    INTEGER NOT NULL,
	not_after     INTEGER NOT NULL,
	intended      INTEGER NOT NULL,
	issued        INTEGER,
	predecessor   TEXT NOT NULL,
	used          INTEGER,
	revoked       INTEGER,
	reason        INTEGER NOT NULL DEFAULT 0,
	tbs           BLOB, -- dropped when der, which holds it, is there
	der           BLOB,
	UNIQUE (serial, issuer), -- in this order it also finds a serial number in all issuers
	CHECK ((der IS NULL) = (issued IS NULL))
) STRICT;

CREATE INDEX certificates_device ON certificates (device) WHERE device IS NOT NULL;
CREATE INDEX certificates_own ON certificates (operator) WHERE device IS NULL;
CREATE INDEX certificates_open ON certificates (seq) WHERE issued IS NULL;
CREATE INDEX certificates_revoked ON certificates (issuer, shard, serial, revoked, reason, not_after) WHERE revoked IS NOT NULL; -- all that a CRL needs
CREATE INDEX certificates_ended ON certificates (seq) WHERE revoked IS NOT NULL; -- pages of them

CREATE INDEX certificates_standing ON certificates (issuer, not_after, serial, revoked); -- what has not expired, with what a filter asks of it

-- Changes of certificates' status, numbered by triggers, whatever statement makes them, so
-- that none is forgotten. AUTOINCREMENT never gives a number twice.
CREATE TABLE changes (
	number      INTEGER PRIMARY KEY AUTOINCREMENT,
	certificate INTEGER NOT NULL UNIQUE REFERENCES certificates -- its last change
) STRICT;

-- A list that knows less than the stored one must not replace it, whatever its number.
CREATE TABLE crls (
	issuer      TEXT NOT NULL,
	shard       INTEGER NOT NULL,
	sequence    INTEGER NOT NULL,
	shows       INTEGER NOT NULL, -- the last change that it knows
	this_update INTEGER NOT NULL,
	next_update INTEGER NOT NULL,
	der         BLOB NOT NULL,
	PRIMARY KEY (issuer, shard)
) STRICT;

-- Acts on many devices.
CREATE TABLE jobs (
	seq        INTEGER PRIMARY KEY,
	kind       TEXT NOT NULL CHECK (kind <> ''),
	operator   TEXT NOT NULL REFERENCES operators,
	expression TEXT NOT NULL,
	reason     INTEGER NOT NULL,
	why        TEXT NOT NULL,
	state      TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'paused', 'publishing', 'done', 'cancelled')),
	created    INTEGER NOT NULL,
	ended      INTEGER,
	stages     TEXT NOT NULL, -- a JSON array of numbers, or ''
	until      INTEGER,
	total      INTEGER NOT NULL,
	due        INTEGER, -- of a renewal plan, the window's end
	free       INTEGER, -- what of the window is not given out yet begins here; NULL: all of it
	told       INTEGER NOT NULL DEFAULT 0, -- devices that have a moment
	change     INTEGER NOT NULL DEFAULT 0, -- the last change of status that the job made
	changed    INTEGER,
	issuer     TEXT NOT NULL DEFAULT '', -- the issuing CA whose certificates it ends
	expired    INTEGER NOT NULL DEFAULT 0 -- 1: nobody approved it in time, and that is why it was cancelled
) STRICT;

CREATE INDEX jobs_unfinished ON jobs (seq) WHERE state IN ('running', 'publishing');
CREATE INDEX jobs_operator ON jobs (operator, created); -- how much one has revoked alone
CREATE INDEX jobs_issuer ON jobs (seq) WHERE issuer <> '';

CREATE TABLE job_devices (
	job      INTEGER NOT NULL REFERENCES jobs DEFERRABLE INITIALLY DEFERRED,
	position INTEGER NOT NULL, -- 1, 2, …
	device   INTEGER NOT NULL REFERENCES devices,
	outcome  TEXT NOT NULL DEFAULT '',
	at       INTEGER,
	moment   INTEGER, -- when a renewal plan wants it to renew
	PRIMARY KEY (job, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_devices_outcome ON job_devices (job, outcome);
CREATE INDEX job_devices_pending ON job_devices (device) WHERE outcome = '';

-- The consent of a second operator.
CREATE TABLE approvals (
	seq       INTEGER PRIMARY KEY,
	kind      TEXT NOT NULL CHECK (kind <> ''),
	subject   TEXT NOT NULL,
	why       TEXT NOT NULL,
	requester TEXT NOT NULL REFERENCES operators,
	requested INTEGER NOT NULL,
	expires   INTEGER,
	approver  TEXT REFERENCES operators CHECK (approver <> requester),
	approved  INTEGER,
	spent     INTEGER,
	CHECK ((approver IS NULL) = (approved IS NULL)),
	CHECK (spent IS NULL OR approved IS NOT NULL)
) STRICT;

CREATE INDEX approvals_open ON approvals (seq) WHERE approver IS NULL;
CREATE INDEX approvals_subject ON approvals (subject, kind);

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

CREATE INDEX events_ended ON events (actor, time) WHERE verb IN ('device.revoked', 'device.retired', 'device.granted'); -- what counts with what one has revoked alone

CREATE TABLE alerts (event INTEGER PRIMARY KEY REFERENCES events (seq)) STRICT;

CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

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
CREATE TRIGGER devices_final BEFORE UPDATE OF state ON devices
WHEN OLD.state = 'revoked' AND (NEW.state <> 'active' OR EXISTS (SELECT 1 FROM tombstones WHERE device = OLD.seq))
BEGIN SELECT RAISE(ABORT, 'a revocation is final while there are tombstones'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER lots_used BEFORE UPDATE OF used ON lots WHEN NEW.used < OLD.used
BEGIN SELECT RAISE(ABORT, 'a spent quota never comes back'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tickets_once BEFORE UPDATE OF redeemed ON tickets WHEN OLD.redeemed IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a ticket is redeemed once'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER jobs_final BEFORE UPDATE OF state ON jobs WHEN OLD.state IN ('done', 'cancelled')
BEGIN SELECT RAISE(ABORT, 'a job that is over stays so'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER job_devices_fixed BEFORE UPDATE OF device, outcome ON job_devices WHEN OLD.outcome <> '' OR NEW.device <> OLD.device
BEGIN SELECT RAISE(ABORT, 'an outcome is final, and the devices of a job are fixed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER approvals_once BEFORE UPDATE OF approver, spent ON approvals WHEN OLD.approver IS NOT NEW.approver AND OLD.approver IS NOT NULL OR OLD.spent IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'an approval is given and spent once'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER grants_once BEFORE UPDATE OF redeemed ON grants WHEN OLD.redeemed IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a grant is redeemed once'); END;
-- +goose StatementEnd
