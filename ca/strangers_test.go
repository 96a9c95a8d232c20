package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
)

// TestStrangers has OpenSSL, GnuTLS and Go verify a certificate of every kind, with the
// CRLs of the whole chain, and refuse it for what it is not.
func TestStrangers(t *testing.T) {
	a := authority(t, newStore(t))
	uses := map[profile.Kind]struct {
		purpose string // openssl verify -purpose
		not     string
	}{
		profile.IDevID: {"any", "crlsign"}, profile.AK: {"any", "sslclient"}, profile.LDevID: {"sslclient", "sslserver"},
		profile.DeviceServer: {"sslserver", "sslclient"}, profile.Server: {"sslserver", "sslclient"}, profile.Operator: {"sslclient", "sslserver"}, profile.Relay: {"sslclient", "sslserver"}, profile.OCSP: {"ocsphelper", "sslclient"}, profile.Proof: {"any", "sslclient"},
	}
	for _, r := range requests(t) {
		t.Run(string(r.Profile), func(t *testing.T) {
			got, err := a.Issue(t.Context(), event(), r)
			if err != nil {
				t.Fatal(err)
			}
			f := foundedAs(t, got[0].Record.Issuer)
			dir := files(t, f, got[0].Certificate)
			strict := []string{"-x509_strict", "-crl_check_all", "-CAfile", "root.pem", "-untrusted", "issuer.pem", "-CRLfile", "crls.pem", "-explicit_policy"}
			verify := func(extra ...string) error {
				return run(dir, "openssl", append(append([]string{"verify"}, strict...), append(extra, "leaf.pem")...)...)
			}
			policy := profile.Policy(r.Profile)
			use := uses[r.Profile]
			if err := verify("-purpose", use.purpose, "-policy", policy); err != nil {
				t.Error(err)
			}
			if err := verify("-purpose", use.not, "-policy", policy); err == nil {
				t.Errorf("OpenSSL takes it for %s", use.not)
			}
			if err := verify("-policy", profile.Policy(other(r.Profile))); err == nil {
				t.Error("OpenSSL takes it for another profile")
			}
			for _, other := range foundation(t) {
				if other.Name == f.Name {
					continue
				}
				wrong := files(t, other, got[0].Certificate)
				if run(wrong, "openssl", "verify", "-partial_chain", "-CAfile", "root.pem", "-untrusted", "issuer.pem", "leaf.pem") == nil {
					t.Errorf("OpenSSL takes it under the %s root", other.Name)
				}
			}
			if err := run(dir, "certtool", "--verify", "--verify-profile", "medium", "--load-ca-certificate", "root.pem", "--load-crl", "crls.pem", "--infile", "chain.pem"); err != nil {
				t.Error(err)
			}
			goVerify(t, f, got[0].Certificate)
		})
	}
}

func other(k profile.Kind) profile.Kind {
	if k == profile.Operator {
		return profile.LDevID
	}
	return profile.Operator
}

func foundedAs(t *testing.T, name string) ca.Founded {
	for _, f := range foundation(t) {
		if f.Name == name {
			return f
		}
	}
	t.Fatal("no issuer", name)
	return ca.Founded{}
}

// files lays out what a relying party has: root, issuer, leaf and CRLs.
func files(t *testing.T, f ca.Founded, leaf *x509.Certificate) (dir string) {
	t.Helper()
	dir = t.TempDir()
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
	}, f.Certificate, f.Signer)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	certificate := func(c *x509.Certificate) string { return block("CERTIFICATE", c.Raw) }
	for name, text := range map[string]string{
		"root.pem": certificate(f.Root), "issuer.pem": certificate(f.Certificate), "leaf.pem": certificate(leaf),
		"chain.pem": certificate(leaf) + certificate(f.Certificate), "crls.pem": block("X509 CRL", crl) + block("X509 CRL", f.RootCRL),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func run(dir, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.New(program + " " + strings.Join(args, " ") + ": " + err.Error() + "\n" + string(out))
	}
	return nil
}

