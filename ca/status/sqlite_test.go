package status

import (
	"crypto/sha256"
	"fmt"
	"math/big"
	"path/filepath"
	"testing"

	second "golang.org/x/crypto/ocsp"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
)

// issued puts a device and a certificate into a real record, as the provisioner and
// the CA do.
func issued(p *pki, s *sqlite.Store, device string) *big.Int {
	p.Helper()
	now, serial, own := p.clock.Now(), newSerial(), sha256.Sum256([]byte(device))
	e := record.Event{Time: now, Actor: "host", Verb: "test", Object: device}
	_, err := s.Admit(background, record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: record.Device{ID: device, Model: record.DefaultModel, Lot: record.DefaultLot, Serial: device,
			State: record.StateActive, EKs: []record.EK{{Fingerprint: own, Name: own[:], Public: own[:]}},
			AKName: own[:], AKPublic: own[:], Key: own, Enrolled: now, Seen: now}, Event: e}, nil
	})
	p.must(err)
	shard, _, err := s.ReserveShard(background, "operational", 1, 1)
	p.must(err)
	c := record.Certificate{Issuer: "operational", Serial: fmt.Sprintf("%032x", serial), Profile: "ldevid", Device: device, Subject: "CN=" + device,
		Shard: shard, NotBefore: now, NotAfter: now.AddDate(0, 1, 0), TBS: []byte{0x30, 0}, Intended: now}
	p.must(s.Intend(background, []record.Certificate{c}, nil))
	c.DER, c.Issued = []byte{0x30, 0}, now
	p.must(s.Complete(background, []record.Certificate{c}, e))
	return serial
}

// TestOverSQLite: the service over the store that it runs on, with one certificate to
// a shard, over a restart.
func TestOverSQLite(t *testing.T) {
	p := newPKI(t)
	file := filepath.Join(t.TempDir(), "hallmark.db")
	store, err := sqlite.Create(background, file, sqlite.Options{})
	p.must(err)
	start := func() {
		config := p.config()
		config.Store = store
		p.service, err = New(config)
		p.must(err)
	}
	start()
	good, bad := issued(p, store, "SN-1"), issued(p, store, "SN-2")
	if r := p.ask(good); r.Status != second.Good {
		t.Error("status", r.Status)
	}
	e := record.Event{Time: p.clock.Now(), Actor: "operator:anna", Verb: "device.revoked", Object: "SN-2"}
	shards, err := p.service.Revoke(background, "SN-2", record.ReasonKeyCompromise, "stolen", e)
	if err != nil || len(shards) != 1 {
		t.Fatal(shards, err)
	}
	if r := p.ask(bad); r.Status != second.Revoked || r.RevocationReason != record.ReasonKeyCompromise {
		t.Error("status", r.Status)
	}
	list := p.crl(shards[0].Number)
	if reason, ok := lists(list, bad); !ok || reason != record.ReasonKeyCompromise {
		t.Error("not on its list")
	}
	p.must(err2(p.service.Suspend(background, "SN-1", e)))
	p.must(err2(p.service.Restore(background, "SN-1", e)))
	if shards, err := p.service.Revoke(background, "SN-2", 0, "", e); len(shards) != 1 || err != nil {
		t.Error("revoked twice:", shards, err)
	}
	list = p.crl(shards[0].Number)
	if err := err2(p.service.Suspend(background, "SN-2", e)); err == nil {
		t.Error("a revoked device was suspended")
	}

	p.must(store.Close())
	store, err = sqlite.Open(background, file, sqlite.Options{})
	p.must(err)
	defer store.Close()
	start()
	if again := p.crl(shards[0].Number); again.Number.Cmp(list.Number) != 0 {
		t.Error("the list did not survive the restart:", again.Number, list.Number)
	}
	p.must(p.service.Publish(background, shards...))
	if again := p.crl(shards[0].Number); again.Number.Cmp(list.Number) <= 0 || len(again.RevokedCertificateEntries) != 1 {
		t.Error("after the restart:", again.Number, len(again.RevokedCertificateEntries))
	}
}
