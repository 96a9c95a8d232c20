package status

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
)

// perCall is the least time of a few rounds of n calls: the machine is shared.
func perCall(n int, f func()) time.Duration {
	best := time.Duration(1<<63 - 1)
	for range 5 {
		start := time.Now()
		for range n {
			f()
		}
		best = min(best, time.Since(start)/time.Duration(n))
	}
	return best
}

// onSQLite gives a pki the record that it has in production.
func onSQLite(b *testing.B) (*pki, *sqlite.Store) {
	b.Helper()
	p := newPKI(b)
	store, err := sqlite.Create(background, filepath.Join(b.TempDir(), "hallmark.db"), sqlite.Options{})
	p.must(err)
	b.Cleanup(func() { store.Close() })
	config := p.config()
	config.Store, config.Now = store, time.Now
	p.service, err = New(config)
	p.must(err)
	return p, store
}

// BenchmarkOCSPKept compares the rate of kept answers by GET over kept connections with
// that of a handler that has nothing to do but write the same bytes. The client does as
// little as it can, for it has its part in both.
func BenchmarkOCSPKept(b *testing.B) {
	p, store := onSQLite(b)
	serial := issued(p, store, "SN-1", 1)
	path := "/ocsp/" + url.PathEscape(base64.StdEncoding.EncodeToString(p.request(serial, crypto.SHA256)))
	body := p.get(path, http.StatusOK)
	ours := rate(b, p.service.Handler(), path)
	plain := rate(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/ocsp-response")
		w.Write(body)
	}), path)
	for b.Loop() {
		ours()
	}
	var best, bestPlain float64
	for range 7 { // by turns, for others use the machine too
		best, bestPlain = max(best, ours()), max(bestPlain, plain())
	}
	b.ReportMetric(best, "answers/s")
	b.ReportMetric(100*best/bestPlain, "%-of-plain")
	b.ReportMetric(0, "ns/op")
}

