// Package populate fills a record with a fleet that nobody has enrolled, for measurements
// and crashes: everything is in the record as it would be, but certificates are only
// numbers that bear a serial number.
package populate

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// Store is what is written to.
type Store interface {
	Admit(ctx context.Context, q record.Query, judge record.Judge) (record.Device, error)
	ReserveShard(ctx context.Context, issuer string, want, capacity int64) (shard, given int64, err error)
	Intend(ctx context.Context, intents []record.Certificate) error
	Complete(ctx context.Context, signed []record.Certificate, e record.Event) error
}

// Device is one device with a number of working certificates.
type Device struct {
	Lot, Serial, Firmware string
	Certificates          int
}

// Capacity is that of a shard.
const Capacity = 16384

// batch is how many certificates are written in one transaction.
const batch = 1000

// Fleet adds devices to the default model, and their certificates to the operational
// issuer, in order: neighbours share a shard. It returns the serial numbers of their
// certificates, in order too.
func Fleet(ctx context.Context, s Store, now time.Time, all []Device) (serials []string, err error) {
	if err := admit(ctx, s, now, all); err != nil {
		return nil, err
	}
	event := record.Event{Time: now, Actor: "server", Verb: "certificate.issued"}
	var pending []record.Certificate
	var shard, room int64
	flush := func() error {
		if err := s.Intend(ctx, pending); err != nil {
			return err
		}
		for i := range pending {
			pending[i].DER, pending[i].Issued = []byte(pending[i].Serial), now
		}
		err := s.Complete(ctx, pending, event)
		pending = pending[:0]
		return err
	}
	for i, d := range all {
		for range d.Certificates {
			if room == 0 {
				if shard, room, err = s.ReserveShard(ctx, "operational", batch, Capacity); err != nil {
					return nil, err
				}
			}
			room--
			c := record.Certificate{Issuer: "operational", Serial: serial(), Profile: record.ProfileLDevID, Device: id(i), Subject: "CN=" + d.Serial, Shard: shard,
				KeyAlgorithm: "ecdsa-p256", NotBefore: now, NotAfter: now.Add(30 * 24 * time.Hour), TBS: []byte{0x30}, Intended: now}
			rand.Read(c.Key[:])
			serials = append(serials, c.Serial)
			if pending = append(pending, c); len(pending) == batch {
				if err := flush(); err != nil {
					return nil, err
				}
			}
		}
	}
	return serials, flush()
}

// admit lets many wait at once: the record commits them together.
func admit(ctx context.Context, s Store, now time.Time, all []Device) error {
	const side = 64
	var wait sync.WaitGroup
	errs := make(chan error, side)
	for first := range side {
		wait.Go(func() {
			for i := first; i < len(all); i += side {
				if err := admitOne(ctx, s, now, i, all[i]); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wait.Wait()
	close(errs)
	return <-errs
}

func admitOne(ctx context.Context, s Store, now time.Time, i int, d Device) error {
	ek := sha256.Sum256([]byte(d.Serial))
	device := record.Device{ID: id(i), Model: record.DefaultModel, Lot: d.Lot, Serial: d.Serial, State: record.StateActive,
		Assurance: record.Assurance{Hardware: true, Certified: true}, EKs: []record.EK{{Fingerprint: ek, Name: ek[:], Public: []byte{1}, Issuer: "CN=Test TPM Maker"}},
		AKName: append([]byte{0, 11}, ek[:]...), AKPublic: []byte{2}, Key: ek, TPMMaker: "TEST", TPMModel: "chip", TPMFirmware: d.Firmware, Enrolled: now, Seen: now}
	_, err := s.Admit(ctx, record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: device, Event: record.Event{Time: now, Actor: "test", Verb: "device.enrolled", Object: device.Name()}}, nil
	})
	return err
}

// id spreads devices as random IDs do.
func id(i int) string {
	sum := sha256.Sum256(fmt.Append(nil, "device", i))
	return hex.EncodeToString(sum[:13])
}

func serial() string {
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x7f | 1
	return hex.EncodeToString(b[:])
}
