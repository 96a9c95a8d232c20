-- Jobs that nobody approved in time, and renewal plans that wait for nobody any more.

-- +goose Up

ALTER TABLE jobs ADD COLUMN expired INTEGER NOT NULL DEFAULT 0; -- 1: that is why it was cancelled

UPDATE job_devices SET outcome = 'revoked', at = (SELECT max(time) FROM events) WHERE outcome = ''
	AND job IN (SELECT seq FROM jobs WHERE kind = 'renew' AND state IN ('running', 'paused'))
	AND device IN (SELECT seq FROM devices WHERE state = 'revoked');
UPDATE jobs SET state = 'done', ended = (SELECT max(time) FROM events) WHERE kind = 'renew' AND state IN ('running', 'paused')
	AND NOT EXISTS (SELECT 1 FROM job_devices p WHERE p.job = jobs.seq AND p.outcome = '');
