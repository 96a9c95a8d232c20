package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/ca/status/feed"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	"github.com/hallmark-pki/hallmark/relay/guard"
	"github.com/hallmark-pki/hallmark/wire"
)

// weekend is from Friday, 18:00, to Monday, 8:00, with an hour until somebody has come.
const weekend = 63 * time.Hour

// office is Hallmark in a time of its own, whose weekend ends now: `openssl ocsp` knows no
// other time.
type office struct {
	*testing.T
	clock     time.Time
	store     *sqlite.Store
	founded   ca.Founded
	authority *ca.Authority
	status    *status.Service
	feed      *feed.Feed
	dir       string
	responder *x509.Certificate
}

func (o *office) now() time.Time { return o.clock }

func openOffice(t *testing.T, at time.Time) *office {
	o := &office{T: t, clock: at, dir: t.TempDir()}
	o.store = must[*sqlite.Store](t)(sqlite.Create(t.Context(), filepath.Join(o.dir, "hallmark.db"), sqlite.Options{}))
	t.Cleanup(func() { o.store.Close() })
	const url = "http://pki.example"
	o.founded = must[[]ca.Founded](t)(premises.Found(url, at, profile.Operational))[0]
	f := o.founded
	o.authority = must[*ca.Authority](t)(ca.New(ca.Config{Store: o.store, BaseURL: url, Organisation: "Acme", Now: o.now,
		Issuers: must[[]ca.Issuer](t)(premises.Issuers(t.Context(), f))}))
	var ocspKey crypto.Signer
	responder := func(ctx context.Context, issuer string) (*x509.Certificate, crypto.Signer, error) {
		if o.responder == nil || !o.clock.Before(ca.Due(o.responder.NotBefore, o.responder.NotAfter)) {
			ocspKey = newKey(t)
			o.responder = o.issue(ca.Request{Profile: profile.OCSP, Issuer: issuer, Content: profile.Content{Key: ocspKey.Public(), Lifetime: 30 * day}})
		}
		return o.responder, ocspKey, nil
	}
	o.status = must[*status.Service](t)(status.New(status.Config{Store: o.store, BaseURL: url, Now: o.now, Responder: responder,
		Issuers: []status.Issuer{{Name: f.Name, Certificate: f.Certificate, Signer: f.Signer}},
		Roots:   []status.Root{{Name: profile.RootOf(f.Name), Certificate: f.Root, CRL: f.RootCRL}}}))
	o.feed = must[*feed.Feed](t)(feed.New(t.Context(), feed.Config{Store: o.store, Lists: o.status, Responder: responder, Now: o.now,
		Issuers: map[string]*x509.Certificate{f.Name: f.Certificate}}))
	return o
}

func (o *office) note() record.Event {
	return record.Event{Time: o.clock, Actor: "operator:anna", Verb: "x"}
}

func (o *office) issue(r ca.Request) *x509.Certificate {
	o.Helper()
	return must[[]ca.Issued](o)(o.authority.Issue(o.Context(), o.note(), r))[0].Certificate
}

// device has a working certificate from now on.
func (o *office) device(serial string) *x509.Certificate {
	o.Helper()
	sum := sha256.Sum256([]byte(serial))
	must[record.Device](o)(o.store.Admit(o.Context(), record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: record.Device{ID: serial, Model: record.DefaultModel, Lot: record.DefaultLot, Serial: serial, State: record.StateActive,
			EKs: []record.EK{{Fingerprint: sum, Name: sum[:], Public: sum[:]}}, AKName: sum[:], AKPublic: sum[:], Key: sum, Enrolled: o.clock, Seen: o.clock}, Event: o.note()}, nil
	}))
	return o.issue(ca.Request{Profile: profile.LDevID, Device: serial,
		Content: profile.Content{Key: newKey(o).Public(), Model: record.DefaultModel, Serial: serial, Lifetime: 30 * day}})
}

