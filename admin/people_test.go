package admin_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func TestInvitation(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	for _, bad := range []wire.NewOperator{{}, {Name: "Bo"}, {Name: ".."}, {Name: "bo", TTL: 8 * 24 * 3600}, {Name: "bo", TTL: -1}} {
		_, err := h.anna.Invite(ctx, bad)
		wantProblem(t, err, wire.CodeMalformed)
	}
	_, err := h.anna.Invite(ctx, wire.NewOperator{Name: "anna"})
	wantProblem(t, err, wire.CodeConflict)
	first, err := h.anna.Invite(ctx, wire.NewOperator{Name: "bo"})
	check(t, err)
	second, err := h.anna.Invite(ctx, wire.NewOperator{Name: "bo"})
	check(t, err)

	dir := filepath.Join(t.TempDir(), "bo")
	_, _, err = client.Accept(ctx, first.Invitation, dir)
	wantProblem(t, err, wire.CodeInvitation) // the second has replaced it
	wrong, err := wire.ParsePermission(wire.KindInvitation, second.Invitation)
	check(t, err)
	wrong.Secret = make([]byte, 32)
	_, _, err = client.Accept(ctx, wrong.String(), dir)
	wantProblem(t, err, wire.CodeInvitation)

	name, settings, err := client.Accept(ctx, second.Invitation, dir)
	check(t, err)
	bo := h.load(settings)
	who, err := bo.Whoami(ctx)
	check(t, err)
	if name != "bo" || who.Operator != "bo" || who.Name != "Acme" || bo.Operator() != "bo" {
		t.Errorf("accepted as %s, known as %+v", name, who)
	}
	listed, err := h.anna.Operators(ctx)
	check(t, err)
	if i := slices.IndexFunc(listed.Items, func(o wire.Operator) bool { return o.Name == "bo" }); i < 0 || listed.Items[i].Key != bo.Key() || len(bo.Key()) != 64 {
		t.Errorf("by another key than %s: %+v", bo.Key(), listed.Items)
	}
	if info, err := os.Stat(filepath.Join(dir, "identity.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	if _, _, err = client.Accept(ctx, second.Invitation, dir); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("an operator's folder was overwritten: %v", err)
	}
	_, _, err = client.Accept(ctx, second.Invitation, filepath.Join(t.TempDir(), "again"))
	wantProblem(t, err, wire.CodeInvitation) // used

	// Two are there: from now on it takes both to make a third.
	_, err = h.anna.Invite(ctx, wire.NewOperator{Name: "cy", TTL: 60})
	request := requested(t, err)
	_, err = h.anna.Approve(ctx, request)
	wantProblem(t, err, wire.CodeConflict)
	_, err = bo.Approve(ctx, request)
	check(t, err)
	late, err := h.anna.Invite(ctx, wire.NewOperator{Name: "cy", TTL: 60})
	check(t, err)
	_, err = h.anna.Invite(ctx, wire.NewOperator{Name: "cy", TTL: 60})
	requested(t, err) // the consent was for once
	h.offset.Store(int64(2 * time.Minute))
	_, _, err = client.Accept(ctx, late.Invitation, filepath.Join(t.TempDir(), "late"))
	wantProblem(t, err, wire.CodeInvitation)
	if verbs := h.events("operator:bo"); !slices.Equal(verbs, []string{"approval.given", "certificate.issued"}) {
		t.Errorf("bo's events: %v", verbs)
	}
}

// TestLostAcceptance: whose answer was lost asks again, from the same folder, and gets
// the same certificate; nobody else does, and not for ever.
func TestLostAcceptance(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	invitation, err := h.anna.Invite(ctx, wire.NewOperator{Name: "bo", TTL: 600})
	check(t, err)
	dir := filepath.Join(t.TempDir(), "bo")
	for range 2 {
		h.lose.Store(true)
		_, _, err = client.Accept(ctx, invitation.Invitation, dir)
		var lost *client.Unreachable
		if !errors.As(err, &lost) {
			t.Fatalf("got %v", err)
		}
	}
	_, _, err = client.Accept(ctx, invitation.Invitation, filepath.Join(t.TempDir(), "other"))
	wantProblem(t, err, wire.CodeInvitation)
	h.offset.Store(int64(11 * time.Minute))
	_, _, err = client.Accept(ctx, invitation.Invitation, dir)
	wantProblem(t, err, wire.CodeInvitation)
	h.offset.Store(0)
	_, settings, err := client.Accept(ctx, invitation.Invitation, dir)
	check(t, err)
	_, err = h.load(settings).Whoami(ctx)
	check(t, err)
	issued, err := h.anna.Certificates(ctx, client.Query{Filter: `profile = operator AND subject:"*CN=bo*"`, Limit: 10})
	check(t, err)
	if len(issued.Items) != 1 {
		t.Errorf("%d certificates for one invitation", len(issued.Items))
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".accepting-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestInvitationLeadsToOneServer: an invitation is worth nothing to whoever stands in
// between, and leads nowhere else.
// A certificate whose making was cut off, as that of a recovery on the host, keeps its name from being
// invited. Until the server starts again, and revokes it, disabling does, as the hint says.
func TestInviteAfterAnIntentIsLeftOpen(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	check(t, h.store.RecoverOperator(ctx, "bo", h.now(), record.Event{Time: h.now(), Actor: "host", Verb: "operator.recovered"}))
	check(t, h.store.Intend(ctx, []record.Certificate{{Issuer: profile.Infrastructure, Serial: strings.Repeat("4a", 16), Profile: string(profile.Operator), Principal: "bo",
		Subject: "CN=bo", Shard: 1, NotBefore: h.now(), NotAfter: h.now().Add(time.Hour), Intended: h.now(), TBS: []byte("to be signed")}}, nil))
	_, err := h.anna.Invite(ctx, wire.NewOperator{Name: "bo"})
	wantProblem(t, err, wire.CodeConflict)
	if p, _ := errors.AsType[*wire.Problem](err); !strings.Contains(p.Hint, "hallmark operator disable bo first") {
		t.Errorf("the hint is %q", p.Hint)
	}
	_, err = h.anna.DisableOperator(ctx, "bo")
	check(t, err)
	_, err = h.anna.Invite(ctx, wire.NewOperator{Name: "bo"})
	check(t, err)
}

func TestInvitationLeadsToOneServer(t *testing.T) {
	h, other := newHouse(t), newHouse(t)
	ctx := t.Context()
	got, err := h.anna.Invite(ctx, wire.NewOperator{Name: "bo"})
	check(t, err)
	p, err := wire.ParsePermission(wire.KindInvitation, got.Invitation)
	check(t, err)
	p.Server = other.server.URL // a redirected name, an impostor's address
	_, _, err = client.Accept(ctx, p.String(), filepath.Join(t.TempDir(), "bo"))
	var wrong *client.Unreachable
	if !errors.As(err, &wrong) || !strings.Contains(wrong.Hint, "another server") {
		t.Fatalf("got %v", err)
	}
	// The right root, but a server whose certificate it did not vouch for.
	p.Root = sha256.Sum256(other.founded[profile.Infrastructure].Root.Raw)
	p.Server = strings.Replace(other.server.URL, "127.0.0.1", "localhost", 1)
	_, _, err = client.Accept(ctx, p.String(), filepath.Join(t.TempDir(), "bo"))
	if !errors.As(err, &wrong) {
		t.Fatalf("got %v", err)
	}
}

// TestUnavailable: docs/errors.md promises Retry-After with it.
func TestUnavailable(t *testing.T) {
	h := newHouse(t)
	key, chain := h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "anna", Lifetime: h.life}})
	check(t, h.store.Close())
	pool := x509.NewCertPool()
	pool.AddCert(h.founded[profile.Infrastructure].Root)
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{*tlsPair(key, chain)}}, DisableKeepAlives: true}}
	resp, err := c.Get(h.server.URL + wire.PathModels)
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
	}
}

