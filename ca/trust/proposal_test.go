package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// handOver proposes that two of three keys sign from now on.
func handOver(t testing.TB, root Root, keys ...*ecdsa.PrivateKey) *Proposal {
	t.Helper()
	timeKey := newKey(t)
	first := newBundle(t, timeKey, root)
	base, err := Sign(first, root)
	if err != nil {
		t.Fatal(err)
	}
	next := first
	for _, key := range keys {
		next.Signers = append(next.Signers, spki(t, key))
	}
	next.Threshold = 2
	p, err := Propose(base, next)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// again is the proposal as another place reads it.
func again(t testing.TB, p *Proposal) *Proposal {
	t.Helper()
	text, err := p.Write()
	if err != nil {
		t.Fatal(err)
	}
	read, err := ReadProposal(text)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

func sign(t testing.TB, p *Proposal, keys ...crypto.Signer) {
	t.Helper()
	for _, key := range keys {
		if _, err := p.Sign(key, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

// A proposal is signed in several places, on one copy or on several, and is a bundle when
// both the keys before and the new ones have signed it, and not before.
func TestProposalIsSignedInSeveralPlaces(t *testing.T) {
	root, a, b, c := newRoot(t), newKey(t), newKey(t), newKey(t)
	p := handOver(t, root, a, b, c)
	if got := p.Changes(); len(got) != 4 { // three signers, and a threshold
		t.Errorf("changes: %v", got)
	}
	if got := p.Missing(); len(got) != 2 {
		t.Errorf("missing: %q", got)
	}
	at := again(t, p)
	sign(t, at, a, a) // a second time changes nothing
	if got := at.Missing(); len(got) != 2 || !strings.Contains(got[1], "2 of the keys that bundle 2 names must sign, 1 did") {
		t.Errorf("missing: %q", got)
	}
	if _, err := at.Signed(); err == nil {
		t.Error("published with one signature")
	}
	elsewhere := again(t, p)
	sign(t, elsewhere, c, root.Signer)
	if err := at.Merge(elsewhere); err != nil {
		t.Fatal(err)
	}
	signed, err := again(t, at).Signed()
	if err != nil {
		t.Fatal(err)
	}
	base, _ := p.Bundles()
	followed, err := base.Follow(signed)
	if err != nil || followed.Number != 2 || followed.Threshold != 2 {
		t.Fatalf("%+v, %v", followed, err)
	}
	if len(signed.Signatures) != 3 {
		t.Errorf("%d signatures", len(signed.Signatures))
	}
}

// A new infrastructure root must have signed: a newcomer that pins it begins there.
func TestProposalOfANewRoot(t *testing.T) {
	root, next, timeKey := newRoot(t), newRoot(t), newKey(t)
	base, err := Sign(newBundle(t, timeKey, root), root)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Propose(base, newBundle(t, timeKey, root, next))
	if err != nil {
		t.Fatal(err)
	}
	sign(t, p, root.Signer)
	if got := p.Missing(); len(got) != 1 || !strings.Contains(got[0], "the new infrastructure root must sign") {
		t.Fatalf("missing: %q", got)
	}
	sign(t, p, next.Signer)
	signed, err := p.Signed()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.OpenBundle(signed, pin(next.Certificate)); err != nil {
		t.Error(err)
	}
}

func TestProposalRefuses(t *testing.T) {
	root, a, b, c := newRoot(t), newKey(t), newKey(t), newKey(t)
	p := handOver(t, root, a, b, c)
	if _, err := p.Sign(newKey(t), time.Now()); err == nil || !strings.Contains(err.Error(), "has no say") {
		t.Errorf("a stranger's key: %v", err)
	}
	// Signatures of others' making count for nothing, and are not taken along.
	sign(t, p, a, b, root.Signer)
	forged := slices.Clone(p.Next.Signatures)
	for i := range forged {
		forged[i].Signature = slices.Clone(forged[i].Signature)
		forged[i].Signature[len(forged[i].Signature)-1] ^= 1
	}
	other := again(t, handOver(t, root, a, b, c))
	if err := p.Merge(other); err == nil || !strings.Contains(err.Error(), "changed after it had been signed") {
		t.Errorf("another proposal: %v", err)
	}
	clean := again(t, p)
	clean.Next.Signatures = append(forged, clean.Next.Signatures...)
	signed, err := clean.Signed()
	if err != nil || len(signed.Signatures) != 3 {
		t.Errorf("%d signatures, %v", len(signed.Signatures), err)
	}
	clean.Next.Signatures = forged
	if _, err := clean.Signed(); err == nil {
		t.Error("published with forged signatures")
	}
	_, next := p.Bundles()
	back := next
	back.Created = back.Created.Add(-time.Hour)
	if _, err := Propose(p.Base, back); err == nil || !strings.Contains(err.Error(), "clock is behind") {
		t.Errorf("a clock that is behind: %v", err)
	}
	empty := next
	empty.Servers = nil
	if _, err := Propose(p.Base, empty); err == nil {
		t.Error("a bundle without servers")
	}
	far := *p
	far.Base.Bundle = []byte("{}")
	if text, err := far.Write(); err != nil {
		t.Error(err)
	} else if _, err := ReadProposal(text); err == nil {
		t.Error("a proposal after nothing")
	}
}

// A file that claims to follow a bundle of somebody's own making shows no change, but it
// cannot hide what it lists.
func TestProposalAfterAnother(t *testing.T) {
	root, evil, timeKey, anna := newRoot(t), newRoot(t), newKey(t), newKey(t)
	claimed := newBundle(t, timeKey, root, evil)
	claimed.Number, claimed.Signers, claimed.Threshold = 7, [][]byte{spki(t, anna)}, 1
	self := claimed
	self.Signers = append(self.Signers, spki(t, newKey(t)))
	mallory := newKey(t)
	self.Signers[1] = spki(t, mallory)
	text, err := json.Marshal(self)
	if err != nil {
		t.Fatal(err)
	}
	digest := wire.BundleDigest(text)
	signature, err := mallory.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	base := wire.SignedBundle{Bundle: text, Signatures: []wire.BundleSignature{{Signer: fingerprint(self.Signers[1]), Signature: signature}}}
	p, err := Propose(base, self)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Changes(); len(got) != 0 {
		t.Errorf("changes: %v", got)
	}
	listing := strings.Join(p.Listing(), "\n")
	for _, want := range []string{NameOf(evil.Certificate.Raw), NameOf(root.Certificate.Raw), NameOf(spki(t, mallory)), "threshold 1", "server https"} {
		if !strings.Contains(listing, want) {
			t.Errorf("%s is not in\n%s", want, listing)
		}
	}
}

// A bundle of the future would end every certificate for every device that follows it.
func TestProposalOfTheFuture(t *testing.T) {
	root, timeKey := newRoot(t), newKey(t)
	first := newBundle(t, timeKey, root)
	base, err := Sign(first, root)
	if err != nil {
		t.Fatal(err)
	}
	next, now := first, time.Now()
	next.Name, next.Created = "Other", now.Add(10*365*24*time.Hour)
	p, err := Propose(base, next)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Sign(root.Signer, now); err == nil || !strings.Contains(err.Error(), "right clock") {
		t.Errorf("signed: %v", err)
	}
	if got := p.Listing(); !strings.Contains(got[len(got)-1], next.Created.Format("made at 2006-")) {
		t.Errorf("not said: %q", got)
	}
	if _, err := p.Sign(root.Signer, next.Created.Add(-time.Hour)); err != nil {
		t.Errorf("a clock that is a little behind: %v", err)
	}
}

// The words of a proposal do not steer the terminal, and signatures without end are not
// taken along.
func TestProposalThatMisbehaves(t *testing.T) {
	root, timeKey := newRoot(t), newKey(t)
	first := newBundle(t, timeKey, root)
	base, err := Sign(first, root)
	if err != nil {
		t.Fatal(err)
	}
	next := first
	next.Name = "Acme\x1b[2K\rnothing changes\u202e"
	p, err := Propose(base, next)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.Changes(), p.Listing()); strings.ContainsAny(got, "\x1b\r\u202e") {
		t.Errorf("%q", got)
	}
	other := again(t, p)
	sign(t, other, root.Signer)
	for range 500 {
		other.Next.Signatures = append(other.Next.Signatures, wire.BundleSignature{Signer: other.Next.Signatures[0].Signer, Signature: []byte(rand.Text())})
	}
	if err := p.Merge(again(t, other)); err != nil || len(p.Next.Signatures) != 1 {
		t.Errorf("%d signatures, %v", len(p.Next.Signatures), err)
	}
}

// FuzzReadProposal: whatever a file says, nothing becomes a bundle that the keys before it
// did not sign.
func FuzzReadProposal(f *testing.F) {
	root, a, b := newRoot(f), newKey(f), newKey(f)
	p := handOver(f, root, a, b)
	sign(f, p, a, b, root.Signer)
	text, err := p.Write()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	base, _ := p.Bundles()
	want := string(p.Next.Bundle)
	f.Fuzz(func(t *testing.T, text []byte) {
		read, err := ReadProposal(text)
		if err != nil {
			return
		}
		read.Changes()
		read.Missing()
		if signed, err := read.Signed(); err == nil && string(signed.Bundle) != want {
			if _, err := base.Follow(signed); err == nil {
				t.Fatalf("followed %s", signed.Bundle)
			}
		}
	})
}
