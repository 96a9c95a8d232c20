package native_test

import (
	"sync/atomic"
	"testing"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/wire"
)

// TestMakersChangedMeanwhile: a chip whose maker was taken out between its two messages does not
// come in as certified; what its maker has to do with it is asked anew.
func TestMakersChangedMeanwhile(t *testing.T) {
	var makers atomic.Value
	makers.Store("one")
	i := install(t, settings{makers: func() string { return makers.Load().(string) }})
	u, ticket := i.unit(t, simtpm.Options{}), i.ticket(t, nil)
	begun, err := u.begin(ticket, "SN-1")
	if err != nil {
		t.Fatal(err)
	}
	makers.Store("none")
	if _, err := u.answer(begun.Challenge); code(err) != wire.CodeSession {
		t.Errorf("after the makers changed: %v", err)
	}
	if _, err := u.Enrol(ticket, "SN-1"); err != nil {
		t.Errorf("from the beginning: %v", err)
	}
}

// A chip that no maker vouches for is what it was, whatever becomes of makers meanwhile.
func TestMakersChangedBesideAChipOfNoMaker(t *testing.T) {
	var makers atomic.Value
	makers.Store("one")
	i := install(t, settings{makers: func() string { return makers.Load().(string) }})
	u, ticket := i.unit(t, simtpm.Options{}), i.ticket(t, nil)
	u.TPM.Certificates = nil
	begun, err := u.begin(ticket, "SN-1")
	if err != nil {
		t.Fatal(err)
	}
	makers.Store("another")
	if _, err := u.answer(begun.Challenge); err != nil {
		t.Error(err)
	}
}