func TestDisable(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	_, err := h.anna.DisableOperator(ctx, "anna")
	if p := wantProblem(t, err, wire.CodeLastOperator); !strings.Contains(p.Hint, "hallmarkd operator recover") {
		t.Errorf("hint: %s", p.Hint)
	}
	_, err = h.anna.DisableOperator(ctx, "nina")
	wantProblem(t, err, wire.CodeNotFound)
	invitation, err := h.anna.Invite(ctx, wire.NewOperator{Name: "bo"})
	check(t, err)
	_, err = h.anna.DisableOperator(ctx, "anna")
	wantProblem(t, err, wire.CodeLastOperator) // bo has not accepted
	_, settings, err := client.Accept(ctx, invitation.Invitation, filepath.Join(t.TempDir(), "bo"))
	check(t, err)
	bo := h.load(settings)
	_, err = bo.Whoami(ctx)
	check(t, err)

	gone, err := h.anna.DisableOperator(ctx, "bo")
	check(t, err)
	if gone.State != "disabled" || gone.Disabled.IsZero() {
		t.Errorf("disabled: %+v", gone)
	}
	_, err = bo.Whoami(ctx) // on the connection that was open
	wantProblem(t, err, wire.CodeUnauthorised)
	_, err = h.anna.DisableOperator(ctx, "bo")
	check(t, err) // once more changes nothing
	revoked, err := h.anna.Certificates(ctx, client.Query{Filter: "profile = operator AND status = revoked", Limit: 10})
	check(t, err)
	if len(revoked.Items) != 1 || revoked.Items[0].Operator != "bo" || revoked.Items[0].Reason != "privilege-withdrawn" {
		t.Errorf("revoked: %+v", revoked.Items)
	}
	crl, err := h.store.NewestCRL(ctx, record.Shard{Issuer: profile.Infrastructure, Number: 1})
	check(t, err)
	if crl.Sequence == 0 {
		t.Error("the infrastructure CRL was not published")
	}
	// cora could take anna's place until her certificate has run out.
	check(t, h.store.RecoverOperator(ctx, "cora", h.now(), record.Event{Time: h.now(), Actor: "host", Verb: "operator.recovered"}))
	h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "cora", Lifetime: time.Hour}})
	h.offset.Store(int64(2 * time.Hour))
	_, err = h.anna.DisableOperator(ctx, "anna")
	wantProblem(t, err, wire.CodeLastOperator)

	all, err := h.anna.Operators(ctx)
	check(t, err)
	if len(all.Items) != 3 || all.Items[0].State != "active" || all.Items[1].State != "disabled" {
		t.Errorf("operators: %+v", all.Items)
	}
}

