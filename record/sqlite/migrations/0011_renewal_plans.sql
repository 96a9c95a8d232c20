-- Renewal plans: jobs whose devices renew at moments that are spread over a window.

-- +goose Up

ALTER TABLE jobs ADD COLUMN due INTEGER;  -- the window's end; NULL: the job has none
ALTER TABLE jobs ADD COLUMN free INTEGER; -- what of the window is not given out yet begins here; NULL: all of it
ALTER TABLE jobs ADD COLUMN told INTEGER NOT NULL DEFAULT 0; -- devices that have a moment

ALTER TABLE job_devices ADD COLUMN moment INTEGER;
