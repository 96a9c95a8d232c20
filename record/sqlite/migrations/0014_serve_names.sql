-- +goose Up
-- Templates of the DNS names of a device's own web page; '' means that it has none.
ALTER TABLE models ADD COLUMN serve_names TEXT NOT NULL DEFAULT '';