// onRead calls what it is once, when the first byte is asked for.
type onRead struct {
	io.Reader
	once func()
}

func (r *onRead) Read(b []byte) (int, error) {
	if r.once != nil {
		r.once()
		r.once = nil
	}
	return r.Reader.Read(b)
}

// TestDisabledMidRequest: who was recognised before the body came does nothing any more
// if disabled before it came.
func TestDisabledMidRequest(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	invitation, err := h.anna.Invite(ctx, wire.NewOperator{Name: "bo"})
	check(t, err)
	dir := filepath.Join(t.TempDir(), "bo")
	_, _, err = client.Accept(ctx, invitation.Invitation, dir)
	check(t, err)
	identity := filepath.Join(dir, "identity.pem")
	pair, err := tls.LoadX509KeyPair(identity, identity)
	check(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(h.founded[profile.Infrastructure].Root)
	// The server says 100 Continue when it begins to read the body: the caller is recognised.
	bo := http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}}
	body := &onRead{strings.NewReader(`{"name":"eve"}`), func() {
		_, err := h.anna.DisableOperator(ctx, "bo")
		check(t, err)
	}}
	req, err := http.NewRequestWithContext(ctx, "POST", h.server.URL+wire.PathOperators, body)
	check(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Expect", "100-continue")
	resp, err := bo.Do(req)
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a disabled operator invites: %s", resp.Status)
	}
	if _, err := h.store.Operator(ctx, "eve"); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("eve: %v", err)
	}
}

