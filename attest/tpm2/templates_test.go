package tpm2

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"
)

// The policies are computed from their branches; TCG publishes the digests.
func TestPublishedPolicies(t *testing.T) {
	for _, c := range []struct {
		name string
		got  gotpm.TPM2BDigest
		want string
	}{
		{"IDevID", IDevIDTemplate().AuthPolicy, "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea"},
		{"IAK", AKTemplate().AuthPolicy, "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07"},
		{"A SHA-256", ekPolicyA(gotpm.TPMAlgSHA256), "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"},
		{"A SHA-384", ekPolicyA(gotpm.TPMAlgSHA384), "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53"},
		{"C SHA-256", ekPolicyC(gotpm.TPMAlgSHA256), "3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde"},
		{"C SHA-384", ekPolicyC(gotpm.TPMAlgSHA384), "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"},
		{"B SHA-384", ekPolicyB(gotpm.TPMAlgSHA384), "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"},
	} {
		if got := hex.EncodeToString(c.got.Buffer); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// The attributes as the TCG documents print them.
func TestPublishedAttributes(t *testing.T) {
	want := map[string]uint32{"L-2": 0x000300B2, "L-1": 0x000300B2, "H-2": 0x000300F2, "H-1": 0x000300F2, "H-3": 0x000300F2}
	for _, e := range EKTemplates() {
		if got := attributes(e.Public); got != want[e.Name] {
			t.Errorf("EK %s: %#x, want %#x", e.Name, got, want[e.Name])
		}
	}
	if got := attributes(IDevIDTemplate()); got != 0x000400F2 {
		t.Errorf("IDevID: %#x", got)
	}
	if got := attributes(AKTemplate()); got != 0x000500F2 {
		t.Errorf("IAK: %#x", got)
	}
	if got := attributes(SRKTemplate()); got != 0x00030472 {
		t.Errorf("SRK: %#x", got)
	}
}

// go-tpm carries the two low-range EK templates of its own.
func TestLowRangeTemplatesEqualGoTPM(t *testing.T) {
	for _, e := range EKTemplates() {
		other, ok := map[string]gotpm.TPMTPublic{"L-1": gotpm.RSAEKTemplate, "L-2": gotpm.ECCEKTemplate}[e.Name]
		if ok && !bytes.Equal(gotpm.Marshal(e.Public), gotpm.Marshal(other)) {
			t.Errorf("%s differs from go-tpm's template", e.Name)
		}
	}
}

func TestPolicyBranches(t *testing.T) {
	lengths := map[string]int{"L-2": 0, "L-1": 0, "H-2": 2, "H-1": 2, "H-3": 2}
	for _, e := range EKTemplates() {
		if got, ok := PolicyBranches(e.Public); !ok || len(got) != lengths[e.Name] {
			t.Errorf("%s: %d branches, %v", e.Name, len(got), ok)
		}
	}
	for name, p := range map[string]gotpm.TPMTPublic{"IDevID": IDevIDTemplate(), "AK": AKTemplate()} {
		got, ok := PolicyBranches(p)
		if !ok || len(got) != 4 {
			t.Fatalf("%s: %d branches, %v", name, len(got), ok)
		}
		if !bytes.Equal(policyOr(p.NameAlg, got).Buffer, p.AuthPolicy.Buffer) {
			t.Errorf("%s: the branches do not give the policy", name)
		}
	}
	if _, ok := PolicyBranches(LDevIDTemplate()); ok {
		t.Error("a key without a policy has no branches")
	}
}

func attributes(p gotpm.TPMTPublic) uint32 {
	return binary.BigEndian.Uint32(gotpm.Marshal(p)[4:])
}
