package tpm2_test

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/internal/seal"
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
		if want := map[string]string{"L-1": "RSA-2048", "H-1": "RSA-2048", "H-3": "P-384"}[o.EK]; f.TPM.EKType != cmp.Or(want, "P-256") {
			t.Errorf("%+v: the endorsement key is called %s", o, f.TPM.EKType)
		}
		if !f.TPM.Certified || f.TPM.Uncertified != "" || f.TPM.Maker != vendorca.MakerTest || f.TPM.Model != "simtpm" {
			t.Errorf("%+v: %+v", o, f.TPM)
		}
	}
}

// An AK whose scheme is RSASSA-PSS is verified by that scheme and by no other.
func TestPSS(t *testing.T) {
	m := newMaker(t)
	v := tpm2.New(trusting(t, m.Root.Raw), true)
	d := newDevice(t, m, simtpm.Options{RSA: true, AlterAK: rsaParms(func(p *gotpm.TPMSRSAParms) {
		p.Scheme = gotpm.TPMTRSAScheme{Scheme: gotpm.TPMAlgRSAPSS,
			Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSAPSS, &gotpm.TPMSSigSchemeRSAPSS{HashAlg: gotpm.TPMAlgSHA256})}
	})})
	e := evidence(t, d) // which simtpm signs by RSASSA-PKCS1-v1_5
	_, err := v.Verify(e, binding, now)
	wantRefusal(t, err, tpm2.CodeSignatureScheme)
	digest := sha256.Sum256(e.Statement)
	for _, salt := range []int{rsa.PSSSaltLengthEqualsHash, rsa.PSSSaltLengthAuto} {
		sig, err := d.AK.Sign(rand.Reader, digest[:], &rsa.PSSOptions{SaltLength: salt, Hash: crypto.SHA256})
		if err != nil {
			t.Fatal(err)
		}
		e.Signature = gotpm.Marshal(gotpm.TPMTSignature{SigAlg: gotpm.TPMAlgRSAPSS,
			Signature: gotpm.NewTPMUSignature(gotpm.TPMAlgRSAPSS, &gotpm.TPMSSignatureRSA{
				Hash: gotpm.TPMAlgSHA256, Sig: gotpm.TPM2BPublicKeyRSA{Buffer: sig}})})
		if _, err := v.Verify(e, binding, now); err != nil {
			t.Errorf("salt %d: %v", salt, err)
		}
		e.Signature[len(e.Signature)-1] ^= 1
		_, err = v.Verify(e, binding, now)
		wantRefusal(t, err, tpm2.CodeSignatureWrong)
	}
}

// What the facts say is what the chip holds.
func TestFacts(t *testing.T) {
	m := newMaker(t)
	d := newDevice(t, m, simtpm.Options{})
	p, err := tpm2.New(trusting(t, m.Root.Raw), true).Verify(evidence(t, d), binding, now)
	if err != nil {
		t.Fatal(err)
	}
	f := facts(t, p)
	if f.Kind != attest.KindTPM2 || f.Binding != binding || !bytes.Equal(f.Key, spki(t, d.IDevID)) {
		t.Errorf("kind, binding or key differ: %+v", f)
	}
	if !bytes.Equal(f.TPM.EKPublic, d.EK.Area) || !bytes.Equal(f.TPM.EKName, d.EK.Name()) || f.TPM.EKFingerprint != sha256.Sum256(spki(t, d.EK)) {
		t.Errorf("the EK differs: %+v", f.TPM)
	}
	if !bytes.Equal(f.TPM.AKPublic, d.AK.Area) || !bytes.Equal(f.TPM.AKName, d.AK.Name()) || !bytes.Equal(f.TPM.AKKey, spki(t, d.AK)) {
		t.Errorf("the AK differs: %+v", f.TPM)
	}
	if !bytes.Equal(f.TPM.EKCertificate, d.Certificates[0]) || f.TPM.EKIssuer != "CN=Simulated TPM EK CA 1,O=Simulated TPM Maker" {
		t.Errorf("the EK certificate differs: %q", f.TPM.EKIssuer)
	}
	if f.TPM.Firmware != 1<<48 {
		t.Errorf("what was attested differs: %+v", f.TPM)
	}
}

// A TPM blurs firmware and counters for an AK outside the endorsement hierarchy, so
// they must not be taken for facts.
func TestBlurredFirmwareIsLeftOut(t *testing.T) {
	m := newMaker(t)
	d := newDevice(t, m, simtpm.Options{})
	d.AlterStatement = func(s *gotpm.TPMSAttest) { s.QualifiedSigner.Buffer[5] ^= 1 }
	p, err := tpm2.New(trusting(t, m.Root.Raw), true).Verify(evidence(t, d), binding, now)
	if err != nil {
		t.Fatal(err)
	}
	if f := facts(t, p); f.TPM.Firmware != 0 {
		t.Errorf("blurred values were believed: %+v", f.TPM)
	}
}

