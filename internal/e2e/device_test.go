package e2e

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/agent"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
	"github.com/hallmark-pki/hallmark/wire"
)

// unit is a device: a chip, a state folder, and a clock that may be wrong.
type unit struct {
	*house
	chip *swtpm.TPM
	dir  string
	// wrong is by how much the device's clock is ahead.
	wrong time.Duration
	said  []string
}

func (h *house) unit(t testing.TB) *unit {
	t.Helper()
	chip := swtpm.Start(t)
	if err := h.maker.Manufacture(chip, swtpm.Options{}); err != nil {
		t.Fatal(err)
	}
	return &unit{house: h, chip: chip, dir: filepath.Join(t.TempDir(), "state")}
}

func (u *unit) options() device.Options {
	return device.Options{State: u.dir, TPM: u.chip.Spec(), Now: func() time.Time { return u.now().Add(u.wrong) },
		Report: func(line string) { u.said = append(u.said, line) }}
}

func (u *unit) agent() *agent.Agent {
	return &agent.Agent{Options: u.options(), Version: "v1", Servers: []string{u.url}, Roots: [][]byte{u.first.Raw},
		Log: func(_ agent.Priority, line string) { u.said = append(u.said, line) }}
}

func (u *unit) enrolled(serial string) *unit {
	u.t.Helper()
	must[device.Result](u.t)(device.Enrol(u.t.Context(), device.Enrolment{Options: u.options(), Ticket: u.ticket(), Serial: serial}))
	return u
}

func (u *unit) load() state.Set {
	u.t.Helper()
	set, damaged, err := state.At(u.dir).Load()
	if err != nil || damaged != nil {
		u.t.Fatal(err, damaged)
	}
	return set
}

func (u *unit) trust() int64 {
	u.t.Helper()
	return must[wire.Bundle](u.t)(wire.ReadBundle(u.load().Trust)).Number
}

// works makes sure that the identity is one: the working certificate is valid at the true
// time, ends in a root that relying parties trust now, is good on record, and the chip
// signs with its key. Then nothing stale is in the folder either.
func (u *unit) works() {
	u.t.Helper()
	b := u.bundle()
	verify := func(what string, roots, chain [][]byte) *x509.Certificate {
		u.t.Helper()
		pool, intermediates := x509.NewCertPool(), x509.NewCertPool()
		for _, der := range roots {
			pool.AddCert(must[*x509.Certificate](u.t)(x509.ParseCertificate(der)))
		}
		for _, der := range chain[1:] {
			intermediates.AddCert(must[*x509.Certificate](u.t)(x509.ParseCertificate(der)))
		}
		leaf := must[*x509.Certificate](u.t)(x509.ParseCertificate(chain[0]))
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, CurrentTime: u.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			u.t.Fatalf("the %s does not work: %v; said %q", what, err, u.said)
		}
		return leaf
	}
	set := u.load()
	if len(set.LDevID) == 0 || len(set.IDevID) == 0 {
		u.t.Fatalf("no identity; said %q", u.said)
	}
	verify("birth certificate", b.Manufacturing, set.IDevID)
	leaf := verify("working certificate", b.Operational, set.LDevID)
	credential := must[*device.Credential](u.t)(device.OpenCredential(u.dir, u.chip.Spec()))
	defer credential.Close()
	digest := sha256.Sum256([]byte("hello"))
	signature := must[[]byte](u.t)(credential.Signer().Sign(nil, digest[:], crypto.SHA256))
	if err := leaf.CheckSignature(x509.ECDSAWithSHA256, []byte("hello"), signature); err != nil {
		u.t.Fatalf("key and certificate are no pair: %v", err)
	}
}

// tidy makes sure that nothing stale is in the folder: the set in use, the one before it,
// and what leads there.
func (u *unit) tidy() {
	u.t.Helper()
	var sets, others []string
	for _, e := range must[[]os.DirEntry](u.t)(os.ReadDir(u.dir)) {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "set-"):
			sets = append(sets, name)
		case !slices.Contains([]string{"current", "ldevid.pem", "ldevid.key", "idevid.pem", "lock", "agent.lock", "outcome.json"}, name):
			others = append(others, name)
		}
	}
	if len(sets) > 2 || len(others) > 0 {
		u.t.Fatalf("stale files: %q, %q", sets, others)
	}
	// What other programs read is what the agent has.
	set := u.load()
	text := must[[]byte](u.t)(os.ReadFile(filepath.Join(u.dir, "ldevid.pem")))
	if block, _ := pem.Decode(text); block == nil || string(block.Bytes) != string(set.LDevID[0]) {
		u.t.Fatal("ldevid.pem is not the working certificate")
	}
}

// copyTo copies a state folder, links and all.
func copyTo(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// lines is every line of CAs, the one in the middle of things last.
var lines = []string{profile.Manufacturing, profile.Operational, profile.Infrastructure}
