package agent

import (
	"encoding/json"

	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
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
	var bundle wire.Bundle
	if set, _, err := dir.Load(); err == nil && json.Unmarshal(set.Trust.Bundle, &bundle) == nil { // it was verified before it was kept
		g.Server = set.Server
	}
	g.Removed, g.Left, err = dir.Generalise(bundle.Infrastructure)
	return g, err
}
