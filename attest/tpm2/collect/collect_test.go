package collect_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

func open(t *testing.T, chip *swtpm.TPM) *collect.Device {
	t.Helper()
	d, err := collect.Open(chip.Spec())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func manufacture(t *testing.T, o swtpm.Options) *swtpm.TPM {
	t.Helper()
	chip := swtpm.Start(t)
	maker, err := swtpm.NewMaker(swtpm.P256, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := maker.Manufacture(chip, o); err != nil {
		t.Fatal(err)
	}
	return chip
}

// raw runs f on the bare TPM, with no Device open.
func raw(t *testing.T, chip *swtpm.TPM, f func(send rawTPM)) {
	t.Helper()
	tpm, err := chip.Open()
	if err != nil {
		t.Fatal(err)
	}
	f(tpm)
}

// command runs a TPM command that go-tpm lacks, with one handle and its empty password.
func command(t *testing.T, tpm rawTPM, code, handle, parameters string) {
	t.Helper()
	body, err := hex.DecodeString(code + handle + "00000009" + "40000009" + "0000" + "00" + "0000" + parameters)
	if err != nil {
		t.Fatal(err)
	}
	r, err := tpm.Send(append([]byte{0x80, 0x02, 0, 0, 0, byte(6 + len(body))}, body...))
	if err != nil || !bytes.Equal(r[6:10], make([]byte, 4)) {
		t.Fatalf("%x %v", r, err)
	}
}

type rawTPM interface {
	Send([]byte) ([]byte, error)
}

// transients counts the objects and sessions in the TPM.
func transients(t *testing.T, chip *swtpm.TPM) int {
	t.Helper()
	n := 0
	raw(t, chip, func(tpm rawTPM) {
		for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} { // objects, sessions loaded and saved
			r, err := gotpm.GetCapability{Capability: gotpm.TPMCapHandles, Property: first, PropertyCount: 20}.Execute(tpm)
			if err != nil {
				t.Fatal(err)
			}
			list, err := r.CapabilityData.Data.Handles()
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range list.Handle {
				if kind := uint32(h) >> 24; kind == first>>24 || kind == 3 && first>>24 == 2 {
					n++
				}
			}
		}
	})
	return n
}

// challenge is the server's half of a credential activation.
func challenge(t *testing.T, ekPublic, akPublic, secret []byte) attest.Challenge {
	t.Helper()
	ek, err := gotpm.Unmarshal[gotpm.TPMTPublic](ekPublic)
	if err != nil {
		t.Fatal(err)
	}
	encapsulate, err := gotpm.ImportEncapsulationKey(ek)
	if err != nil {
		t.Fatal(err)
	}
	id, enc, err := gotpm.CreateCredential(rand.Reader, encapsulate, name(t, akPublic), secret)
	if err != nil {
		t.Fatal(err)
	}
	return attest.Challenge{Credential: id, Secret: enc}
}

func name(t *testing.T, public []byte) []byte {
	t.Helper()
	p, err := gotpm.Unmarshal[gotpm.TPMTPublic](public)
	if err != nil {
		t.Fatal(err)
	}
	n, err := gotpm.ObjectName(p)
	if err != nil {
		t.Fatal(err)
	}
	return n.Buffer
}

func identify(t *testing.T, d *collect.Device) (collect.Identity, *collect.Key) {
	t.Helper()
	id, err := d.Identify()
	if err != nil {
		t.Fatal(err)
	}
	k, err := d.IDevID()
	if err != nil {
		t.Fatal(err)
	}
	return id, k
}

// checkCertify holds a certification against the attestation key, the binding and the key.
func checkCertify(t *testing.T, d *collect.Device, id collect.Identity, k *collect.Key) {
	t.Helper()
	binding := sha256.Sum256([]byte("binding"))
	statement, signature, err := d.Certify(k, binding)
	if err != nil {
		t.Fatal(err)
	}
	a, err := gotpm.Unmarshal[gotpm.TPMSAttest](statement)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Attested.Certify()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.ExtraData.Buffer, binding[:]) || !bytes.Equal(c.Name.Buffer, name(t, k.TPMPublic())) {
		t.Fatal("the statement is about another binding or key")
	}
	ak, err := gotpm.Unmarshal[gotpm.TPMTPublic](id.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	s, err := gotpm.Unmarshal[gotpm.TPMTSignature](signature)
	if err != nil {
		t.Fatal(err)
	}
	public, err := gotpm.Pub(*ak)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := s.Signature.ECDSA()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(statement)
	if !ecdsa.Verify(public.(*ecdsa.PublicKey), digest[:], new(big.Int).SetBytes(ec.SignatureR.Buffer), new(big.Int).SetBytes(ec.SignatureS.Buffer)) {
		t.Fatal("the statement is not signed by the attestation key")
	}
}

func TestEnrolmentAndRenewal(t *testing.T) {
	for kind, o := range map[string]swtpm.Options{"RSA": {RSA: true}, "P256": {P256: true}, "both": {RSA: true, P256: true}} {
		t.Run(kind, func(t *testing.T) {
			chip := manufacture(t, o)
			d := open(t, chip)
			id, idevid := identify(t, d)
			if len(id.EKCertificates) == 0 || id.Warning != "" {
				t.Fatalf("%d EK certificates, warning %q", len(id.EKCertificates), id.Warning)
			}
			ek, err := gotpm.Unmarshal[gotpm.TPMTPublic](id.EKPublic)
			if err != nil {
				t.Fatal(err)
			}
			if want := o.P256; (ek.Type == gotpm.TPMAlgECC) != want {
				t.Fatalf("EK of type %v", ek.Type)
			}
			checkCertify(t, d, id, idevid)
			activates(t, d, id)
			t.Logf("%d TPM commands for an enrolment", d.Commands())
			before := d.Commands()
			activates(t, d, id)
			ldevid, err := d.NewLDevID()
			if err != nil {
				t.Fatal(err)
			}
			checkCertify(t, d, id, ldevid)
			signs(t, ldevid)
			signs(t, idevid)
			t.Logf("%d TPM commands for a renewal", d.Commands()-before)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if n := transients(t, chip); n != 0 {
				t.Fatalf("%d objects and sessions left in the TPM", n)
			}
		})
	}
}

func activates(t *testing.T, d *collect.Device, id collect.Identity) {
	t.Helper()
	secret := make([]byte, 32)
	rand.Read(secret)
	got, err := d.Activate(challenge(t, id.EKPublic, id.AKPublic, secret))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, secret) {
		t.Fatal("another secret came back")
	}
}

