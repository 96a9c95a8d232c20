-- +goose Up
-- How often a model's devices ask when to renew, in microseconds: 0 means the
-- installation's default, less than 0 that they need not ask.
ALTER TABLE models ADD COLUMN poll INTEGER NOT NULL DEFAULT 0;
