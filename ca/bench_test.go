package ca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// forgetful is a store that costs nothing, to measure issuing without one.
type forgetful struct{ record.Issuance }

func (forgetful) ReserveShard(_ context.Context, _ string, want, _ int64) (int64, int64, error) {
	return 0, want, nil
}
func (forgetful) Intend(_ context.Context, intents []record.Certificate, stands func([]*record.Certificate) []bool) error {
	stands(make([]*record.Certificate, len(intents)))
	return nil
}
func (forgetful) Complete(context.Context, []record.Certificate, record.Event) error { return nil }

// BenchmarkIssue is an IDevID and an AK certificate, in CPU time, beside the
// cryptography that decision 16 cannot do without: per certificate a signature and its
// verification. The two are measured in turns, for the machine may be busy with something
// else.
func BenchmarkIssue(b *testing.B) {
	a := authority(b, forgetful{})
	reqs := requests(b)[:2]
	signVerify(b)
	b.ReportAllocs()
	var spent, unavoidable time.Duration
	for b.Loop() {
		unavoidable += cpu(func() { signVerify(b) })
		spent += cpu(func() {
			if _, err := a.Issue(b.Context(), record.Event{}, reqs...); err != nil {
				b.Fatal(err)
			}
		})
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(unavoidable.Microseconds())/float64(b.N), "crypto-µs/op")
	b.ReportMetric(float64(spent)/float64(unavoidable), "ratio")
}

var signer, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)

// signVerify does for two certificates what the cryptography alone would.
func signVerify(b *testing.B) {
	sum := sha256.Sum256([]byte("certificate"))
	for range 2 {
		signature, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			b.Fatal(err)
		}
		if !ecdsa.VerifyASN1(&signer.PublicKey, sum[:], signature) {
			b.Fatal("signature does not verify")
		}
	}
}

// cpu is the processor time that do takes, whatever else the machine does meanwhile.
func cpu(do func()) time.Duration {
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	do()
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	return time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
}