func signs(t *testing.T, k *collect.Key) {
	t.Helper()
	message := []byte("message")
	d256, d384, d512 := sha256.Sum256(message), sha512.Sum384(message), sha512.Sum512(message)
	for hash, digest := range map[crypto.Hash][]byte{crypto.SHA256: d256[:], crypto.SHA384: d384[:], crypto.SHA512: d512[:]} {
		s, err := k.Sign(rand.Reader, digest, hash)
		if err != nil {
			t.Fatal(err)
		}
		if !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest, s) {
			t.Fatalf("%v: the signature does not verify", hash)
		}
	}
	if _, err := k.Sign(rand.Reader, d256[:], crypto.SHA1); err == nil {
		t.Fatal("SHA-1 was accepted")
	}
	if _, err := k.Sign(rand.Reader, d256[:31], crypto.SHA256); err == nil {
		t.Fatal("a short digest was accepted")
	}
}

// The high-range P-384 EK, made as swtpm_setup makes it.
func TestP384Endorsement(t *testing.T) {
	chip := swtpm.Start(t)
	var certificate []byte
	raw(t, chip, func(tpm rawTPM) {
		template := tpm2.EKTemplates()[4]
		r, err := gotpm.CreatePrimary{PrimaryHandle: gotpm.TPMRHEndorsement, InPublic: gotpm.New2B(template.Public)}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (gotpm.FlushContext{FlushHandle: r.ObjectHandle}).Execute(tpm); err != nil {
			t.Fatal(err)
		}
		certificate = selfSigned(t, r.OutPublic)
		writeNV(t, tpm, template.Certificate, certificate)
	})
	d := open(t, chip)
	id, idevid := identify(t, d)
	ek, err := gotpm.Unmarshal[gotpm.TPMTPublic](id.EKPublic)
	if err != nil || ek.NameAlg != gotpm.TPMAlgSHA384 {
		t.Fatalf("EK with name algorithm %v: %v", ek.NameAlg, err)
	}
	if !bytes.Equal(id.EKCertificates[0], certificate) {
		t.Fatal("another EK certificate")
	}
	checkCertify(t, d, id, idevid)
	activates(t, d, id)
}