// rate serves a handler and returns a measurement of its answers per second on four
// connections.
func rate(b *testing.B, handler http.Handler, path string) func() float64 {
	server := httptest.NewServer(handler)
	b.Cleanup(server.Close)
	const connections, each = 4, 1500
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n")
	var conns []net.Conn
	for range connections {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		conns = append(conns, c)
	}
	return func() float64 {
		begin := time.Now()
		var all sync.WaitGroup
		for _, c := range conns {
			all.Go(func() {
				r := bufio.NewReader(c)
				for range each {
					if _, err := c.Write(request); err != nil {
						b.Error(err)
					}
					if err := skipAnswer(r); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		return connections * each / time.Since(begin).Seconds()
	}
}

// skipAnswer reads an answer of HTTP/1.1 with a Content-Length.
func skipAnswer(r *bufio.Reader) error {
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			fmt.Sscanf(string(value), "%d", &length)
		}
		if len(line) == 2 {
			_, err := io.CopyN(io.Discard, r, int64(length))
			return cmp.Or(err, map[bool]error{true: io.ErrUnexpectedEOF}[length == 0])
		}
	}
}

// BenchmarkOCSPFirst is from the moment at which a certificate is issued to the first
// answer about it, in milliseconds.
func BenchmarkOCSPFirst(b *testing.B) {
	p, store := onSQLite(b)
	n := 0
	var took time.Duration
	for b.Loop() {
		n++
		serial := issued(p, store, fmt.Sprint("SN-", n), byte(n))
		begin := time.Now()
		if r := p.ask(serial); r.Status != 0 {
			b.Fatal(r.Status)
		}
		took += time.Since(begin)
	}
	b.ReportMetric(took.Seconds()*1000/float64(n), "ms-to-first-answer")
}

// BenchmarkOCSPSigned is an answer that is signed live, without HTTP.
func BenchmarkOCSPSigned(b *testing.B) {
	p, store := onSQLite(b)
	request := withNonce(b, p.request(issued(p, store, "SN-1", 1), crypto.SHA256), make([]byte, 32))
	digest := make([]byte, 32)
	for b.Loop() {
		p.service.answerOCSP(background, request)
	}
	ours := perCall(200, func() { p.service.answerOCSP(background, request) })
	bare := perCall(200, func() { p.ocspKey.Sign(rand.Reader, digest, crypto.SHA256) })
	b.ReportMetric(float64(ours)/float64(bare), "x-signature")
}

// million are a million certificates of an issuer, in 62 shards, of ten thousand devices.
// It takes a minute, so all that is measured on it is one benchmark. HALLMARK_BENCH_MILLION
// names another number.
func million(b *testing.B, p *pki, store *sqlite.Store) (devices []string, shards []record.Shard) {
	b.Helper()
	total := 1_000_000
	if text := os.Getenv("HALLMARK_BENCH_MILLION"); text != "" {
		fmt.Sscan(text, &total)
	}
	const each, capacity = 100, 16_384
	now := time.Now()
	e := record.Event{Time: now, Actor: "host", Verb: "x"}
	var batch []record.Certificate
	write := func() {
		p.must(store.Intend(background, batch))
		for i := range batch {
			batch[i].DER, batch[i].Issued = []byte{0x30, 0}, now
		}
		p.must(store.Complete(background, batch, e))
		batch = batch[:0]
	}
	for len(devices)*each < total {
		id := fmt.Sprint("device-", len(devices))
		sum := sha256.Sum256([]byte(id))
		_, err := store.Admit(background, record.Query{}, func(record.View) (record.Admission, error) {
			return record.Admission{Device: record.Device{ID: id, Model: record.DefaultModel, Lot: record.DefaultLot, Serial: id,
				State: record.StateActive, EKs: []record.EK{{Fingerprint: sum, Name: sum[:], Public: sum[:]}},
				AKName: sum[:], AKPublic: sum[:], Key: sum, Enrolled: now, Seen: now}, Event: e}, nil
		})
		p.must(err)
		devices = append(devices, id)
		for i := range each {
			n := int64((len(devices)-1)*each + i)
			if n%capacity == 0 {
				shard, _, err := store.ReserveShard(background, "operational", capacity, capacity)
				p.must(err)
				shards = append(shards, record.Shard{Issuer: "operational", Number: shard})
			}
			batch = append(batch, record.Certificate{Issuer: "operational", Serial: fmt.Sprintf("%032x", newSerial()), Profile: record.ProfileLDevID, Device: id,
				Shard: shards[len(shards)-1].Number, NotBefore: now, NotAfter: now.AddDate(0, 1, 0), TBS: []byte{0x30, 0}, Intended: now})
		}
		if len(batch) >= 2000 {
			write()
		}
	}
	if len(batch) > 0 {
		write()
	}
	return devices, shards
}

// BenchmarkMillion: with a million certificates on record, what one change costs, and all
// shards, read, signed, checked, stored and served, when all are revoked, against encoding
// and signing the same lists with crypto/x509 in one go.
func BenchmarkMillion(b *testing.B) {
	for range b.N {
		p, store := onSQLite(b)
		devices, shards := million(b, p, store)
		p.must(p.service.Publish(background, shards...))
		e := record.Event{Time: time.Now(), Actor: "host", Verb: "x"}
		next := 0
		revoke := func() {
			p.must(err2(p.service.Revoke(background, devices[next], record.ReasonKeyCompromise, "", e)))
			next++
		}
		b.ReportMetric(perCall(10, revoke).Seconds()*1000, "ms/revocation-of-a-hundred")

		whole := func() { p.must(err2(p.service.over(background, p.service.issuers["operational"], complete))) }
		for len(devices)-next > len(devices)*99/100 {
			p.must(err2(store.Revoke(background, devices[next], time.Now(), record.ReasonKeyCompromise, "", e)))
			next++
		}
		begin := time.Now()
		whole()
		b.ReportMetric(time.Since(begin).Seconds()*1000, "ms/complete-list-at-1%")
		for ; next < len(devices); next++ {
			p.must(err2(store.Revoke(background, devices[next], time.Now(), record.ReasonKeyCompromise, "", e)))
		}
		begin = time.Now()
		p.must(p.service.Publish(background, shards...))
		ours := time.Since(begin)
		bare := p.bareLists(shards)
		b.ReportMetric(ours.Seconds(), "s/all-shards")
		b.ReportMetric(ours.Seconds()/bare.Seconds(), "x-crypto/x509")
		begin = time.Now()
		whole()
		b.ReportMetric(time.Since(begin).Seconds(), "s/complete-list-at-100%")
		b.ReportMetric(0, "ns/op")
	}
}

// bareLists is the time in which crypto/x509 makes the lists that are served.
func (p *pki) bareLists(shards []record.Shard) (took time.Duration) {
	p.Helper()
	for _, sh := range shards {
		l := p.crl(sh.Number)
		template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate}
		for _, e := range l.RevokedCertificateEntries {
			template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: e.SerialNumber, RevocationTime: e.RevocationTime, ReasonCode: e.ReasonCode})
		}
		begin := time.Now()
		_, err := x509.CreateRevocationList(rand.Reader, template, p.issuer, p.key)
		took += time.Since(begin)
		p.must(err)
	}
	return took
}
