package tpm2_test

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
)

// unavoidable is the cryptography that nobody can leave out, with everything parsed and
// ready: so many P-256 verifications and one key agreement with a fresh key.
func unavoidable(b *testing.B, verifications int) func() {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	peer, err := key.PublicKey.ECDH()
	if err != nil {
		b.Fatal(err)
	}
	return func() {
		for range verifications {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				b.Fatal("the signature does not verify")
			}
		}
		ephemeral, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := ephemeral.ECDH(peer); err != nil {
			b.Fatal(err)
		}
	}
}

// compare runs both in turns and reports the ratio of their processor time, collecting
// their garbage included, so that a busy machine does not count.
func compare(b *testing.B, ours, raw func()) {
	b.ReportAllocs()
	var a, c time.Duration
	for b.Loop() {
		a += used(b, ours)
		c += used(b, raw)
	}
	b.ReportMetric(float64(a.Nanoseconds())/1e3/float64(b.N), "µs/attest")
	b.ReportMetric(float64(c.Nanoseconds())/1e3/float64(b.N), "µs/crypto")
	b.ReportMetric(float64(a)/float64(c), "×crypto")
}

func used(b *testing.B, f func()) time.Duration {
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	f()
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	return time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
}

// BenchmarkEnrol: Verify and Challenge, P-256 EK, AK and key, a chain of three; two
// signatures (EK certificate, statement) and a credential. The intermediate's signature
// was verified for the chip before.
func BenchmarkEnrol(b *testing.B) {
	m := newMaker(b)
	v := tpm2.New(trusting(b, m.Root.Raw), true)
	e := evidence(b, newDevice(b, m, simtpm.Options{}))
	compare(b, func() {
		p, err := v.Verify(e, binding, now)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := v.Challenge(p, secret); err != nil {
			b.Fatal(err)
		}
	}, unavoidable(b, 2))
}

// BenchmarkRenew: Reverify, and the Challenge for the next time.
func BenchmarkRenew(b *testing.B) {
	m := newMaker(b)
	v := tpm2.New(trusting(b, m.Root.Raw), true)
	d := newDevice(b, m, simtpm.Options{})
	k, err := d.NewLDevID()
	if err != nil {
		b.Fatal(err)
	}
	e, err := d.Certify(k, binding)
	if err != nil {
		b.Fatal(err)
	}
	known := d.Known()
	compare(b, func() {
		p, err := v.Reverify(known, e, binding)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := v.Challenge(p, secret); err != nil {
			b.Fatal(err)
		}
	}, unavoidable(b, 1))
}

// BenchmarkSimulatedDevice is what one device costs a load test: made once, then
// certify and activate.
func BenchmarkSimulatedDevice(b *testing.B) {
	m := newMaker(b)
	v := tpm2.New(trusting(b, m.Root.Raw), true)
	b.Run("make", func(b *testing.B) {
		for b.Loop() {
			newDevice(b, m, simtpm.Options{})
		}
	})
	d := newDevice(b, m, simtpm.Options{})
	p, err := v.Verify(evidence(b, d), binding, now)
	if err != nil {
		b.Fatal(err)
	}
	var c attest.Challenge
	if c, err = v.Challenge(p, secret); err != nil {
		b.Fatal(err)
	}
	b.Run("use", func(b *testing.B) {
		for b.Loop() {
			evidence(b, d)
			if _, err := d.Activate(c); err != nil {
				b.Fatal(err)
			}
		}
	})
}