// TestTwoDisableEachOther: whatever the order, one is left.
func TestTwoDisableEachOther(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	check(t, h.store.RecoverOperator(ctx, "bo", h.now(), record.Event{Time: h.now(), Actor: "host", Verb: "operator.recovered"}))
	bo := h.operator("bo")
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = h.anna.DisableOperator(ctx, "bo") })
	wg.Go(func() { _, _ = bo.DisableOperator(ctx, "anna") })
	wg.Wait()
	all, err := h.store.Operators(ctx)
	check(t, err)
	if len(all) != 2 || all[0].Disabled.IsZero() == all[1].Disabled.IsZero() {
		t.Errorf("left: %+v", all)
	}
}

// TestDisableOneself: who leaves may do it himself, while another stays.
func TestDisableOneself(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	check(t, h.store.RecoverOperator(ctx, "bo", h.now(), record.Event{Time: h.now(), Actor: "host", Verb: "operator.recovered"}))
	bo := h.operator("bo")
	o, err := bo.DisableOperator(ctx, "bo")
	check(t, err)
	if o.Disabled.IsZero() {
		t.Errorf("disabled: %+v", o)
	}
	if _, err := bo.Whoami(ctx); err == nil {
		t.Error("still let in")
	}
}

// TestRenewal: past two thirds of its life the client fetches a certificate for a new
// key, and carries on with the old one if it cannot.
func TestRenewal(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.offset.Store(int64(-50 * time.Minute))
	key, chain := h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "anna", Lifetime: time.Hour}})
	h.offset.Store(0)
	settings := h.write(key, chain)
	identity := filepath.Join(filepath.Dir(settings), "identity.pem")
	before, err := os.ReadFile(identity)
	check(t, err)

	// It cannot: the folder is not writable in a way that root minds as well.
	var warnings []string
	stuck, err := client.Load(settings, func(w string) { warnings = append(warnings, w) })
	check(t, err)
	check(t, os.Rename(filepath.Dir(settings), filepath.Dir(settings)+".away"))
	_, err = stuck.Whoami(ctx)
	check(t, err)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "could not be renewed") {
		t.Errorf("warnings: %q", warnings)
	}
	check(t, os.Rename(filepath.Dir(settings)+".away", filepath.Dir(settings)))

	c := h.load(settings)
	old, err := h.anna.Certificates(ctx, client.Query{Filter: "profile = operator", Limit: 10})
	check(t, err)
	who, err := c.Whoami(ctx)
	check(t, err)
	if slices.ContainsFunc(old.Items, func(row wire.Certificate) bool { return row.Serial == who.Certificate }) {
		t.Error("the first request was not made with the renewed certificate")
	}
	after, err := os.ReadFile(identity)
	check(t, err)
	if strings.Split(string(before), "-----")[2] == strings.Split(string(after), "-----")[2] {
		t.Error("the key was not replaced")
	}
	again, err := h.load(settings).Whoami(ctx)
	check(t, err)
	if again.Certificate != who.Certificate {
		t.Error("a fresh certificate was renewed")
	}
}

