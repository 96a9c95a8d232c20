package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// outcomeFile is beside the sets, not in one: a roll-back of the identity is none of
// what came of it, and losing this file loses nothing that the server does not tell again.
const outcomeFile = "outcome.json"

// Outcome is what came of the agent's work so far.
type Outcome struct {
	// Contact is when the server last accepted the identity, Version the program that
	// showed it, Boot the kernel's name for the time since the device was started.
	Contact time.Time `json:"contact,omitzero"`
	Version string    `json:"version,omitempty"`
	Boot    string    `json:"boot,omitempty"`
	// Attempt is when the agent last tried, Failures how often in a row it failed since
	// Contact, and Failure why; nil if the last attempt did not.
	Attempt  time.Time `json:"attempt,omitzero"`
	Failures int       `json:"failures,omitempty"`
	Failure  *Failure  `json:"failure,omitempty"`
	// NotBefore is when to try again; zero after a success.
	NotBefore time.Time `json:"not_before,omitzero"`
	// Final is a refusal that stands for good; nil if there was none.
	Final *Failure `json:"final,omitempty"`
	// Hooked is the serial number (hex) of the working certificate that the hooks were
	// last run for, HookFailures what went wrong with them; while something did, HooksDone
	// names those that succeeded.
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

// Outcome reads what came of the agent's work; nothing is known if the file is missing
// or damaged.
func (d *Dir) Outcome() Outcome {
	var o Outcome
	text, err := d.readFile(".", outcomeFile)
	if err != nil || json.Unmarshal(text, &o) != nil {
		return Outcome{}
	}
	return o
}

// SaveOutcome makes o durable, whole or not at all.
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
