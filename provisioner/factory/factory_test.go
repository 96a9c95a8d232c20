package factory

import (
	"testing"

	"github.com/hallmark-pki/hallmark/wire"
)

// The server's half of a ticket must agree with the device's (package wire).
func TestVerifyAgreesWithWire(t *testing.T) {
	p, err := NewPermissions(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	id := p.NewID()
	ticket, err := wire.ParsePermission(wire.KindTicket, wire.Permission{Kind: wire.KindTicket, ID: id, Secret: p.Secret(wire.KindTicket, id), Server: "https://ca.example"}.String())
	if err != nil {
		t.Fatal(err)
	}
	binding := [32]byte{1}
	if !p.Verify(wire.KindTicket, id, binding, ticket.MAC(binding)) {
		t.Error("the right MAC was refused")
	}
	other, _ := NewPermissions(append(make([]byte, 31), 1))
	for name, ok := range map[string]bool{
		"other binding": p.Verify(wire.KindTicket, id, [32]byte{2}, ticket.MAC(binding)),
		"other id":      p.Verify(wire.KindTicket, p.NewID(), binding, ticket.MAC(binding)),
		"other kind":    p.Verify(wire.KindInvitation, id, binding, ticket.MAC(binding)),
		"other server":  other.Verify(wire.KindTicket, id, binding, ticket.MAC(binding)),
		"no MAC":        p.Verify(wire.KindTicket, id, binding, nil),
	} {
		if ok {
			t.Errorf("%s was accepted", name)
		}
	}
	if first, second := p.NewDeviceID(), p.NewDeviceID(); len(first) != 26 || first == second {
		t.Error("device IDs are not 26 fresh characters")
	}
	if _, err := NewPermissions(make([]byte, 16)); err == nil {
		t.Error("a short server secret was accepted")
	}
}
