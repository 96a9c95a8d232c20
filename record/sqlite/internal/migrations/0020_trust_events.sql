-- What the host gave others to trust, without reading the diary.

-- +goose Up

CREATE INDEX events_trust ON events (seq) WHERE verb IN ('trust.published', 'issuer.activated', 'issuer.listed', 'list.imported');
