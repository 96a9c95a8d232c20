package tpm2_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

// tools runs tpm2-tools, which share no code with us, against a chip of their own.
type tools struct {
	t    *testing.T
	dir  string
	tcti string
}

func (c tools) run(args ...string) {
	c.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+c.tcti)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (c tools) read(name string) []byte {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c tools) write(name string, b []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), b, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// sized puts the length of a TPM2B in front of b.
func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

// credential is the file format of tpm2_makecredential and tpm2_activatecredential:
// magic, version, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET.
var credentialMagic = []byte{0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1}

// A chip whose keys tpm2-tools made passes, and opens our challenge.
func TestToolsEnrol(t *testing.T) {
	for _, c := range []struct{ ek, ak, hash, scheme string }{
		{"ecc", "ecc", "sha256", "ecdsa"},
		{"ecc384", "ecc", "sha256", "ecdsa"},
		{"rsa", "rsa", "sha256", "rsassa"},
		{"rsa", "rsa", "sha256", "rsapss"},
	} {
		t.Run(c.ek+" "+c.scheme, func(t *testing.T) {
			chip := swtpm.Start(t)
			x := tools{t, t.TempDir(), chip.TCTI()}
			x.run("tpm2_createek", "-c", "ek.ctx", "-G", c.ek, "-u", "ek.pub")
			x.run("tpm2_flushcontext", "-t")
			x.run("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", c.ak, "-g", c.hash, "-s", c.scheme, "-u", "ak.pub", "-n", "ak.name")
			x.run("tpm2_flushcontext", "-t")
			x.run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "srk.ctx")
			x.run("tpm2_create", "-C", "srk.ctx", "-G", "ecc256:null:null", "-c", "key.ctx", "-u", "key.pub", "-r", "key.priv",
				"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|noda")
			x.run("tpm2_flushcontext", "-t")
			x.run("tpm2_evictcontrol", "-c", "ak.ctx", "0x81010010")
			x.run("tpm2_flushcontext", "-t")
			x.run("tpm2_evictcontrol", "-c", "key.ctx", "0x81010011")
			x.run("tpm2_flushcontext", "-t")
			statement, signature := certify(t, chip, 0x81010010, 0x81010011)

			e := attest.Evidence{Kind: attest.KindTPM2, EKPublic: x.read("ek.pub")[2:], AKPublic: x.read("ak.pub")[2:],
				Key: x.read("key.pub")[2:], Statement: statement, Signature: signature}
			v := tpm2.New(trusting(t), false)
			p, err := v.Verify(e, binding, now)
			if err != nil {
				t.Fatal(err)
			}
			f := facts(t, p)
			if !bytes.Equal(f.TPM.AKName, x.read("ak.name")) {
				t.Errorf("AK Name %x, the chip says %x", f.TPM.AKName, x.read("ak.name"))
			}
			challenge, err := v.Challenge(p, secret)
			if err != nil {
				t.Fatal(err)
			}
			if got := x.activate(challenge, c.ek == "ecc384"); !bytes.Equal(got, secret) {
				t.Errorf("the chip opened %x", got)
			}
		})
	}
}

// certify is TPM2_Certify over our binding, for which tpm2_certify has no option.
func certify(t *testing.T, chip *swtpm.TPM, ak, key gotpm.TPMHandle) (statement, signature []byte) {
	t.Helper()
	c, err := chip.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var handles []gotpm.AuthHandle
	for _, h := range []gotpm.TPMHandle{ak, key} {
		r, err := gotpm.ReadPublic{ObjectHandle: h}.Execute(c)
		if err != nil {
			t.Fatal(err)
		}
		handles = append(handles, gotpm.AuthHandle{Handle: h, Name: r.Name, Auth: gotpm.PasswordAuth(nil)})
	}
	r, err := gotpm.Certify{
		SignHandle: handles[0], ObjectHandle: handles[1],
		QualifyingData: gotpm.TPM2BData{Buffer: binding[:]},
		InScheme:       gotpm.TPMTSigScheme{Scheme: gotpm.TPMAlgNull},
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return r.CertifyInfo.Bytes(), gotpm.Marshal(r.Signature)
}

// activate opens a challenge with the chip's EK: a high-range one has a password, an empty
// one, the others the policy PolicySecret.
func (c tools) activate(challenge attest.Challenge, high bool) []byte {
	c.t.Helper()
	c.write("credential", append(append(bytes.Clone(credentialMagic), sized(challenge.Credential)...), sized(challenge.Secret)...))
	if high {
		c.run("tpm2_activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "secret")
		return c.read("secret")
	}
	c.run("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
	c.run("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
	c.run("tpm2_activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "secret", "-P", "session:session.ctx")
	return c.read("secret")
}

// simtpm opens what tpm2_makecredential makes, so it is a TPM in this respect too.
func TestToolsChallengeSimulatedTPM(t *testing.T) {
	for _, o := range []simtpm.Options{{}, {EK: "L-1"}, {EK: "H-3"}} {
		d := newDevice(t, nil, o)
		x := tools{t, t.TempDir(), "none"}
		x.write("ek.pub", sized(d.EK.Area))
		x.write("secret", secret)
		x.run("tpm2_makecredential", "-T", "none", "-u", "ek.pub", "-s", "secret", "-n", hex.EncodeToString(d.AK.Name()), "-o", "credential")
		b, ok := bytes.CutPrefix(x.read("credential"), credentialMagic)
		if !ok {
			t.Fatalf("unknown format: %x", b)
		}
		id, b := unsized(t, b)
		encrypted, _ := unsized(t, b)
		got, err := d.Activate(attest.Challenge{Credential: id, Secret: encrypted})
		if err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%+v: opened %x, %v", o, got, err)
		}
	}
}

func unsized(t *testing.T, b []byte) (value, rest []byte) {
	t.Helper()
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		t.Fatalf("not a TPM2B: %x", b)
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:]
}
