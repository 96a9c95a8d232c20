package admin_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// left gives a device a working certificate of an issuer that is on record and not here, as after a
// restore from before a roll-over.
func (h *house) left(d record.Device) {
	h.t.Helper()
	shard, _, err := h.store.ReserveShard(h.t.Context(), "operational-2", 1, 16)
	check(h.t, err)
	c := record.Certificate{Issuer: "operational-2", Serial: strings.Repeat("0123456789abcde", 2) + d.Serial[len(d.Serial)-2:], Profile: string(profile.LDevID),
		Device: d.ID, Subject: "CN=" + d.Name(), Shard: shard, TBS: []byte{1}, NotBefore: h.now(), NotAfter: h.now().Add(time.Hour), Intended: h.now()}
	check(h.t, h.store.Intend(h.t.Context(), []record.Certificate{c}, nil))
	c.DER, c.Issued = []byte{2}, h.now()
	check(h.t, h.store.Complete(h.t.Context(), []record.Certificate{c}, record.Event{Time: h.now(), Actor: "test", Verb: "certificate.issued", Object: d.Name()}))
}

// What ends certificates of an issuer that is gone is done, and the answer says whose lists cannot
// be signed any more: the issuers that are here have said so on theirs.
func TestIssuerIsGone(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	told := func(what string, unsigned map[string]string) {
		t.Helper()
		if !slices.Equal(slices.Collect(maps.Keys(unsigned)), []string{"operational-2"}) || !strings.Contains(unsigned["operational-2"], "relying parties") {
			t.Errorf("%s: not signed: %q", what, unsigned)
		}
	}
	h.left(h.device("default", "default", "SN-11"))
	h.device("default", "default", "SN-10")
	survey, err := h.anna.Survey(ctx, jobs.Selection{Devices: []string{"SN-11"}})
	check(t, err)
	told("looked at", survey.Unsigned)
	survey, err = h.anna.Survey(ctx, jobs.Selection{Devices: []string{"SN-10"}})
	check(t, err)
	if survey.Unsigned != nil {
		t.Errorf("a look at what is not about it: %q", survey.Unsigned)
	}
	for _, again := range []bool{false, true} {
		got, err := h.anna.Suspend(ctx, "SN-11", wire.StatusRequest{Why: "stolen?"})
		check(t, err)
		told("suspended", got.Unsigned)
		if got.Changed == again || !again && (got.Certificates != 3 || got.Shards != 2) {
			t.Errorf("suspended, again %v: %+v", again, got)
		}
	}
	if r := h.listed(); !slices.Equal(r, []int{record.ReasonHold}) {
		t.Errorf("the list of the issuer that is here: %v", r)
	}
	got, err := h.anna.Revoke(ctx, "SN-11", wire.StatusRequest{Reason: "key-compromise"})
	check(t, err)
	told("revoked", got.Unsigned)

	d := h.device("default", "default", "SN-12")
	h.left(d)
	other := h.device("default", "default", "SN-13")
	h.runJobs()
	j, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Selection: jobs.Selection{Devices: []string{d.ID, other.ID}}, Why: "stolen?"})
	check(t, err)
	told("a job", h.reaches(j.ID, record.JobDone).Unsigned)
	j, err = h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Restore, Selection: jobs.Selection{Devices: []string{other.ID}}, Why: "found"})
	check(t, err)
	if p := h.reaches(j.ID, record.JobDone); p.Unsigned != nil {
		t.Errorf("a job that is not about it: %q", p.Unsigned)
	}

	h.left(h.softDevice("SN-14"))
	g, err := h.anna.Grant(ctx, "SN-14", renewal.NewGrant{NewKey: true})
	check(t, err)
	told("granted", g.Unsigned)
}
