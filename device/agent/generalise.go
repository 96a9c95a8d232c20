package agent

import (
	"strings"

	"github.com/hallmark-pki/hallmark/device/state"
)

// Generalised is the result of preparing an image.
type Generalised struct {
	// Server is where the board was enrolled; empty if it was not.
	Server string `json:"server,omitempty"`
	// Removed and Left are names in the state folder. Left also has the path of a key elsewhere.
	Removed []string `json:"removed"`
	Left    []string `json:"left,omitempty"`
}

// Generalise prepares a state folder for an image: it removes what belongs to this board and
// keeps the roots by which the next one verifies its server. The error is *state.HeldError if an
// agent is running on the folder.
func Generalise(folder string) (g Generalised, err error) {
	dir := state.At(folder)
	release, err := dir.LockAgent()
	if err != nil {
		return g, err
	}
	defer release()
	var roots [][]byte
	var key string
	if set, _, err := dir.Load(); err == nil {
		if path, ok := strings.CutPrefix(set.Key, "file:"); ok {
			key = path
		}
		if bundle, err := set.Bundle(); err == nil {
			g.Server, roots = set.Server, bundle.Infrastructure
		}
	}
	if g.Removed, g.Left, err = dir.Generalise(roots); key != "" {
		g.Left = append(g.Left, key)
	}
	return g, err
}
