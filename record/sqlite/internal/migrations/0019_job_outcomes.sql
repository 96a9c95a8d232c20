-- How many devices of a job have each outcome, so that nobody has to count a million.

-- +goose Up

-- A job of before this step has no row, and is counted.
CREATE TABLE job_outcomes (
	job     INTEGER NOT NULL REFERENCES jobs,
	outcome TEXT NOT NULL,
	devices INTEGER NOT NULL CHECK (devices >= 0),
	PRIMARY KEY (job, outcome)
) STRICT, WITHOUT ROWID;