// goVerify: Go's verifier, too, finds a chain, and no critical extension it does not know.
func goVerify(t *testing.T, f ca.Founded, leaf *x509.Certificate) {
	t.Helper()
	roots, issuers := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(f.Root)
	issuers.AddCert(f.Certificate)
	o := x509.VerifyOptions{Roots: roots, Intermediates: issuers, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := leaf.Verify(o); err != nil {
		t.Error(err)
	}
}

// TestFound looks at the CAs themselves.
func TestFound(t *testing.T) {
	all := foundation(t)
	names, subjects := "", map[string]bool{}
	for _, f := range all {
		names += f.Name + " "
		subjects[f.Root.Subject.String()], subjects[f.Certificate.Subject.String()] = true, true
		end := profile.NoEnd
		if f.Name != profile.Manufacturing {
			end = f.Certificate.NotBefore.AddDate(10, 0, 0).Add(-time.Second)
		}
		if !f.Certificate.NotAfter.Equal(end) || f.Root.NotAfter.Before(f.Certificate.NotAfter) {
			t.Errorf("%s: issuer until %v, root until %v", f.Name, f.Certificate.NotAfter, f.Root.NotAfter)
		}
		crl, err := x509.ParseRevocationList(f.RootCRL)
		if err != nil || !crl.NextUpdate.Equal(f.Certificate.NotAfter) || crl.CheckSignatureFrom(f.Root) != nil {
			t.Errorf("%s root's CRL: %v", f.Name, err)
		}
		if url := baseURL + "/crl/" + f.Name + "-root/0.crl"; f.Certificate.CRLDistributionPoints[0] != url {
			t.Errorf("%s: CRL at %v", f.Name, f.Certificate.CRLDistributionPoints)
		}
		dir := files(t, f, f.Certificate)
		if err := run(dir, "openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", "root.pem", "-CRLfile", "crls.pem", "issuer.pem"); err != nil {
			t.Error(err)
		}
	}
	if names != "manufacturing operational infrastructure " || len(subjects) != 6 {
		t.Errorf("issuers %swith names %v", names, subjects)
	}
}

func TestFoundRefuses(t *testing.T) {
	key := func(string) (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
	errDisk := errors.New("no disk")
	for name, f := range map[string]ca.Founding{
		"no organisation":    {BaseURL: baseURL, Now: time.Now(), Key: key},
		"https":              {Organisation: "Acme", BaseURL: "https://ca.example", Now: time.Now(), Key: key},
		"no time":            {Organisation: "Acme", BaseURL: baseURL, Key: key},
		"keys that fail":     {Organisation: "Acme", BaseURL: baseURL, Now: time.Now(), Key: func(string) (crypto.Signer, error) { return nil, errDisk }},
		"keys of P-224":      {Organisation: "Acme", BaseURL: baseURL, Now: time.Now(), Key: func(string) (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P224(), rand.Reader) }},
		"organisation of 65": {Organisation: strings.Repeat("a", 65), BaseURL: baseURL, Now: time.Now(), Key: key},
	} {
		if _, err := ca.Found(f); err == nil {
			t.Errorf("%s: founded", name)
		}
	}
}

// TestRevokeIssuer: a root's next list names the issuer, and OpenSSL refuses what it signed.
func TestRevokeIssuer(t *testing.T) {
	f, other := foundation(t)[1], foundation(t)[2]
	list, err := ca.RevokeIssuer(f.RootCRL, f.Root, f.Certificate, f.RootSigner, 2, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(list)
	if err != nil {
		t.Fatal(err)
	}
	if crl.Number.Int64() != 2 || !crl.NextUpdate.Equal(f.Certificate.NotAfter) || len(crl.RevokedCertificateEntries) != 1 ||
		crl.RevokedCertificateEntries[0].ReasonCode != 2 || crl.RevokedCertificateEntries[0].RevocationTime.After(crl.ThisUpdate) {
		t.Errorf("the list is %+v", crl)
	}
	revoked := f
	revoked.RootCRL = list
	dir := files(t, revoked, f.Certificate)
	err = run(dir, "openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", "root.pem", "-CRLfile", "crls.pem", "issuer.pem")
	if err == nil || !strings.Contains(err.Error(), "certificate revoked") {
		t.Errorf("openssl says %v", err)
	}
	for name, do := range map[string]func() ([]byte, error){
		"again": func() ([]byte, error) {
			return ca.RevokeIssuer(list, f.Root, f.Certificate, f.RootSigner, 2, time.Now())
		},
		"another key": func() ([]byte, error) {
			return ca.RevokeIssuer(f.RootCRL, f.Root, f.Certificate, other.RootSigner, 2, time.Now())
		},
		"another root's list": func() ([]byte, error) {
			return ca.RevokeIssuer(other.RootCRL, f.Root, f.Certificate, f.RootSigner, 2, time.Now())
		},
		"an issuer of another": func() ([]byte, error) {
			return ca.RevokeIssuer(f.RootCRL, f.Root, other.Certificate, f.RootSigner, 2, time.Now())
		},
		"something else than DER": func() ([]byte, error) {
			return ca.RevokeIssuer([]byte("list"), f.Root, f.Certificate, f.RootSigner, 2, time.Now())
		},
	} {
		if _, err := do(); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// TestListSignedElsewhere: OpenSSL, where the root's key is kept, signs what is brought to it,
// and what it signs follows the list in use.
func TestListSignedElsewhere(t *testing.T) {
	f := foundation(t)[1]
	unsigned, err := ca.UnsignedRevocation(f.RootCRL, f.Root, f.Certificate, 2, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(f.RootSigner)
	if err != nil {
		t.Fatal(err)
	}
	dir := files(t, f, f.Certificate)
	for name, content := range map[string][]byte{"list.tbs": unsigned.RawTBSRevocationList, "root.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(dir, "openssl", "dgst", "-sha256", "-sign", "root.key", "-out", "list.sig", "list.tbs"); err != nil {
		t.Fatal(err)
	}
	signature, err := os.ReadFile(filepath.Join(dir, "list.sig"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := ca.SignedRevocation(unsigned.RawTBSRevocationList, signature)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{list, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list})} {
		crl, err := ca.ReadRootCRL(text, f.RootCRL, f.Root, time.Now())
		if err != nil || !bytes.Equal(crl.Raw, list) || crl.Number.Int64() != 2 || crl.RevokedCertificateEntries[0].SerialNumber.Cmp(f.Certificate.SerialNumber) != 0 {
			t.Errorf("%+v, %v", crl, err)
		}
	}
	signature[len(signature)-1] ^= 1
	forged, err := ca.SignedRevocation(unsigned.RawTBSRevocationList, signature)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.ReadRootCRL(forged, f.RootCRL, f.Root, time.Now()); err == nil {
		t.Error("a forged list is taken")
	}
	if _, err := ca.SignedRevocation(list[:20], signature); err == nil {
		t.Error("half a list is joined with a signature")
	}
}

// TestReadRootCRL: a list that must not follow the one in use is refused, whoever signed it.
func TestReadRootCRL(t *testing.T) {
	f, other := foundation(t)[1], foundation(t)[2]
	now := time.Now()
	inUse, err := ca.RevokeIssuer(f.RootCRL, f.Root, f.Certificate, f.RootSigner, 2, now)
	if err != nil {
		t.Fatal(err)
	}
	same := *f.Root // another subject with the same key
	same.RawSubject = other.Root.RawSubject
	list := func(change func(*x509.RevocationList)) []byte {
		t.Helper()
		template := &x509.RevocationList{Number: big.NewInt(3), ThisUpdate: now, NextUpdate: now.AddDate(1, 0, 0),
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: f.Certificate.SerialNumber, RevocationTime: now, ReasonCode: 2}}}
		change(template)
		der, err := x509.CreateRevocationList(rand.Reader, template, f.Root, f.RootSigner)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	good := list(func(*x509.RevocationList) {})
	if _, err := ca.ReadRootCRL(good, inUse, f.Root, now); err != nil {
		t.Fatal(err)
	}
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: good})
	for name, text := range map[string][]byte{
		"the one in use": inUse,
		"an earlier one": f.RootCRL,
		"another root's": other.RootCRL,
		"yet to come":    list(func(l *x509.RevocationList) { l.ThisUpdate = now.Add(time.Hour) }),
		"over": list(func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = now.AddDate(0, -2, 0), now.AddDate(0, -1, 0)
		}),
		"one that forgets":   list(func(l *x509.RevocationList) { l.RevokedCertificateEntries = nil }),
		"one that holds":     list(func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 6 }),
		"one that takes out": list(func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 8 }),
		"a delta": list(func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
		}),
		"another's entry": list(func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}}
		}),
		"with more behind it": append(bytes.Clone(good), 0),
		"two":                 append(bytes.Clone(asPEM), asPEM...),
		"a certificate":       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Root.Raw}),
		"nothing":             nil,
		"too much":            make([]byte, ca.MaxRootCRL+1),
	} {
		if crl, err := ca.ReadRootCRL(text, inUse, f.Root, now); err == nil {
			t.Errorf("%s: taken: %+v", name, crl)
		}
	}
	if _, err := ca.ReadRootCRL(good, inUse, &same, now); err == nil {
		t.Error("a list of another name is taken")
	}
}

// FuzzReadRootCRL: whatever is brought, only the root's own list follows the one in use.
func FuzzReadRootCRL(f *testing.F) {
	found := foundation(f)[1]
	now := time.Now()
	next, err := ca.RevokeIssuer(found.RootCRL, found.Root, found.Certificate, found.RootSigner, 2, now)
	if err != nil {
		f.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(next)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(next, crl.Signature)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: next}), []byte(nil))
	f.Add(crl.RawTBSRevocationList, crl.Signature)
	f.Fuzz(func(t *testing.T, text, signature []byte) {
		if got, err := ca.ReadRootCRL(text, found.RootCRL, found.Root, now); err == nil && !bytes.Equal(got.RawTBSRevocationList, crl.RawTBSRevocationList) {
			t.Fatalf("%x", got.Raw)
		}
		if joined, err := ca.SignedRevocation(text, signature); err == nil {
			if got, err := ca.ReadRootCRL(joined, found.RootCRL, found.Root, now); err == nil && !bytes.Equal(got.RawTBSRevocationList, crl.RawTBSRevocationList) {
				t.Fatalf("%x", got.Raw)
			}
		}
	})
}