// An unknown maker is a fact, not an error; it names the issuer and the next step.
func TestUncertified(t *testing.T) {
	m := newMaker(t)
	for name, c := range map[string]struct {
		trust func() *vendorca.Set
		send  func(*attest.Evidence)
		want  []string
	}{
		"nobody trusted": {func() *vendorca.Set { return nil }, nil, []string{"CN=Simulated TPM Root CA", "hallmark vendorca import"}},
		"other maker":    {trusting(t, newMaker(t).Root.Raw), nil, []string{"CN=Simulated TPM Root CA", "several of that name"}},
		"no intermediate sent": {trusting(t, m.Root.Raw), func(e *attest.Evidence) { e.Certificates = e.Certificates[:1] },
			[]string{"CN=Simulated TPM EK CA 1", "hallmark vendorca import"}},
	} {
		e := evidence(t, newDevice(t, m, simtpm.Options{}))
		if c.send != nil {
			c.send(&e)
		}
		p, err := tpm2.New(c.trust, true).Verify(e, binding, now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f := facts(t, p)
		if f.TPM.Certified || f.TPM.EKCertificate == nil || f.TPM.Maker == "" {
			t.Errorf("%s: %+v", name, f.TPM)
		}
		for _, want := range c.want {
			if !strings.Contains(f.TPM.Uncertified, want) {
				t.Errorf("%s: %q does not say %q", name, f.TPM.Uncertified, want)
			}
		}
	}
}

func TestWithoutCertificate(t *testing.T) {
	p, err := tpm2.New(trusting(t), false).Verify(evidence(t, newDevice(t, nil, simtpm.Options{})), binding, now)
	if err != nil {
		t.Fatal(err)
	}
	if f := facts(t, p); f.TPM.Certified || f.TPM.Uncertified != "" || f.TPM.EKCertificate != nil || f.TPM.EKIssuer != "" {
		t.Errorf("%+v", f.TPM)
	}
}

// A pinned intermediate is an anchor although its root is unknown.
func TestPinnedIntermediate(t *testing.T) {
	m := newMaker(t)
	e := evidence(t, newDevice(t, m, simtpm.Options{}))
	e.Certificates = e.Certificates[:1]
	p, err := tpm2.New(trusting(t, m.Intermediate.Raw), true).Verify(e, binding, now)
	if err != nil {
		t.Fatal(err)
	}
	if f := facts(t, p); !f.TPM.Certified {
		t.Error(f.TPM.Uncertified)
	}
}

// The certificates of an NV range come concatenated, and the EK's may be padded.
func TestCertificatesAsInNV(t *testing.T) {
	m := newMaker(t)
	e := evidence(t, newDevice(t, m, simtpm.Options{}))
	e.Certificates = [][]byte{append(slices.Clone(e.Certificates[0]), make([]byte, 300)...), slices.Concat(newMaker(t).Root.Raw, m.Intermediate.Raw, make([]byte, 50))}
	p, err := tpm2.New(trusting(t, m.Root.Raw), true).Verify(e, binding, now)
	if err != nil {
		t.Fatal(err)
	}
	if f := facts(t, p); !f.TPM.Certified {
		t.Error(f.TPM.Uncertified)
	}
}

// A certified EK may be made from a template of its maker's own.
func TestCertifiedEKNeedsNoTemplate(t *testing.T) {
	m := newMaker(t)
	d := newDevice(t, m, simtpm.Options{AlterEK: func(p *gotpm.TPMTPublic) { p.AuthPolicy.Buffer = make([]byte, 32) }})
	if _, err := tpm2.New(trusting(t, m.Root.Raw), true).Verify(evidence(t, d), binding, now); err != nil {
		t.Error(err)
	}
}

// Another TPM's certificate does not make this one's key certified.
func TestOtherKeyInCertificate(t *testing.T) {
	m := newMaker(t)
	e := evidence(t, newDevice(t, m, simtpm.Options{}))
	for _, other := range []*simtpm.Device{newDevice(t, m, simtpm.Options{}), newDevice(t, m, simtpm.Options{EK: "L-1"})} {
		e.Certificates = other.Certificates
		_, err := tpm2.New(trusting(t, m.Root.Raw), true).Verify(e, binding, now)
		wantRefusal(t, err, tpm2.CodeCertificateKey)
	}
}

func TestRenewal(t *testing.T) {
	m := newMaker(t)
	v := tpm2.New(trusting(t, m.Root.Raw), true)
	d := newDevice(t, m, simtpm.Options{})
	k, err := d.NewLDevID()
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.Certify(k, binding)
	if err != nil {
		t.Fatal(err)
	}
	p, err := v.Reverify(d.Known(), e, binding)
	if err != nil {
		t.Fatal(err)
	}
	f := facts(t, p)
	if !bytes.Equal(f.Key, spki(t, k)) || !bytes.Equal(f.TPM.AKName, d.AK.Name()) || f.TPM.EKFingerprint != sha256.Sum256(spki(t, d.EK)) || f.Binding != binding {
		t.Errorf("%+v", f)
	}
	c, err := v.Challenge(p, secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Activate(c); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("activated %x, %v", got, err)
	}

	for _, flipped := range flips(e) {
		if _, err := v.Reverify(d.Known(), flipped, binding); err == nil {
			t.Fatalf("a changed renewal was accepted: %+v", flipped)
		}
	}
	other := newDevice(t, m, simtpm.Options{})
	_, err = v.Reverify(other.Known(), e, binding)
	wantRefusal(t, err, tpm2.CodeSignatureWrong)
	_, err = v.Reverify(d.Known(), e, [32]byte{9})
	wantRefusal(t, err, tpm2.CodeStatementBinding)
	_, err = v.Reverify(attest.Known{EKPublic: d.EK.Area}, e, binding)
	wantRefusal(t, err, tpm2.CodeAKMalformed)
	_, err = v.Reverify(attest.Known{AKPublic: d.AK.Area}, e, binding)
	wantRefusal(t, err, tpm2.CodeEKMalformed)
	for _, more := range []func(*attest.Evidence){
		func(e *attest.Evidence) { e.EKPublic = d.EK.Area },
		func(e *attest.Evidence) { e.AKPublic = d.AK.Area },
		func(e *attest.Evidence) { e.Certificates = d.Certificates },
		func(e *attest.Evidence) { e.Kind = "" },
	} {
		bad := e
		more(&bad)
		_, err := v.Reverify(d.Known(), bad, binding)
		wantRefusal(t, err, attest.CodeKind)
	}
}

func TestChallenge(t *testing.T) {
	m := newMaker(t)
	v := tpm2.New(trusting(t, m.Root.Raw), true)
	d := newDevice(t, m, simtpm.Options{})
	p, err := v.Verify(evidence(t, d), binding, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 15, 33} {
		if _, err := v.Challenge(p, make([]byte, size)); err == nil {
			t.Errorf("a secret of %d bytes was accepted", size)
		}
	}
	if _, err := v.Challenge(attest.Pending{}, secret); !errors.Is(err, attest.ErrZero) {
		t.Errorf("the zero Pending gave %v", err)
	}
	if _, err := v.Challenge(seal.NewPending(attest.Facts{Kind: attest.KindSoftKey}), secret); err == nil {
		t.Error("a challenge was made for evidence of no TPM")
	}
	c, err := v.Challenge(p, secret)
	if err != nil {
		t.Fatal(err)
	}
	again, err := v.Challenge(p, secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(c.Credential, again.Credential) || bytes.Equal(c.Secret, again.Secret) {
		t.Error("two challenges are the same")
	}
	// Neither another chip nor another AK beside the same EK opens it.
	for name, other := range map[string]*simtpm.Device{
		"other chip": newDevice(t, m, simtpm.Options{}),
		"other AK":   newDevice(t, m, simtpm.Options{EKKey: d.EK.Signer}),
	} {
		if got, err := other.Activate(c); err == nil {
			t.Errorf("%s opened the challenge: %x", name, got)
		}
	}
}

// Whatever byte of evidence is changed, no claims come of it that say anything else:
// it is refused, or the chip does not open the challenge, or the change was in a
// certificate and certified is lost, or in how a certified EK may be used.
func TestEveryByteFlipped(t *testing.T) {
	m := newMaker(t)
	v := tpm2.New(trusting(t, m.Root.Raw), true)
	d := newDevice(t, m, simtpm.Options{})
	good := evidence(t, d)
	want, ok := claims(t, v, d, good)
	if !ok {
		t.Fatal("the unchanged evidence was not accepted")
	}
	for _, flipped := range flips(good) {
		got, ok := claims(t, v, d, flipped)
		if !ok {
			continue
		}
		if got.TPM.Certified {
			if !bytes.Equal(got.TPM.EKCertificate, want.TPM.EKCertificate) {
				t.Fatal("a changed certificate was believed")
			}
			got.TPM.EKPublic, got.TPM.EKName = want.TPM.EKPublic, want.TPM.EKName
		} else {
			got.TPM.EKCertificate, got.TPM.EKIssuer = want.TPM.EKCertificate, want.TPM.EKIssuer
			got.TPM.Maker, got.TPM.Model = want.TPM.Maker, want.TPM.Model
			got.TPM.Certified, got.TPM.Uncertified = true, ""
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("claims with changed content:\n%+v\n%+v", got.TPM, want.TPM)
		}
	}
}

// claims runs an enrolment to its end; ok is false if evidence or activation failed.
func claims(t *testing.T, v *tpm2.Verifier, d *simtpm.Device, e attest.Evidence) (f attest.Facts, ok bool) {
	t.Helper()
	p, err := v.Verify(e, binding, now)
	if err != nil {
		var r *attest.Refusal
		if !errors.As(err, &r) {
			t.Fatalf("not a refusal: %v", err)
		}
		return f, false
	}
	c, err := v.Challenge(p, secret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Activate(c)
	if err != nil {
		return f, false
	}
	proved, err := p.Activated(secret, got)
	if err != nil {
		t.Fatal(err)
	}
	if f, err = proved.Facts(); err != nil {
		t.Fatal(err)
	}
	chip := *f.TPM
	f.TPM = &chip
	return f, true
}

// FuzzVerify begins with evidence that passes. What else passes must carry a signature
// that holds when it is looked at without our code: a fuzzer cannot sign.
func FuzzVerify(f *testing.F) {
	m := newMaker(f)
	v := tpm2.New(trusting(f, m.Root.Raw), true)
	for _, o := range []simtpm.Options{{}, {EK: "L-1", RSA: true}, {EK: "H-3"}} {
		e := evidence(f, newDevice(f, m, o))
		f.Add(e.Certificates[0], e.Certificates[1], e.EKPublic, e.AKPublic, e.Key, e.Statement, e.Signature)
	}
	f.Fuzz(func(t *testing.T, certificate, helpers, ek, ak, key, statement, signature []byte) {
		e := attest.Evidence{Kind: attest.KindTPM2, Certificates: [][]byte{certificate, helpers},
			EKPublic: ek, AKPublic: ak, Key: key, Statement: statement, Signature: signature}
		p, err := v.Verify(e, binding, now)
		if err != nil {
			var r *attest.Refusal
			if !errors.As(err, &r) || r.Code == "" || r.Detail == "" {
				t.Errorf("not a refusal with code and reason: %v", err)
			}
			return
		}
		name := sha256.Sum256(key)
		if !bytes.Contains(statement, binding[:]) || !bytes.Contains(statement, name[:]) || !signed(t, facts(t, p).TPM.AKKey, statement, signature) {
			t.Errorf("evidence that nobody signed was accepted: %+v", e)
		}
		if _, err := v.Challenge(p, secret); err != nil {
			t.Errorf("no challenge for accepted evidence: %v", err)
		}
	})
}

// signed verifies the signature as simtpm makes them: SHA-256, ECDSA or RSASSA.
func signed(t *testing.T, spki, message, signature []byte) bool {
	t.Helper()
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(message)
	if key, ok := key.(*rsa.PublicKey); ok { // algorithm, hash, size, signature
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature[6:]) == nil
	}
	r, rest := unsized(t, signature[4:])
	s, _ := unsized(t, rest)
	return ecdsa.Verify(key.(*ecdsa.PublicKey), digest[:], new(big.Int).SetBytes(r), new(big.Int).SetBytes(s))
}

// flips are copies of e in each of which one byte is changed in one of two ways.
func flips(e attest.Evidence) []attest.Evidence {
	var all []attest.Evidence
	add := func(part []byte, with func(*attest.Evidence, []byte)) {
		for i := range part {
			for _, mask := range []byte{0x01, 0x80} {
				changed := slices.Clone(part)
				changed[i] ^= mask
				c := e
				with(&c, changed)
				all = append(all, c)
			}
		}
	}
	add(e.EKPublic, func(e *attest.Evidence, b []byte) { e.EKPublic = b })
	add(e.AKPublic, func(e *attest.Evidence, b []byte) { e.AKPublic = b })
	add(e.Key, func(e *attest.Evidence, b []byte) { e.Key = b })
	add(e.Statement, func(e *attest.Evidence, b []byte) { e.Statement = b })
	add(e.Signature, func(e *attest.Evidence, b []byte) { e.Signature = b })
	for i, c := range e.Certificates {
		add(c, func(e *attest.Evidence, b []byte) {
			e.Certificates = slices.Clone(e.Certificates)
			e.Certificates[i] = b
		})
	}
	return all
}

func facts(t testing.TB, p attest.Pending) attest.Facts {
	t.Helper()
	f, err := p.Facts()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func spki(t testing.TB, k *simtpm.Key) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}