// A chip without certificates gives its first template; one whose certificate is for
// another key (a new endorsement seed) says so.
func TestWithoutMatchingCertificate(t *testing.T) {
	bare := swtpm.Start(t)
	d := open(t, bare)
	id, _ := identify(t, d)
	if len(id.EKCertificates) != 0 || id.Warning != "" {
		t.Fatalf("%d certificates, warning %q", len(id.EKCertificates), id.Warning)
	}
	activates(t, d, id)
	d.Close()

	reseeded := manufacture(t, swtpm.Options{P256: true})
	raw(t, reseeded, func(tpm rawTPM) {
		command(t, tpm, "00000124", "4000000c", "") // TPM2_ChangeEPS(TPM_RH_PLATFORM)
	})
	d = open(t, reseeded)
	id, _ = identify(t, d)
	if len(id.EKCertificates) != 0 || id.Warning == "" {
		t.Fatalf("%d certificates, warning %q", len(id.EKCertificates), id.Warning)
	}
	activates(t, d, id)
}

// A nonce in NV makes another EK (EK Credential Profile B.3.2).
func TestEndorsementNonce(t *testing.T) {
	chip := swtpm.Start(t)
	raw(t, chip, func(tpm rawTPM) {
		nonce := []byte("nonce of the maker")
		template := tpm2.EKTemplates()[0]
		public := template.Public
		public.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{
			X: gotpm.TPM2BECCParameter{Buffer: append(bytes.Clone(nonce), make([]byte, 32-len(nonce))...)},
			Y: gotpm.TPM2BECCParameter{Buffer: make([]byte, 32)}})
		r, err := gotpm.CreatePrimary{PrimaryHandle: gotpm.TPMRHEndorsement, InPublic: gotpm.New2B(public)}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (gotpm.FlushContext{FlushHandle: r.ObjectHandle}).Execute(tpm); err != nil {
			t.Fatal(err)
		}
		writeNV(t, tpm, template.Nonce, nonce)
		writeNV(t, tpm, template.Certificate, selfSigned(t, r.OutPublic))
	})
	d := open(t, chip)
	id, _ := identify(t, d)
	if len(id.EKCertificates) != 1 || id.Warning != "" {
		t.Fatalf("%d certificates, warning %q", len(id.EKCertificates), id.Warning)
	}
	activates(t, d, id)
}

// Intermediates on the chip are sent along, and a persistent RSA EK is used where it is.
func TestIntermediatesAndPersistentEK(t *testing.T) {
	chip := manufacture(t, swtpm.Options{RSA: true, IntermediateInNV: true})
	d := open(t, chip)
	id, _ := identify(t, d)
	if len(id.EKCertificates) != 2 {
		t.Fatalf("%d certificates", len(id.EKCertificates))
	}
	d.Close()
	raw(t, chip, func(tpm rawTPM) {
		template := tpm2.EKTemplates()[2]
		r, err := gotpm.CreatePrimary{PrimaryHandle: gotpm.TPMRHEndorsement, InPublic: gotpm.New2B(template.Public)}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (gotpm.EvictControl{Auth: gotpm.AuthHandle{Handle: gotpm.TPMRHOwner, Auth: gotpm.PasswordAuth(nil)},
			ObjectHandle: &gotpm.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}, PersistentHandle: gotpm.TPMHandle(template.Persistent)}).Execute(tpm); err != nil {
			t.Fatal(err)
		}
	})
	d = open(t, chip)
	again, idevid := identify(t, d)
	if !bytes.Equal(id.EKPublic, again.EKPublic) {
		t.Fatal("another EK")
	}
	checkCertify(t, d, again, idevid)
	activates(t, d, again)
	d.Close()
	if n := transients(t, chip); n != 0 {
		t.Fatalf("%d objects and sessions left in the TPM", n)
	}
}

