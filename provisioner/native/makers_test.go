package native_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
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

// TestUnprovedNames: what no trusted maker signed does not stand in a certificate, or a chip could
// be given another's name.
func TestUnprovedNames(t *testing.T) {
	i := install(t, settings{})
	forger, err := simtpm.NewMaker(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	names, err := simtpm.AltName("id:53544D20", "ST33HTPHAHD8", "id:00010102")
	if err != nil {
		t.Fatal(err)
	}
	forger.Alter = func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{names} }
	chip, err := simtpm.NewDevice(forger, simtpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	u := i.holding(chip)
	if _, err := u.Enrol(i.ticket(t, nil), "SN-1"); err != nil {
		t.Fatal(err)
	}
	if named(t, u, "STM:") {
		t.Error("the chip is named as its own certificate has it")
	}
	honest := i.unit(t, simtpm.Options{})
	if _, err := honest.Enrol(i.ticket(t, nil), "SN-2"); err != nil {
		t.Fatal(err)
	}
	if !named(t, honest, vendorca.MakerTest+":") {
		t.Error("a chip of a trusted maker is not named")
	}
}

// named reports whether the unit's IDevID names its chip with these words.
func named(t *testing.T, u *unit, words string) bool {
	t.Helper()
	c, err := x509.ParseCertificate(u.IDevID.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range c.Extensions {
		if x.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			return bytes.Contains(x.Value, []byte(words))
		}
	}
	return false
}

// TestComingBackWithoutCertificate: a certified chip that comes back without its EK certificate
// is the same chip.
func TestComingBackWithoutCertificate(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	before := u.IDevID.Certificate[0]
	u.TPM.Certificates = nil
	if _, err := u.Enrol(wire.Permission{}, ""); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(u.IDevID.Certificate[0], before) {
		t.Error("it got another IDevID")
	}
}
