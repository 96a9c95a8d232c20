package admin_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// softDevice is a device without hardware, with its certificates.
func (h *house) softDevice(serial string) record.Device {
	h.t.Helper()
	d := record.Device{ID: h.permissions.NewDeviceID(), Model: record.DefaultModel, Lot: record.DefaultLot, Serial: serial, State: record.StateActive,
		AKPublic: []byte(serial), Key: [32]byte([]byte(serial + "                                ")[:32]), Enrolled: h.now(), Seen: h.now()}
	d, err := h.store.Admit(h.t.Context(), record.Query{Serial: serial, Key: d.Key}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: d, Event: record.Event{Time: h.now(), Actor: "test", Verb: "device.enrolled", Object: d.Name()}}, nil
	})
	check(h.t, err)
	h.issue(ca.Request{Profile: profile.LDevID, Device: d.ID, Content: profile.Content{Model: d.Model, Serial: serial, Lifetime: 24 * time.Hour}})
	return d
}

// onList reports whether an issuer's first CRL shard, as it is stored, names a certificate.
func (h *house) onList(c record.Certificate) bool {
	h.t.Helper()
	crl, err := h.store.NewestCRL(h.t.Context(), record.Shard{Issuer: c.Issuer, Number: c.Shard})
	check(h.t, err)
	list, err := x509.ParseRevocationList(crl.DER)
	check(h.t, err)
	for _, entry := range list.RevokedCertificateEntries {
		if profile.SerialText(entry.SerialNumber) == c.Serial {
			return true
		}
	}
	return false
}

// TestGrantOfWholeLot: new keys end certificates too, and the last of a lot takes two.
func TestGrantOfWholeLot(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.softDevice("SN-1")
	last := h.softDevice("SN-2")
	bo := h.second("bo")
	in := renewal.NewGrant{NewKey: true, Why: "reflashed"}
	_, err := h.anna.Grant(ctx, "SN-1", in)
	check(t, err)
	_, err = h.anna.Grant(ctx, "SN-2", in)
	request := requested(t, err)
	open, err := bo.Approvals(ctx)
	check(t, err)
	if len(open.Items) != 1 || open.Items[0].Kind != record.ApproveGrant || open.Items[0].Subject != last.Name() {
		t.Errorf("open: %+v", open.Items)
	}
	_, err = h.anna.Revoke(ctx, "SN-2", wire.StatusRequest{Reason: "cessation"})
	wantProblem(t, err, wire.CodeApproval)
	_, err = bo.Approve(ctx, request)
	check(t, err)
	got, err := h.anna.Grant(ctx, "SN-2", in)
	check(t, err)
	if got.Ticket == "" {
		t.Errorf("granted: %+v", got)
	}
}

func TestGrant(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	d := h.softDevice("SN-1")
	chip := h.device(record.DefaultModel, record.DefaultLot, "SN-2")

	g, err := h.anna.Grant(ctx, "SN-1", renewal.NewGrant{Why: "reflashed"})
	check(t, err)
	if g.Device != d.Name() || g.Ticket != "" || g.Expires.Sub(g.Created) != renewal.DefaultGrant {
		t.Errorf("got %+v", g)
	}
	shown, err := h.anna.Device(ctx, "SN-1")
	check(t, err)
	if !shown.Granted.Equal(g.Expires.Truncate(time.Microsecond)) {
		t.Errorf("the device shows %+v", shown.Granted)
	}

	fresh, err := h.anna.Grant(ctx, "SN-1", renewal.NewGrant{For: 3600, NewKey: true})
	check(t, err)
	permission, err := wire.ParsePermission(wire.KindTicket, fresh.Ticket)
	check(t, err)
	all, err := h.store.GrantsOf(ctx, d.ID)
	check(t, err)
	if len(all) != 2 || all[0].ID != permission.ID || !all[0].NewKey || all[1].Expires.After(all[0].Created) {
		t.Errorf("recorded: %+v", all)
	}
	rows, _, err := h.store.Certificates(ctx, &record.Selector{Op: record.OpEqual, Field: "device", Value: d.ID}, record.Page{Limit: 10})
	check(t, err)
	if len(rows) != 1 || rows[0].Reason != record.ReasonSuperseded || !h.onList(rows[0]) {
		t.Errorf("the certificates of the lost key are not on a list: %+v", rows)
	}

	_, err = h.anna.Grant(ctx, "SN-2", renewal.NewGrant{NewKey: true})
	wantProblem(t, err, wire.CodeConflict)
	_, err = h.anna.Grant(ctx, "SN-3", renewal.NewGrant{})
	wantProblem(t, err, wire.CodeNotFound)
	for _, seconds := range []int64{-1, 59, int64(renewal.MaxGrant/time.Second) + 1, 1 << 62} {
		_, err = h.anna.Grant(ctx, "SN-1", renewal.NewGrant{For: seconds})
		wantProblem(t, err, wire.CodeMalformed)
	}
	_, err = h.anna.Revoke(ctx, chip.Serial, wire.StatusRequest{Reason: "cessation"})
	check(t, err)
	_, err = h.anna.Grant(ctx, "SN-2", renewal.NewGrant{NewKey: true})
	wantProblem(t, err, wire.CodeRevoked)
	h.offset.Add(int64(2 * time.Hour))
	shown, err = h.anna.Device(ctx, "SN-1")
	check(t, err)
	if !shown.Granted.IsZero() {
		t.Errorf("a grant that has run out is shown: %+v", shown.Granted)
	}
}