// IDevID and AK are the same after a restart and after TPM2_Clear, which ends the LDevID.
func TestClear(t *testing.T) {
	chip := manufacture(t, swtpm.Options{P256: true})
	d := open(t, chip)
	id, idevid := identify(t, d)
	ldevid, err := d.NewLDevID()
	if err != nil {
		t.Fatal(err)
	}
	d.Close()

	d = open(t, chip)
	loaded, err := d.LoadLDevID(ldevid.PEM())
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.Public().(*ecdsa.PublicKey).Equal(ldevid.Public()) || !bytes.Equal(loaded.PEM(), ldevid.PEM()) {
		t.Fatal("another key was loaded")
	}
	checkCertify(t, d, id, loaded)
	d.Close()

	raw(t, chip, func(tpm rawTPM) {
		if _, err := (gotpm.Clear{AuthHandle: gotpm.AuthHandle{Handle: gotpm.TPMRHLockout, Auth: gotpm.PasswordAuth(nil)}}).Execute(tpm); err != nil {
			t.Fatal(err)
		}
	})
	d = open(t, chip)
	after, idevidAfter := identify(t, d)
	if !bytes.Equal(after.AKPublic, id.AKPublic) || !bytes.Equal(idevidAfter.TPMPublic(), idevid.TPMPublic()) || !bytes.Equal(after.EKPublic, id.EKPublic) {
		t.Fatal("TPM2_Clear changed the identity")
	}
	activates(t, d, after)
	if _, err := d.LoadLDevID(ldevid.PEM()); !errors.Is(err, collect.ErrOtherTPM) {
		t.Fatalf("loading a key from before TPM2_Clear: %v", err)
	}
}

// Another chip loads none of our keys and opens none of our challenges.
func TestOtherChip(t *testing.T) {
	for kind, o := range map[string]swtpm.Options{"RSA": {RSA: true}, "P256": {P256: true}} {
		t.Run(kind, func(t *testing.T) {
			a, b := open(t, manufacture(t, o)), open(t, manufacture(t, o))
			id, _ := identify(t, a)
			key, err := a.NewLDevID()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.LoadLDevID(key.PEM()); !errors.Is(err, collect.ErrOtherTPM) {
				t.Fatalf("loading another chip's key: %v", err)
			}
			if _, err := b.Activate(challenge(t, id.EKPublic, id.AKPublic, make([]byte, 32))); !errors.Is(err, collect.ErrOtherTPM) {
				t.Fatalf("activating another chip's challenge: %v", err)
			}
			identify(t, b)
		})
	}
}

