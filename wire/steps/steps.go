// Package steps verifies a trust bundle that no pinned root has signed, by following the bundles
// from one that a pinned root has signed.
package steps

import (
	"fmt"

	"github.com/hallmark-pki/hallmark/wire"
)

// Open is wire.OpenBundle for the last of a list of bundles, which must be in order without gaps.
// If no root that pinned accepts has signed the last one, the first bundle that one has signed is
// opened, and the rest are followed.
func Open(list []wire.SignedBundle, pinned func(sha256 [32]byte) bool) (wire.Bundle, error) {
	if len(list) == 0 || len(list) > wire.MaxSteps {
		return wire.Bundle{}, fmt.Errorf("%d trust bundles, want 1 to %d", len(list), wire.MaxSteps)
	}
	newest, refused := wire.OpenBundle(list[len(list)-1], pinned)
	if refused == nil {
		return newest, nil
	}
	for i, s := range list {
		b, err := wire.OpenBundle(s, pinned)
		if err != nil {
			continue
		}
		for _, next := range list[i+1:] {
			if b, err = b.Follow(next); err != nil {
				return wire.Bundle{}, err
			}
		}
		return b, nil
	}
	return wire.Bundle{}, refused
}
