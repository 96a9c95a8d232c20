package tpm2_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var binding = [32]byte{1, 2, 3}

// secret is what the tests let a device activate.
var secret = []byte("0123456789abcdef0123456789abcdef")

func newMaker(t testing.TB) *simtpm.Maker {
	t.Helper()
	m, err := simtpm.NewMaker(now)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newDevice(t testing.TB, m *simtpm.Maker, o simtpm.Options) *simtpm.Device {
	t.Helper()
	d, err := simtpm.NewDevice(m, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func trusting(t testing.TB, ders ...[]byte) func() *vendorca.Set {
	t.Helper()
	s, err := vendorca.New(ders)
	if err != nil {
		t.Fatal(err)
	}
	return func() *vendorca.Set { return s }
}

func evidence(t testing.TB, d *simtpm.Device) attest.Evidence {
	t.Helper()
	e, err := d.Evidence(binding)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEnrolmentOfEveryKind(t *testing.T) {
	m := newMaker(t)
	v := tpm2.New(trusting(t, m.Root.Raw), true)
	for _, o := range []simtpm.Options{
		{}, {EK: "H-2"}, {EK: "L-1"}, {EK: "H-1", RSA: true}, {EK: "H-3"},
	} {
		d := newDevice(t, m, o)
		p, err := v.Verify(evidence(t, d), binding, now)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		c, err := v.Challenge(p, secret)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		got, err := d.Activate(c)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		if !bytes.Equal(got, secret) {
			t.Fatalf("%+v: the device returned another secret", o)
		}
		claims, err := p.Activated(secret, got)
		if err != nil {
			t.Fatal(err)
		}
		f, err := claims.Facts()
		if err != nil {
			t.Fatal(err)
		}
		if !f.TPM.Certified || f.TPM.Uncertified != "" || f.TPM.Maker != vendorca.MakerTest || f.TPM.Model != "simtpm" {
			t.Errorf("%+v: %+v", o, f.TPM)
		}
	}
}