// fetch is what somebody outside gets, kept in a file.
func (o *office) fetch(handler http.Handler, method, path string, body []byte) []byte {
	o.Helper()
	w := httptest.NewRecorder()
	if handler.ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body))); w.Code != http.StatusOK {
		o.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

func (o *office) write(name, kind string, ders ...[]byte) string {
	o.Helper()
	path := filepath.Join(o.dir, name)
	var text []byte
	for _, der := range ders {
		if kind != "" {
			der = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		}
		text = append(text, der...)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		o.Fatal(err)
	}
	return path
}

// kept is what relying parties hold when Hallmark goes off.
type kept struct {
	*office
	trusted, chain   string
	openssl          map[string][]string // what openssl verify is told, by what it goes by
	denyList, filter string
	answers          map[*x509.Certificate][]byte
}

// fetchAll is a second before the next signing: lists and answers are as old as they get.
func (o *office) fetchAll(before []byte, fleet ...*x509.Certificate) *kept {
	o.Helper()
	handler, documents := o.status.Handler(), o.feed.Handler(nil)
	shards := must[[]record.Shard](o)(o.store.Shards(o.Context(), profile.Operational, o.clock))
	if err := o.status.Publish(o.Context(), shards...); err != nil {
		o.Fatal(err)
	}
	k := &kept{office: o, answers: map[*x509.Certificate][]byte{}}
	fetch := func() (lists [][]byte, whole, delta, root []byte) {
		for _, s := range shards {
			lists = append(lists, o.fetch(handler, "GET", fmt.Sprintf("/crl/operational/%d.crl", s.Number), nil))
		}
		for _, c := range fleet {
			k.answers[c] = o.fetch(handler, "POST", "/ocsp", must[[]byte](o)(ocsp.CreateRequest(c, o.founded.Certificate, nil)))
		}
		k.denyList = o.write("denylist", "", o.fetch(documents, "GET", wire.PathFeed+"/operational", nil))
		k.filter = o.write("filter", "", o.fetch(documents, "GET", wire.PathFeed+"/operational/filter", nil))
		return lists, o.fetch(handler, "GET", "/crl/operational.pem", nil), o.fetch(handler, "GET", "/crl/operational/delta.crl", nil), o.founded.RootCRL
	}
	fetch()
	o.clock = o.clock.Add(time.Hour - time.Second)
	lists, whole, delta, root := fetch()
	k.trusted, k.chain = o.write("root.pem", "CERTIFICATE", o.founded.Root.Raw), o.write("issuer.pem", "CERTIFICATE", o.founded.Certificate.Raw)
	k.openssl = map[string][]string{
		"shards":                {"-crl_check_all", "-extended_crl", "-CRLfile", o.write("shards.pem", "X509 CRL", append(lists, root)...)},
		"the complete list":     {"-crl_check_all", "-CRLfile", o.write("whole.pem", "", whole)},
		"a list with its delta": {"-crl_check", "-extended_crl", "-use_deltas", "-CRLfile", o.write("delta.pem", "X509 CRL", before, delta)},
	}
	return k
}

// opinions are what each relying party does with a certificate at a time: nil, or why it
// is refused.
func (k *kept) opinions(c *x509.Certificate, at time.Time, fail guard.Fail) map[string]error {
	k.Helper()
	all := map[string]error{}
	leaf := k.write("leaf.pem", "CERTIFICATE", c.Raw)
	for name, with := range k.openssl {
		args := append([]string{"verify", "-attime", fmt.Sprint(at.Unix()), "-x509_strict", "-CAfile", k.trusted, "-untrusted", k.chain}, with...)
		all[name] = nil
		if out, err := exec.Command("openssl", append(args, leaf)...).CombinedOutput(); err != nil {
			all[name] = errors.New(string(out))
		}
	}
	for name, file := range map[string]string{"the deny-list": k.denyList, "the filter": k.filter} {
		g := must[*guard.Guard](k)(guard.New(file, guard.Options{Roots: k.trusted, Fail: fail, Now: func() time.Time { return at }}))
		all[name] = g.Check(c)
	}
	all["OCSP"] = k.ocsp(c, at)
	return all
}

func (k *kept) ocsp(c *x509.Certificate, at time.Time) error {
	r, err := ocsp.ParseResponseForCert(k.answers[c], c, k.founded.Certificate)
	switch {
	case err != nil:
		return err
	case at.Before(r.ThisUpdate) || at.After(r.NextUpdate) || at.After(r.Certificate.NotAfter):
		return errors.New("the answer has ended")
	case r.Status != ocsp.Good:
		return guard.ErrDenied
	}
	return nil
}

// Hallmark goes off on Friday evening. Until Monday every relying party, whatever it goes
// by, lets good devices in and keeps the others out. If nobody comes for a week, all refuse
// everybody, but for those who were told to fail open.
func TestOffForAWeekend(t *testing.T) {
	t.Parallel()
	end := time.Now().UTC().Truncate(time.Second)
	off := end.Add(-weekend)
	o := openOffice(t, off.Add(-20*day)) // the first renews on Friday evening, and cannot
	due := o.device("SN-1")
	o.clock = off.Add(-3 * day)
	fresh, held, stolen := o.device("SN-2"), o.device("SN-3"), o.device("SN-4")
	must[[]record.Shard](t)(o.status.Suspend(t.Context(), "SN-3", o.note()))
	before := o.fetch(o.status.Handler(), "GET", "/crl/operational.crl", nil)
	must[[]record.Shard](t)(o.status.PublishChange(t.Context(), must[[]record.Shard](t)(o.store.Revoke(t.Context(), "SN-4", o.clock, record.ReasonKeyCompromise, "", o.note())), nil))
	o.clock = off.Add(-time.Hour)
	k := o.fetchAll(before, due, fresh, held, stolen)
	o.store.Close()

	for at := off; !at.After(end); at = at.Add(9 * time.Hour) {
		for _, c := range []*x509.Certificate{due, fresh, held, stolen} {
			for name, err := range k.opinions(c, at, guard.Closed) {
				if good := c == due || c == fresh; good != (err == nil) || !good && !errors.Is(err, guard.ErrDenied) && !strings.Contains(err.Error(), "error 23") {
					t.Errorf("%v after Hallmark went off, by %s, %s: %v", at.Sub(off), name, c.Subject, err)
				}
			}
		}
	}
	k.atTheEnd(map[*x509.Certificate]string{due: ": good", fresh: ": good", held: "certificateHold", stolen: "keyCompromise"})

	late := off.Add(7 * day) // as from a cache that repeats what has ended
	for name, err := range k.opinions(fresh, late, guard.Closed) {
		if err == nil || !errors.Is(err, guard.ErrEnded) && !strings.Contains(err.Error(), "error 12") && name != "OCSP" {
			t.Errorf("a week later, by %s: %v", name, err)
		}
	}
	for name, err := range k.opinions(fresh, late, guard.Open) {
		if strings.HasPrefix(name, "the deny") && err != nil || name == "the filter" && err != nil {
			t.Errorf("a week later, failing open, by %s: %v", name, err)
		}
	}
	for name, err := range k.opinions(stolen, late, guard.Open) {
		if err == nil {
			t.Errorf("a week later, failing open, by %s: a stolen device is let in", name)
		}
	}
}

// atTheEnd asks openssl ocsp, which knows no time but now.
func (k *kept) atTheEnd(want map[*x509.Certificate]string) {
	k.Helper()
	for c, text := range want {
		out, err := exec.Command("openssl", "ocsp", "-respin", k.write("answer", "", k.answers[c]), "-issuer", k.chain, "-cert", k.write("leaf.pem", "CERTIFICATE", c.Raw),
			"-no_nonce", "-CAfile", k.trusted, "-verify_other", k.chain).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Response verify OK") || !strings.Contains(string(out), text) || strings.Contains(string(out), "WARNING") {
			k.Errorf("openssl ocsp, %s: %v\n%s", c.Subject, err, out)
		}
	}
}
