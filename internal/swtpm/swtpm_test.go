package swtpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func manufacture(t *testing.T, algorithm Algorithm, o Options) (*Maker, *TPM) {
	t.Helper()
	maker, err := NewMaker(algorithm, now)
	if err != nil {
		t.Fatal(err)
	}
	tpm := Start(t)
	if err := maker.Manufacture(tpm, o); err != nil {
		t.Fatal(err)
	}
	return maker, tpm
}

// readNV reads an index with another program than the one that wrote it.
func readNV(t *testing.T, tpm *TPM, index string) []byte {
	t.Helper()
	cmd := exec.Command("tpm2_nvread", index)
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+tpm.TCTI())
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tpm2_nvread %s: %v: %s", index, err, &complaint)
	}
	return out
}

func chains(t *testing.T, leaf *x509.Certificate, root, intermediate *x509.Certificate, now time.Time) {
	t.Helper()
	// The critical directoryName is the verifier's to read; Go does not know it.
	leaf.UnhandledCriticalExtensions = nil
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	intermediates.AddCert(intermediate)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
}

func TestManufacturedCertificates(t *testing.T) {
	for _, algorithm := range []Algorithm{P256, P384, RSA} {
		t.Run(string(algorithm), func(t *testing.T) {
			maker, tpm := manufacture(t, algorithm, Options{RSA: true, P256: true, IntermediateInNV: true})
			chip, err := tpm.Open()
			if err != nil {
				t.Fatal(err)
			}
			for index, template := range map[string]tpm2.TPMTPublic{"0x01C00002": tpm2.RSAEKTemplate, "0x01C0000A": tpm2.ECCEKTemplate} {
				leaf, err := x509.ParseCertificate(readNV(t, tpm, index))
				if err != nil {
					t.Fatal(err)
				}
				chains(t, leaf, maker.Root, maker.Intermediate, now)
				key, err := primary(chip, template)
				if err != nil {
					t.Fatal(err)
				}
				if !leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key) {
					t.Errorf("%s certifies another key than the chip's EK", index)
				}
				if len(leaf.UnknownExtKeyUsage) != 1 || !leaf.UnknownExtKeyUsage[0].Equal(asn1.ObjectIdentifier{2, 23, 133, 8, 1}) {
					t.Errorf("%s: EKU %v", index, leaf.UnknownExtKeyUsage)
				}
				if !bytes.Contains(leaf.Raw, []byte(testVendor)) {
					t.Errorf("%s does not name the test vendor", index)
				}
			}
			if got := readNV(t, tpm, "0x01C00100"); !bytes.Equal(got, maker.Intermediate.Raw) {
				t.Error("the intermediate in NV differs")
			}
		})
	}
}

func TestQuirks(t *testing.T) {
	_, tpm := manufacture(t, P256, Options{Pad: 700, VendorID: "id:53544D20", Edit: func(c *x509.Certificate) {
		c.SerialNumber = big.NewInt(0)
		c.NotAfter = now.Add(-time.Minute)
	}})
	padded := readNV(t, tpm, "0x01C0000A")
	der := bytes.TrimRight(padded, "\x00")
	if len(padded)-len(der) < 700 {
		t.Errorf("%d bytes of padding", len(padded)-len(der))
	}
	leaf, err := x509.ParseCertificate(padded[:len(padded)-700])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.SerialNumber.Sign() != 0 || !leaf.NotAfter.Before(now) || !bytes.Contains(leaf.Raw, []byte("id:53544D20")) {
		t.Error("the edits are not in the certificate")
	}
}

func TestSameChipAfterPowerCut(t *testing.T) {
	tpm := Start(t)
	name := func() []byte {
		chip, err := tpm.Open()
		if err != nil {
			t.Fatal(err)
		}
		key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.ECCEKTemplate)}.Execute(chip)
		if err != nil {
			t.Fatal(err)
		}
		return key.Name.Buffer // left loaded on purpose: a power cut flushes it
	}
	first := name()
	for range 5 {
		if err := tpm.Restart(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(name(), first) {
			t.Fatal("another chip after the power cut")
		}
	}
	tpm.Kill()
	tpm.Kill()
	if chip, err := tpm.Open(); err == nil {
		if _, err := (tpm2.GetRandom{BytesRequested: 4}).Execute(chip); err == nil {
			t.Error("a killed TPM answers")
		}
	}
	if bytes.Equal(first, func() []byte { tpm = Start(t); return name() }()) {
		t.Error("two chips have the same EK")
	}
}

func TestSetupWithTools(t *testing.T) {
	base := t.TempDir()
	authority := filepath.Join(base, "authority")
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := SetupWithTools(authority, dir); err != nil {
		t.Fatal(err)
	}
	tpm, err := Run(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tpm.Kill)
	root, intermediate, err := toolsAuthorities(authority)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []string{"0x01C00002", "0x01C00016"} {
		leaf, err := x509.ParseCertificate(readNV(t, tpm, index))
		if err != nil {
			t.Fatal(err)
		}
		chains(t, leaf, root, intermediate, time.Now()) // the tools know no other time
	}
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	if _, err := Run(filepath.Join(t.TempDir(), strings.Repeat("x", socketLimit))); err == nil || !strings.Contains(err.Error(), "shorter folder") {
		t.Errorf("long path: %v", err)
	}
	if _, err := NewMaker("P-521", now); err == nil {
		t.Error("unknown algorithm accepted")
	}
	dir := t.TempDir()
	// A state that swtpm cannot read must not look like a TPM that works.
	if err := os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if tpm, err := Run(dir); err == nil {
		chip, err := tpm.Open()
		if err != nil {
			t.Fatal(err)
		}
		_, err = tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.ECCEKTemplate)}.Execute(chip)
		tpm.Kill()
		if err == nil {
			t.Error("a chip with a damaged state works")
		}
	}
}