// TestKeyRequestBelongsToItsConnection: neither a copied request nor somebody else's
// key becomes a certificate.
func TestKeyRequestBelongsToItsConnection(t *testing.T) {
	h := newHouse(t)
	key, chain := h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "anna", Lifetime: time.Hour}})
	with := tlsPair(key, chain)
	for name, body := range map[string]string{
		"not a key":    keyRequest(t, nil, []byte("key"), ""),
		"another conn": keyRequest(t, key, nil, ""),
	} {
		if status, p := h.ask("POST", wire.PathRenewal, body, with); status != 400 || p.Code != wire.CodeMalformed {
			t.Errorf("%s: %d %+v", name, status, p)
		}
	}
	if status, p := h.ask("POST", wire.PathAccept, keyRequest(t, key, nil, "aaaaaaaaaaaaaaaa"), nil); status != 403 || p.Code != wire.CodeInvitation {
		t.Errorf("accept: %d %+v", status, p)
	}
}

// TestApprovalUsedAtOnce: of those who do at the same time what was approved once, one does it, and
// the others read what has become of the approval.
func TestApprovalUsedAtOnce(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	bo := h.second("bo")
	cleo := wire.NewOperator{Name: "cleo"}
	_, err := h.anna.Invite(ctx, cleo)
	_, err = bo.Approve(ctx, requested(t, err))
	check(t, err)
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() { _, errs[i] = h.anna.Invite(ctx, cleo) })
	}
	wg.Wait()
	done := 0
	for _, err := range errs {
		p := new(wire.Problem)
		switch {
		case err == nil:
			done++
		case !errors.As(err, &p) || p.Code != wire.CodeApproval && (p.Code != wire.CodeConflict || !strings.Contains(p.Detail, "approval was used")):
			t.Errorf("at the same time: %v", err)
		}
	}
	if done != 1 {
		t.Errorf("done %d times", done)
	}
}

// TestNobodyIsLeftToApprove: whoever is alone, and counts as one of two still, is told the way out.
func TestNobodyIsLeftToApprove(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.second("bo")
	_, err := h.anna.Invite(ctx, wire.NewOperator{Name: "cleo"})
	if p := wantProblem(t, err, wire.CodeApproval); !strings.Contains(p.Hint, "hallmark approve a") {
		t.Errorf("hint: %s", p.Hint)
	}
	_, err = h.anna.DisableOperator(ctx, "bo")
	check(t, err)
	_, err = h.anna.Invite(ctx, wire.NewOperator{Name: "cleo"})
	if p := wantProblem(t, err, wire.CodeApproval); !strings.Contains(p.Hint, "hallmarkd operator recover") {
		t.Errorf("hint: %s", p.Hint)
	}
}

// TestTwoActOnOneDevice: whoever made the change hears that it was made, with all its certificates,
// and nobody else does.
func TestTwoActOnOneDevice(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	bo := h.second("bo")
	h.device("default", "default", "SN-1")
	answers := make(chan wire.StatusChange, 100)
	var wg sync.WaitGroup
	act := func(do func(context.Context, string, wire.StatusRequest) (wire.StatusChange, error)) {
		for range 20 {
			got, err := do(ctx, "SN-1", wire.StatusRequest{Why: "a drill"})
			if err != nil {
				t.Error(err)
			}
			answers <- got
		}
	}
	for _, who := range []*client.Client{h.anna, bo} {
		wg.Go(func() { act(who.Suspend) })
		wg.Go(func() { act(who.Restore) })
	}
	wg.Wait()
	close(answers)
	told := map[string]int{}
	for got := range answers {
		if got.Changed {
			told[got.State]++
		}
		if got.Changed != (got.Certificates == 2 && got.Shards == 2) {
			t.Errorf("told %+v", got)
		}
	}
	done := map[string]int{}
	for _, verb := range slices.Concat(h.events("operator:anna"), h.events("operator:bo")) {
		switch verb {
		case "device.suspended":
			done["suspended"]++
		case "device.restored":
			done["active"]++
		}
	}
	if !maps.Equal(told, done) || done["suspended"] == 0 {
		t.Errorf("told %v, done %v", told, done)
	}
}
