package sqlite

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// BenchmarkEnrolment is what one enrolment asks of the record: the admission against
// session, ticket and quota, the intents of two certificates and the
// certificates, at 32 in parallel. It reports CPU time, the whole process's, and how
// many units of work shared one fsync.
func BenchmarkEnrolment(b *testing.B) {
	ctx, s, now := b.Context(), benchStore(b), time.Now()
	event := record.Event{Time: now, Actor: "ticket:abcdefghijklmnop", Verb: "device.enrolled", Object: "default:SN-000001", Detail: map[string]string{"assurance": "certified"}}
	var tickets []record.Ticket
	for i := range b.N + 64 {
		tickets = append(tickets, record.Ticket{ID: fmt.Sprintf("ticket%010d", i), Lot: "default", Created: now, Expires: now.Add(time.Hour)})
	}
	if err := s.CreateTickets(ctx, tickets, event); err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	enrol := func() error {
		i := n.Add(1)
		d := benchDevice(i, now)
		q := record.Query{Session: rand.Text(), Ticket: tickets[i].ID, Serial: d.Serial, EK: d.EKs[0].Fingerprint, EKName: d.EKs[0].Name, AK: d.AKName}
		_, err := s.Admit(ctx, q, func(v record.View) (record.Admission, error) {
			if v.Ticket == nil || v.Lot == nil || v.ByEK != nil {
				return record.Admission{}, fmt.Errorf("view: %+v", v)
			}
			return record.Admission{Device: d, Session: q.Session, Expires: now.Add(time.Minute), Ticket: q.Ticket, Event: event}, nil
		})
		if err != nil {
			return err
		}
		issue(b, s, []record.Certificate{benchIntent(d, now), benchIntent(d, now)}, event)
		return nil
	}
	if err := enrol(); err != nil { // statements prepared, files grown
		b.Fatal(err)
	}
	inParallel(b, s, enrol)
}

// BenchmarkRenewal is what one renewal asks of the record: its device, the admission
// against the certificate shown, an intent and the certificate, at 32 in parallel.
func BenchmarkRenewal(b *testing.B) {
	ctx, s, now := b.Context(), benchStore(b), time.Now()
	event := record.Event{Time: now, Actor: "device:default:SN-000001", Verb: "device.renewed", Object: "default:SN-000001", Detail: map[string]string{"assurance": "certified"}}
	shown := make([]record.Certificate, 500) // each device's
	for i := range shown {
		d := benchDevice(int64(i), now)
		if _, err := s.Admit(ctx, record.Query{}, func(record.View) (record.Admission, error) { return record.Admission{Device: d, Event: event}, nil }); err != nil {
			b.Fatal(err)
		}
		shown[i] = benchIntent(d, now)
		issue(b, s, shown[i:i+1], event)
	}
	var n atomic.Int64
	inParallel(b, s, func() error {
		c := shown[int(n.Add(1))%len(shown)]
		if _, err := s.Holder(ctx, c.Issuer, c.Serial); err != nil {
			return err
		}
		d, err := s.Admit(ctx, record.Query{Session: rand.Text(), Issuer: c.Issuer, CertificateSerial: c.Serial}, func(v record.View) (record.Admission, error) {
			return record.Admission{Device: *v.ByID, Session: rand.Text(), Expires: now.Add(time.Minute), Used: true, Event: event}, nil
		})
		if err == nil {
			issue(b, s, []record.Certificate{benchIntent(d, now)}, event)
		}
		return err
	})
}

func benchStore(b *testing.B) *Store {
	b.Helper()
	s, err := Create(b.Context(), filepath.Join(b.TempDir(), "store"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// inParallel measures 32 at once, of three writes each.
func inParallel(b *testing.B, s *Store, work func() error) {
	groups, cpu := s.db.Commits(), cpuTime()
	b.SetParallelism(max(1, 32/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := work(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(3*b.N)/float64(s.db.Commits()-groups), "writes/fsync")
}

// issue records certificates as the CA does.
func issue(b *testing.B, s *Store, cs []record.Certificate, e record.Event) {
	b.Helper()
	if err := s.Intend(b.Context(), cs, nil); err != nil {
		b.Error(err)
	}
	signed := slices.Clone(cs)
	for i := range signed {
		signed[i].DER, signed[i].Issued = append(signed[i].TBS, make([]byte, 80)...), e.Time
	}
	if err := s.Complete(b.Context(), signed, e); err != nil {
		b.Error(err)
	}
}

func benchDevice(i int64, now time.Time) record.Device {
	random := make([]byte, 34)
	rand.Read(random)
	return record.Device{
		ID: rand.Text(), Model: "default", Lot: "default", Serial: fmt.Sprintf("SN-%08d", i), State: record.StateActive,
		Assurance: record.Assurance{Certified: true, Hardware: true}, AKName: random, AKPublic: make([]byte, 90), Key: sha256.Sum256(random),
		TPMMaker: "STM", TPMModel: "ST33KTPM2A", TPMFirmware: "9.257.0.0", Enrolled: now, Seen: now,
		EKs: []record.EK{{Fingerprint: sha256.Sum256(random), Name: random, Public: make([]byte, 122), Certificate: make([]byte, 900), Issuer: "CN=STSAFE TPM ECC Intermediate CA 10,O=STMicroelectronics NV,C=CH"}},
	}
}

func benchIntent(d record.Device, now time.Time) record.Certificate {
	var serial [16]byte
	rand.Read(serial[:])
	return record.Certificate{
		Issuer: "manufacturing", Serial: fmt.Sprintf("%x", serial), Profile: "idevid", Device: d.ID, Subject: "serialNumber=" + d.Serial + ",O=Acme Devices", Shard: 1,
		Key: sha256.Sum256(serial[:]), NotBefore: now, NotAfter: now.Add(1000 * time.Hour), TBS: make([]byte, 750), Intended: now,
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