// Power cuts without TPM2_Shutdown count as wrong passwords for keys under lockout
// protection; policy sessions do not care, not even while the TPM is locked out.
func TestPowerCuts(t *testing.T) {
	chip := manufacture(t, swtpm.Options{RSA: true})
	for range 6 {
		d := open(t, chip)
		id, idevid := identify(t, d)
		checkCertify(t, d, id, idevid)
		signs(t, idevid)
		activates(t, d, id)
		if err := chip.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	raw(t, chip, func(tpm rawTPM) {
		// TPM2_DictionaryAttackParameters(TPM_RH_LOCKOUT): no tries at all, locked out from now on.
		command(t, tpm, "0000013a", "4000000a", "00000000"+"000003e8"+"000003e8")
	})
	d := open(t, chip)
	id, idevid := identify(t, d)
	checkCertify(t, d, id, idevid)
	activates(t, d, id)
}

// What a killed process left in a TPM without resource manager is flushed at the start.
func TestStaleObjects(t *testing.T) {
	chip := swtpm.Start(t)
	raw(t, chip, func(tpm rawTPM) {
		for range 3 {
			if _, err := (gotpm.CreatePrimary{PrimaryHandle: gotpm.TPMRHOwner, InPublic: gotpm.New2B(tpm2.SRKTemplate())}).Execute(tpm); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := (gotpm.StartAuthSession{TPMKey: gotpm.TPMRHNull, Bind: gotpm.TPMRHNull, NonceCaller: gotpm.TPM2BNonce{Buffer: make([]byte, 16)},
			SessionType: gotpm.TPMSEPolicy, AuthHash: gotpm.TPMAlgSHA256}).Execute(tpm); err != nil {
			t.Fatal(err)
		}
	})
	if n := transients(t, chip); n != 4 {
		t.Fatalf("%d stale objects and sessions, want 4", n)
	}
	identify(t, open(t, chip))
}

// A failed operation leaves neither sessions nor more than the cached keys.
func TestNothingLeftAfterFailure(t *testing.T) {
	chip := manufacture(t, swtpm.Options{P256: true})
	d := open(t, chip)
	id, _ := identify(t, d)
	for range 70 { // more than a TPM has sessions
		c := challenge(t, id.EKPublic, id.AKPublic, make([]byte, 32))
		c.Credential[5] ^= 1
		if _, err := d.Activate(c); err == nil {
			t.Fatal("a damaged challenge was activated")
		}
	}
	activates(t, d, id)
	d.Close()
	if n := transients(t, chip); n != 0 {
		t.Fatalf("%d objects and sessions left", n)
	}
}

// A software TPM takes the rest of a command that is too large for the next command.
func TestChallengeLargerThanACommand(t *testing.T) {
	chip := swtpm.Start(t)
	d := open(t, chip)
	key, err := d.IDevID()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := d.Activate(attest.Challenge{Credential: make([]byte, 40_000), Secret: []byte{1}}); err == nil {
			t.Fatal("the challenge was opened")
		}
		if _, err := key.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
			t.Fatal(err)
		}
	}
}

func TestErrorsForTechnicians(t *testing.T) {
	hierarchy := swtpm.Start(t)
	raw(t, hierarchy, func(tpm rawTPM) {
		if _, err := (gotpm.HierarchyChangeAuth{AuthHandle: gotpm.AuthHandle{Handle: gotpm.TPMRHEndorsement, Auth: gotpm.PasswordAuth(nil)},
			NewAuth: gotpm.TPM2BAuth{Buffer: []byte("secret")}}).Execute(tpm); err != nil {
			t.Fatal(err)
		}
	})
	d := open(t, hierarchy)
	_, err := d.Identify()
	want(t, err, collect.ErrPassword)

	for _, spec := range []string{"/dev/no-such-tpm", "unix:/nonexistent", "nonsense", "tcp:127.0.0.1:1", hierarchy.Socket(), t.TempDir()} {
		_, err = collect.Open(spec)
		want(t, err, collect.ErrMissing)
	}

	killed := swtpm.Start(t)
	d = open(t, killed)
	killed.Kill()
	_, err = d.Identify()
	want(t, err, collect.ErrFailure)
	_, err = d.Identify()
	want(t, err, collect.ErrMissing)
	if err := killed.Restart(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Identify(); err != nil { // a daemon does not need to be started again
		t.Fatal(err)
	}
	d.Close()
	if _, err := d.Identify(); err == nil {
		t.Fatal("a closed TPM answers")
	}
}

// A software TPM serves one client and lets the next wait without a word.
func TestBusy(t *testing.T) {
	t.Parallel()
	chip := swtpm.Start(t)
	other, err := net.Dial("unix", chip.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = collect.Open(chip.Spec())
	want(t, err, collect.ErrBusy)
}

// Two programs that sign without a pause share a TPM without resource manager, and find
// their keys again although the other has flushed them.
func TestTurns(t *testing.T) {
	t.Parallel()
	chip := swtpm.Start(t)
	var signers sync.WaitGroup
	for range 2 {
		d := open(t, chip)
		key, err := d.NewLDevID()
		if err != nil {
			t.Fatal(err)
		}
		signers.Go(func() {
			for begun := time.Now(); time.Since(begun) < 5*time.Second; {
				digest := sha256.Sum256([]byte("a handshake"))
				signature, err := key.Sign(nil, digest[:], crypto.SHA256)
				if err != nil || !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], signature) {
					t.Errorf("signing: %v", err)
				}
			}
		})
	}
	signers.Wait()
	time.Sleep(time.Second) // more than a turn: nobody has the TPM now
	if n := transients(t, chip); n != 0 {
		t.Fatalf("%d objects and sessions left", n)
	}
}

