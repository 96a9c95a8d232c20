// Package bundle keeps the trust bundle that a relay follows. The first is verified by a pinned root,
// and each later one by the keys that the one before it names, as on a device.
package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/hallmark-pki/hallmark/relay/disk"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/steps"
)

// file is where the newest one is kept, in the relay's folder, as it was signed.
const file = "trust.json"

// Take gives the newest bundle of a server's answer, and keeps it in the folder.
func Take(dir string, answer wire.RelayTrust, pinned func(sha256 [32]byte) bool) (wire.Bundle, error) {
	path := filepath.Join(dir, file)
	text, err := disk.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, s, err := first(answer, pinned)
		if err != nil {
			return b, err
		}
		return b, keep(path, s)
	}
	var held wire.SignedBundle
	if err == nil {
		err = json.Unmarshal(text, &held)
	}
	known, damaged := wire.ReadBundle(held)
	if err = errors.Join(err, damaged); err != nil {
		return wire.Bundle{}, fmt.Errorf("%s is damaged: remove it and try again: %w", path, err)
	}
	b, err := follow(known, held, answer)
	if errors.Is(err, errKeys) {
		err = fmt.Errorf("%w: if its keys are known to be right, remove %s, and the pinned root decides", err, path)
	}
	if err != nil || bytes.Equal(held.Bundle, answer.Bundle.Bundle) {
		return b, err
	}
	return b, keep(path, answer.Bundle)
}

func keep(path string, s wire.SignedBundle) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return disk.Replace(path, text)
}

// first opens the newest by a pinned root, or by the steps that lead from that root to other keys.
func first(answer wire.RelayTrust, pinned func(sha256 [32]byte) bool) (wire.Bundle, wire.SignedBundle, error) {
	b, err := wire.OpenBundle(answer.Bundle, pinned)
	if n := len(answer.Steps); err != nil && n > 0 {
		b, err = steps.Open(answer.Steps, pinned)
		return b, answer.Steps[n-1], err
	}
	return b, answer.Bundle, err
}

// errKeys: the keys that are known do not lead to those of the newest.
var errKeys = errors.New("the keys that are known here have not signed the server's new ones")

// follow goes from the known one to the newest, over those in between as far as the answer has them:
// a server does not keep them for ever, and the known keys may have signed the newest directly.
func follow(known wire.Bundle, held wire.SignedBundle, answer wire.RelayTrust) (wire.Bundle, error) {
	b, last := known, held
	for _, s := range append(answer.Steps, answer.Bundle) {
		if next, err := b.Follow(s); err == nil {
			b, last = next, s
		}
	}
	if bytes.Equal(last.Bundle, answer.Bundle.Bundle) {
		return b, nil
	}
	newest, err := wire.ReadBundle(answer.Bundle)
	switch signed, want := answer.Bundle.Signed(b); {
	case err != nil:
		return newest, err
	case newest.Number <= b.Number:
		return newest, fmt.Errorf("trust bundle %d is older than %d, which is known here, or another of its number", newest.Number, b.Number)
	case signed < want:
		return newest, fmt.Errorf("%w: trust bundle %d is signed by %d of the keys that bundle %d names, want %d", errKeys, newest.Number, signed, b.Number, want)
	}
	return newest, nil
}
