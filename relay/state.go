package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/hallmark-pki/hallmark/relay/crls"
	"github.com/hallmark-pki/hallmark/relay/disk"
	"github.com/hallmark-pki/hallmark/relay/each"
)

// state is what survives a restart, in status.json of the relay's folder.
type state struct {
	// Number is the newest change that is enforced, -1 before the first; Since when it was.
	Number int64     `json:"number"`
	Since  time.Time `json:"since,omitzero"`
	each.State
	// Contact is when the server was last heard and all was enforced.
	Contact time.Time `json:"contact,omitzero"`
	// Until is when the first of the lists ends, Half when half of a list's life has passed.
	Until time.Time `json:"until,omitzero"`
	Half  time.Time `json:"half,omitzero"`
	// Behind: files may have been replaced without the program's having taken them up.
	Behind bool `json:"behind,omitempty"`
	// Closed: the lists ended, and files deny everybody.
	Closed bool `json:"closed,omitempty"`
	// Bundle is the number of the trust bundle, Made when the newest deny-list of each
	// issuer was made and, by path, the newest filter: older ones are refused.
	Bundle int64                `json:"bundle"`
	Made   map[string]time.Time `json:"made,omitempty"`
	// Numbers are of the newest CRLs: older ones are refused.
	Numbers crls.Numbers `json:"numbers,omitempty"`
	// Issuers are the certificates (DER) of those whose lists were read.
	Issuers map[string][]byte `json:"issuers,omitempty"`
	Problem string            `json:"problem,omitempty"`
}

// Status is what a relay says of itself.
type Status struct {
	state
	// Running: a relay works in the folder.
	Running bool `json:"running"`
}

// Names in a relay's folder.
const (
	stateFile = "status.json"
	relayLock = "relay.lock"
)

// silent is the age at which a status is no longer believed: it is written at every poll, and the
// longest command and exchanges take less, but for lists of many megabytes over a slow line.
const silent = 5 * time.Minute

// ReadStatus reads what the relay of a folder enforces; Problem says what is wrong.
func ReadStatus(dir string, now time.Time) (Status, error) {
	st, err := readState(dir)
	if err != nil {
		return Status{}, err
	}
	out := Status{state: st}
	if out.Running, err = disk.Locked(filepath.Join(dir, relayLock)); err != nil {
		return out, err
	}
	switch {
	case !out.Running && out.Problem == "":
		out.Problem = "the relay does not run"
	case out.Problem == "" && st.Contact.IsZero():
		out.Problem = "the relay has not reached Hallmark yet: its log says why"
	case out.Problem == "" && now.Sub(st.Contact) > silent:
		out.Problem = "nothing was heard of the relay since " + st.Contact.Format(time.RFC3339) + ": its log says why; is the disk full, or the line slow?"
	case out.Problem == "" && !st.Until.IsZero() && now.After(st.Until):
		out.Problem = "the lists have ended"
	case out.Problem == "" && !st.Half.IsZero() && now.After(st.Half):
		out.Problem = "half the life of the lists has passed without a fresh one"
	}
	return out, nil
}

func readState(dir string) (st state, err error) {
	st = state{Number: -1, Behind: true}
	text, unread := disk.Read(filepath.Join(dir, stateFile))
	if unread == nil {
		st.Behind = false
		err = json.Unmarshal(text, &st)
	} else if !errors.Is(unread, fs.ErrNotExist) {
		return st, unread // not damaged: this user may not read it, perhaps
	}
	if st.Made == nil {
		st.Made = map[string]time.Time{}
	}
	if st.Numbers == nil {
		st.Numbers = crls.Numbers{}
	}
	if st.Issuers == nil {
		st.Issuers = map[string][]byte{}
	}
	st.Told = max(st.Told, st.Number)
	if err = errors.Join(err, st.Check()); err != nil {
		return st, fmt.Errorf("%s is damaged: remove it and start again: %w", filepath.Join(dir, stateFile), err)
	}
	return st, nil
}

func writeState(dir string, st state) error {
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return disk.Replace(filepath.Join(dir, stateFile), append(text, '\n'))
}

// lock keeps a second relay out; it ends with the process.
func lock(dir string) (unlock func(), err error) {
	return disk.Lock(filepath.Join(dir, relayLock), fmt.Errorf("%s: another relay works in this folder: stop it first", dir))
}

// lockFiles keeps other relays off the files: each would undo what the other has its
// program take up.
func lockFiles(files []File) (unlock func(), err error) {
	paths := make([]string, len(files))
	for n, f := range files {
		paths[n] = f.Path
	}
	return disk.LockAll(paths, func(path string) error {
		return fmt.Errorf("another relay writes %s: one relay for both programs will do, with a reload of both", path)
	})
}
