-- +goose Up
-- The template of the commonName in working certificates; '' means MODEL:SERIAL.
ALTER TABLE models ADD COLUMN subject TEXT NOT NULL DEFAULT '';
