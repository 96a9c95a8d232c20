package e2e

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/wire"
)

// A root is replaced while the device is on-line: it works after each act.
func TestRollOver(t *testing.T) {
	t.Parallel()
	for _, line := range lines {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			u := h.unit(t).enrolled("SN-1")
			renew := func(what string) {
				t.Helper()
				if _, err := device.Renew(t.Context(), u.options()); err != nil {
					t.Fatalf("%s: %v; said %q", what, err, u.said)
				}
				u.works()
				if n := u.trust(); n != h.bundle().Number {
					t.Fatalf("%s: the device has trust bundle %d, the server %d", what, n, h.bundle().Number)
				}
			}
			poll := func(what string) {
				t.Helper()
				if _, err := device.Poll(t.Context(), u.options()); err != nil {
					t.Fatalf("%s: %v; said %q", what, err, u.said)
				}
			}
			renew("before")
			h.addRoot(line)
			poll("with both roots")
			renew("with both roots")
			h.switchOver(line)
			poll("after the switch")
			renew("after the switch")
			if line == profile.Manufacturing {
				// What it was born with counts as long as the root does.
				if root := u.load().IDevID[1]; string(root) != string(h.lines[line][0].Certificate.Raw) {
					t.Fatal("another birth certificate without need")
				}
			}
			h.retire(line)
			renew("with the new root alone")
			renew("again")
			u.tidy()
		})
	}
}

// The same while the device is in a drawer, and its clock's battery is empty: it comes back
// after half a year, over many bundles at once.
func TestRollOverInTheDrawer(t *testing.T) {
	t.Parallel()
	for _, line := range lines {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			u, unborn := h.unit(t).enrolled("SN-1"), h.unit(t)
			ticket := h.ticket()
			must[device.Result](t)(device.Renew(t.Context(), u.options()))
			h.handOver()
			h.sleep(90 * day)
			h.rollOver(line)
			h.newTimeKey()
			h.publish(func(b *wire.Bundle) { b.Name = "Acme Holding" })
			h.sleep(90 * day)
			for _, other := range lines {
				h.rollOver(other)
			}
			u.wrong = -h.now().Sub(time.Unix(0, 0))
			if _, err := device.Renew(t.Context(), u.options()); err != nil {
				t.Fatalf("%v; said %q", err, u.said)
			}
			u.works()
			u.tidy()
			if u.trust() != 13 {
				t.Fatalf("trust bundle %d", u.trust())
			}
			if d := must[int64](t)(h.counted()); d != 1 {
				t.Fatalf("%d devices are counted", d)
			}
			// A board that was never enrolled, with a ticket that names the root of then.
			if _, err := device.Enrol(t.Context(), device.Enrolment{Options: unborn.options(), Ticket: ticket, Serial: "SN-2"}); err == nil {
				t.Fatal("a ticket of half a year ago")
			}
			fresh := h.ticket()
			fresh.Root = sha256.Sum256(h.first.Raw)
			must[device.Result](t)(device.Enrol(t.Context(), device.Enrolment{Options: unborn.options(), Ticket: fresh, Serial: "SN-2"}))
			must[device.Result](t)(device.Renew(t.Context(), unborn.options()))
			unborn.works()
		})
	}
}

// Bundles that do not follow change nothing on the device, and the way goes on once the
// server has the right ones again.
func TestBundlesThatDoNotFollow(t *testing.T) {
	t.Parallel()
	h := open(t)
	u := h.unit(t).enrolled("SN-1")
	must[device.Result](t)(device.Renew(t.Context(), u.options()))
	h.handOver()
	must[device.Result](t)(device.Poll(t.Context(), u.options()))
	next := h.bundle()
	next.Number++
	next.Servers = append(next.Servers, "https://elsewhere.example")
	sign := func(b wire.Bundle, keys ...*ecdsa.PrivateKey) wire.SignedBundle {
		text := must[[]byte](t)(json.Marshal(b))
		digest := wire.BundleDigest(text)
		s := wire.SignedBundle{Bundle: text}
		for _, key := range keys {
			sum := sha256.Sum256(must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public())))
			s.Signatures = append(s.Signatures, wire.BundleSignature{Signer: hex.EncodeToString(sum[:]), Signature: must[[]byte](t)(ecdsa.SignASN1(rand.Reader, key, digest[:]))})
		}
		return s
	}
	a, b, stranger := h.signers[0], h.signers[1], newKey(t)
	damaged := sign(next, a, b)
	damaged.Signatures[1].Signature[20] ^= 1
	swapped := sign(next, a, b)
	swapped.Bundle = []byte(string(swapped.Bundle) + " ")
	jump := next
	jump.Number++
	lower := h.bundle()
	lower.Number = 1
	for name, c := range map[string]struct {
		steps wire.TrustSteps
		code  string
	}{
		"a bad signature":            {wire.TrustSteps{Bundles: []wire.SignedBundle{damaged}, Newest: 3}, client.CodeBundle},
		"other bytes than signed":    {wire.TrustSteps{Bundles: []wire.SignedBundle{swapped}, Newest: 3}, client.CodeBundle},
		"too few signatures":         {wire.TrustSteps{Bundles: []wire.SignedBundle{sign(next, a)}, Newest: 3}, client.CodeBundle},
		"one key's, twice":           {wire.TrustSteps{Bundles: []wire.SignedBundle{sign(next, a, a)}, Newest: 3}, client.CodeBundle},
		"a stranger's":               {wire.TrustSteps{Bundles: []wire.SignedBundle{sign(next, a, stranger)}, Newest: 3}, client.CodeBundle},
		"a step left out":            {wire.TrustSteps{Bundles: []wire.SignedBundle{sign(jump, a, b)}, Newest: 4}, client.CodeBundle},
		"a lower number":             {wire.TrustSteps{Bundles: []wire.SignedBundle{sign(lower, a, b)}, Newest: 3}, client.CodeBundle},
		"a server that was set back": {wire.TrustSteps{Newest: 1}, client.CodeRollback},
		"a promise without a bundle": {wire.TrustSteps{Newest: 3}, client.CodeBundle},
	} {
		before := u.load()
		// The server claims that there is a newer bundle, and gives these.
		h.stand(func(w http.ResponseWriter, r *http.Request, serve http.Handler) {
			switch r.URL.Path {
			case wire.PathPoll:
				json.NewEncoder(w).Encode(wire.Steering{Start: h.now(), End: h.now(), Trust: 3})
			case wire.PathTrust:
				json.NewEncoder(w).Encode(c.steps)
			default:
				serve.ServeHTTP(w, r)
			}
		})
		_, err := device.Poll(t.Context(), u.options())
		if refused, ok := errors.AsType[*client.TrustError](err); !ok || refused.Code != c.code {
			t.Errorf("%s: %v", name, err)
		}
		if after := u.load(); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: the state changed", name)
		}
	}
	h.stand(nil)
	u.works()
	h.publish(func(b *wire.Bundle) { b.Servers = next.Servers })
	must[device.Result](t)(device.Poll(t.Context(), u.options()))
	if u.trust() != 3 {
		t.Fatalf("trust bundle %d", u.trust())
	}
}
