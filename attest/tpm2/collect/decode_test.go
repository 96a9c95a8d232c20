package collect

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

// A session whose policy fails half-way is flushed: a TPM has room for few.
func TestSessionsOfFailedPolicies(t *testing.T) {
	d, err := Open(swtpm.Start(t).Spec())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	k, err := d.IDevID()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Certify(k, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	password := func(from, to string) {
		t.Helper()
		if _, err := (gotpm.HierarchyChangeAuth{AuthHandle: gotpm.AuthHandle{Handle: gotpm.TPMRHEndorsement, Auth: gotpm.PasswordAuth([]byte(from))},
			NewAuth: gotpm.TPM2BAuth{Buffer: []byte(to)}}).Execute(d.link); err != nil {
			t.Fatal(err)
		}
	}
	password("", "secret")
	for range 70 {
		if _, _, err := d.Certify(k, [32]byte{}); !errors.Is(err, ErrPassword) {
			t.Fatalf("got %v", err)
		}
	}
	password("secret", "")
	if _, _, err := d.Certify(k, [32]byte{}); err != nil {
		t.Fatal(err)
	}
}

// A TPM may leave out the leading zeros of a coordinate; its maker's certificate has them.
func TestCertificateOfAKeyWithLeadingZeros(t *testing.T) {
	point := bytes.Repeat([]byte{7}, 31)
	certificate := append([]byte{0x30, 0x42, 0x04, 0x00}, point...)
	key := func(x []byte) gotpm.TPMTPublic {
		return gotpm.TPMTPublic{Type: gotpm.TPMAlgECC, Unique: gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{X: gotpm.TPM2BECCParameter{Buffer: x}})}
	}
	for _, x := range [][]byte{point, append([]byte{0}, point...)} {
		if !names(certificate, key(x)) {
			t.Errorf("the certificate is not taken for that of the key with x of %d bytes", len(x))
		}
	}
	for _, x := range [][]byte{nil, {7}, append([]byte{7}, point...)} {
		if names(certificate, key(x)) {
			t.Errorf("the certificate is taken for that of the key with x %x", x)
		}
	}
}

func validKeyFile(t testing.TB) []byte {
	f := keyFile{
		Public:  gotpm.Marshal(gotpm.New2B(tpm2.LDevIDTemplate())),
		Private: gotpm.Marshal(gotpm.TPM2BPrivate{Buffer: make([]byte, 100)}),
	}
	text, err := f.pem()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKeyFileIsStrict(t *testing.T) {
	valid := validKeyFile(t)
	f, err := parseKeyFile(valid)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := f.decode(); err != nil {
		t.Fatal(err)
	}
	change := func(edit func(*keyFile)) []byte {
		g := f
		edit(&g)
		der, err := asn1.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der})
	}
	for name, text := range map[string][]byte{
		"empty":             nil,
		"other block":       bytes.ReplaceAll(valid, []byte("TSS2 PRIVATE"), []byte("PRIVATE")),
		"twice":             append(bytes.Clone(valid), valid...),
		"too large":         bytes.Repeat([]byte("A"), maxKeyFile+1),
		"sealed data":       change(func(f *keyFile) { f.Type = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 5} }),
		"with a password":   change(func(f *keyFile) { f.EmptyAuth = false }),
		"other parent":      change(func(f *keyFile) { f.Parent = 0x81000001 }),
		"public trailing":   change(func(f *keyFile) { f.Public = append(bytes.Clone(f.Public), 0) }),
		"public truncated":  change(func(f *keyFile) { f.Public = f.Public[:20] }),
		"private trailing":  change(func(f *keyFile) { f.Private = append(bytes.Clone(f.Private), 0) }),
		"private truncated": change(func(f *keyFile) { f.Private = f.Private[:20] }),
		"bytes behind the key": pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: func() []byte {
			block, _ := pem.Decode(valid)
			return append(block.Bytes, 0)
		}()}),
	} {
		f, err := parseKeyFile(text)
		if err == nil {
			_, _, _, err = f.decode()
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzKeyFile(f *testing.F) {
	f.Add(validKeyFile(f))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseKeyFile(text)
		if err != nil {
			return
		}
		_, contents, _, err := k.decode()
		if err != nil {
			return
		}
		if !bytes.Equal(gotpm.Marshal(gotpm.New2B(contents)), k.Public) {
			t.Fatal("the public part was not read as it is written")
		}
	})
}

// The TPM is on the other side of a bus that may be tapped or broken.
func FuzzResponse(f *testing.F) {
	f.Add([]byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0})
	f.Add([]byte{0x00, 0xC4, 0, 0, 0, 10, 0, 0, 0, 30})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := readResponse(bytes.NewReader(raw))
		if err != nil {
			return
		}
		if len(r) > maxSize || len(r) > len(raw) {
			t.Fatalf("%d bytes out of %d", len(r), len(raw))
		}
		if checkResponse(r) == nil {
			responseCode(r)
		}
	})
}
