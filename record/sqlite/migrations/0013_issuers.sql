-- Issuing CAs that are revoked: the jobs that end their certificates.

-- +goose Up

ALTER TABLE jobs ADD COLUMN issuer TEXT NOT NULL DEFAULT '';

CREATE INDEX jobs_issuer ON jobs (seq) WHERE issuer <> '';
