package agent

import (
	"github.com/hallmark-pki/hallmark/device/state"
)

// Generalised is what the preparation of an image came to.
type Generalised struct {
	// Server is the one that the board was enrolled at; empty if it was not.
	Server string `json:"server,omitempty"`
	// Removed and Left are names in the state folder.
	Removed []string `json:"removed"`
	Left    []string `json:"left,omitempty"`
}

// Generalise makes a state folder that of an image: it forgets the board and keeps the
// roots by which the next one knows its server. The error is *state.HeldError if an agent
// looks after the folder.
func Generalise(folder string) (g Generalised, err error) {
	dir := state.At(folder)
	release, err := dir.LockAgent()
	if err != nil {
		return g, err
	}
	defer release()
	var roots [][]byte
	if set, _, err := dir.Load(); err == nil {
		if bundle, err := set.Bundle(); err == nil {
			g.Server, roots = set.Server, bundle.Infrastructure
		}
	}
	g.Removed, g.Left, err = dir.Generalise(roots)
	return g, err
}
