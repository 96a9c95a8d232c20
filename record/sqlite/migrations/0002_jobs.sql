-- Acts on many devices, the consent of a second operator, labels, alerts, settings; and
-- of the newest working certificate what selectors ask for.

-- +goose Up

ALTER TABLE devices ADD COLUMN expires INTEGER;
ALTER TABLE devices ADD COLUMN key_algorithm TEXT NOT NULL DEFAULT '';
ALTER TABLE certificates ADD COLUMN key_algorithm TEXT NOT NULL DEFAULT '';
ALTER TABLE operators ADD COLUMN alerted INTEGER NOT NULL DEFAULT 0; -- the last alert seen

UPDATE devices SET expires = (SELECT not_after FROM certificates c
	WHERE c.device = devices.seq AND c.profile = 'ldevid' AND c.issued IS NOT NULL ORDER BY c.seq DESC LIMIT 1);

CREATE INDEX devices_expires ON devices (expires);

CREATE TABLE labels (
	device INTEGER NOT NULL REFERENCES devices,
	key    TEXT NOT NULL CHECK (key <> ''),
	value  TEXT NOT NULL,
	PRIMARY KEY (device, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX labels_value ON labels (key, value);

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
	total      INTEGER NOT NULL
) STRICT;

CREATE INDEX jobs_unfinished ON jobs (seq) WHERE state IN ('running', 'publishing');

CREATE TABLE job_devices (
	job      INTEGER NOT NULL REFERENCES jobs DEFERRABLE INITIALLY DEFERRED,
	position INTEGER NOT NULL, -- 1, 2, …
	device   INTEGER NOT NULL REFERENCES devices,
	outcome  TEXT NOT NULL DEFAULT '',
	at       INTEGER,
	PRIMARY KEY (job, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_devices_outcome ON job_devices (job, outcome);
CREATE INDEX job_devices_pending ON job_devices (device) WHERE outcome = '';

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

CREATE TABLE alerts (event INTEGER PRIMARY KEY REFERENCES events (seq)) STRICT;

CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

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