func want(t *testing.T, err, kind error) {
	t.Helper()
	e, ok := errors.AsType[*trouble.Error](err)
	if !ok || !errors.Is(err, kind) || e.Hint == "" || e.Detail == "" {
		t.Fatalf("got %v, want %q with a hint", err, kind)
	}
}

// OpenSSL's tpm2 provider signs with our key file, behind a resource manager.
func TestOpenSSLReadsKey(t *testing.T) {
	for _, program := range []string{"openssl", "tpm2-abrmd", "dbus-run-session"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; scripts/setup installs it", err)
		}
	}
	chip := swtpm.Start(t)
	d := open(t, chip)
	k, err := d.NewLDevID()
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), k.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "message"), []byte("message"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dbus-run-session", "--", "sh", "-c", `
tpm2-abrmd --session --allow-root --tcti "$TCTI" >abrmd.log 2>&1 &
rm=$!
for i in 1 2 3 4 5 6 7 8 9 10; do
	openssl pkey -provider tpm2 -provider default -propquery '?provider=tpm2' -in key.pem -pubout -out public.pem 2>openssl.log && break
	sleep 0.3
done
openssl pkeyutl -provider tpm2 -provider default -propquery '?tpm2.signature=yes' -sign -inkey key.pem -rawin -digest sha256 -in message -out signature 2>>openssl.log
kill $rm
cat openssl.log abrmd.log
openssl dgst -sha256 -verify public.pem -signature signature message`)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TCTI="+chip.TCTI(), "TPM2OPENSSL_TCTI=tabrmd:bus_type=session")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	signature, err := os.ReadFile(filepath.Join(dir, "signature"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	if !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Fatal("OpenSSL signed with another key")
	}
}

func selfSigned(t *testing.T, public gotpm.TPM2BPublic) []byte {
	t.Helper()
	contents, err := public.Contents()
	if err != nil {
		t.Fatal(err)
	}
	key, err := gotpm.Pub(*contents)
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := key.(*ecdh.PublicKey); ok {
		curve := elliptic.P256()
		if e.Curve() == ecdh.P384() {
			curve = elliptic.P384()
		}
		if key, err = ecdsa.ParseUncompressedPublicKey(curve, e.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, issuer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writeNV(t *testing.T, tpm rawTPM, index uint32, data []byte) {
	t.Helper()
	platform := gotpm.AuthHandle{Handle: gotpm.TPMRHPlatform, Auth: gotpm.PasswordAuth(nil)}
	if _, err := (gotpm.NVDefineSpace{AuthHandle: platform, PublicInfo: gotpm.New2B(gotpm.TPMSNVPublic{
		NVIndex: gotpm.TPMHandle(index), NameAlg: gotpm.TPMAlgSHA256, DataSize: uint16(len(data)),
		Attributes: gotpm.TPMANV{PPWrite: true, PPRead: true, AuthRead: true, OwnerRead: true, NoDA: true, PlatformCreate: true}})}).Execute(tpm); err != nil {
		t.Fatal(err)
	}
	for offset := 0; offset < len(data); {
		r, err := gotpm.NVReadPublic{NVIndex: gotpm.TPMHandle(index)}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		part := data[offset:min(offset+512, len(data))]
		if _, err := (gotpm.NVWrite{AuthHandle: platform, NVIndex: gotpm.NamedHandle{Handle: gotpm.TPMHandle(index), Name: r.NVName},
			Data: gotpm.TPM2BMaxNVBuffer{Buffer: part}, Offset: uint16(offset)}).Execute(tpm); err != nil {
			t.Fatal(err)
		}
		offset += len(part)
	}
}
