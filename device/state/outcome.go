package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// outcomeFile is outside of the sets: rolling back the identity must not roll back the outcome,
// and if the file is lost the server repeats what matters.
const outcomeFile = "outcome.json"

// Outcome is the outcome of the agent's work so far.
type Outcome struct {
	// Contact is when the server last accepted the identity, Version the program's version and
	// Boot the kernel's boot id at that time.
	Contact time.Time `json:"contact,omitzero"`
	Version string    `json:"version,omitempty"`
	Boot    string    `json:"boot,omitempty"`
	// Attempt is when the agent last tried, Failures how often in a row it has failed, and
	// Failure why it failed last; nil if the last attempt succeeded.
	Attempt  time.Time `json:"attempt,omitzero"`
	Failures int       `json:"failures,omitempty"`
	Failure  *Failure  `json:"failure,omitempty"`
	// NotBefore is when to try again; zero after a success.
	NotBefore time.Time `json:"not_before,omitzero"`
	// Final is a refusal that stands for good; nil if there was none.
	Final *Failure `json:"final,omitempty"`
	// Hooked is the serial number (hex) of the working certificate for which the hooks last ran,
	// HookFailures what failed; while anything did, HooksDone names the hooks that succeeded.
	Hooked       string   `json:"hooked,omitempty"`
	HookFailures []string `json:"hook_failures,omitempty"`
	HooksDone    []string `json:"hooks_done,omitempty"`
}

// Failure is why something failed.
type Failure struct {
	Time time.Time `json:"time"`
	// Code is the server's (wire.Code…), or "network", "trust", "tpm", "state".
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Outcome reads the outcome; it is zero if the file is missing or damaged.
func (d *Dir) Outcome() Outcome {
	var o Outcome
	text, err := d.readFile(".", outcomeFile)
	if err != nil || json.Unmarshal(text, &o) != nil {
		return Outcome{}
	}
	return o
}

// SaveOutcome saves o durably and atomically.
func (d *Dir) SaveOutcome(o Outcome) error {
	text, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	err = d.fs.replace(filepath.Join(d.path, outcomeFile), append(text, '\n'), 0o644)
	if err = errors.Join(err, d.fs.SyncDir(d.path)); err != nil {
		return fmt.Errorf("writing the state folder %s: %w", d.path, err)
	}
	return nil
}
