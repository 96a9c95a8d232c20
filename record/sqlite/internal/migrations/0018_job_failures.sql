-- Whether a device for which a relay's command fails is one that a job has done with, without
-- reading the job.

-- +goose Up

CREATE INDEX job_devices_done ON job_devices (device, job) WHERE outcome IN ('done', 'unchanged');
