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
	"slices"
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
	var rates, shares []float64
	for range 15 { // by turns, for others use the machine too
		rates = append(rates, ours())
		shares = append(shares, 100*rates[len(rates)-1]/plain())
	}
	slices.Sort(shares)
	b.ReportMetric(slices.Max(rates), "answers/s")
	b.ReportMetric(shares[len(shares)/2], "%-of-plain")
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

// million puts a million certificates of an issuer on record, in 62 shards, and twenty
// devices of one certificate each after them. Intents count as certificates where lists are
// made, and are quicker to write. HALLMARK_BENCH_MILLION names another number.
func million(b *testing.B, p *pki, store *sqlite.Store) (large, small []string, shards []record.Shard) {
	b.Helper()
	total := 1_000_000
	if text := os.Getenv("HALLMARK_BENCH_MILLION"); text != "" {
		fmt.Sscan(text, &total)
	}
	const each, capacity = 1000, 16_384
	now := time.Now()
	add := func(id string, n int) {
		sum := sha256.Sum256([]byte(id))
		_, err := store.Admit(background, record.Query{}, func(record.View) (record.Admission, error) {
			return record.Admission{Device: record.Device{ID: id, Model: record.DefaultModel, Lot: record.DefaultLot, Serial: id,
				State: record.StateActive, EKs: []record.EK{{Fingerprint: sum, Name: sum[:], Public: sum[:]}}, AKName: sum[:], AKPublic: sum[:], Key: sum,
				Enrolled: now, Seen: now}, Event: record.Event{Time: now, Actor: "host", Verb: "x"}}, nil
		})
		p.must(err)
		for n > 0 {
			// Small transactions: SQLite's undo log of a savepoint is slow when it is long.
			shard, given, err := store.ReserveShard(background, "operational", int64(min(n, 200)), capacity)
			p.must(err)
			batch := make([]record.Certificate, given)
			for i := range batch {
				batch[i] = record.Certificate{Issuer: "operational", Serial: fmt.Sprintf("%032x", newSerial()), Profile: record.ProfileLDevID, Device: id,
					Shard: shard, NotBefore: now, NotAfter: now.AddDate(0, 1, 0), TBS: []byte{0x30, 0}, Intended: now}
			}
			p.must(store.Intend(background, batch, nil))
			n -= int(given)
		}
	}
	for n := range total / each {
		large = append(large, fmt.Sprint("large-", n))
	}
	for n := range 20 {
		small = append(small, fmt.Sprint("small-", n))
	}
	inParallel(large, func(id string) { add(id, each) })
	inParallel(small, func(id string) { add(id, 1) })
	shards, err := store.Shards(background, "operational", now)
	p.must(err)
	return large, small, shards
}

// inParallel does f for each device, many at a time, which share waiting for the disk.
func inParallel(devices []string, f func(id string)) {
	var all sync.WaitGroup
	places := make(chan struct{}, 48)
	for _, id := range devices {
		places <- struct{}{}
		all.Go(func() { f(id); <-places })
	}
	all.Wait()
}

// BenchmarkMillion: with a million certificates on record, what one change costs, and all
// shards, read, signed, checked, stored and served, when all are revoked, against encoding
// and signing the same lists with crypto/x509 in one go.
func BenchmarkMillion(b *testing.B) {
	for range b.N {
		p, store := onSQLite(b)
		large, small, shards := million(b, p, store)
		p.must(p.service.Publish(background, shards...))
		e := record.Event{Time: time.Now(), Actor: "host", Verb: "x"}
		end := func(devices []string) {
			inParallel(devices, func(id string) {
				p.must(err2(store.Revoke(background, id, time.Now(), record.ReasonKeyCompromise, "", e)))
			})
		}
		whole := func() { p.must(err2(p.service.over(background, p.service.issuers["operational"], complete))) }
		timed := func(f func()) time.Duration { begin := time.Now(); f(); return time.Since(begin) }

		var changes []time.Duration
		for _, id := range small {
			changes = append(changes, timed(func() {
				p.must(err2(p.service.Suspend(background, id, e)))
			}))
		}
		slices.Sort(changes)
		b.ReportMetric(changes[len(changes)/2].Seconds()*1000, "ms/change")
		end(large[:len(large)/100])
		b.ReportMetric(timed(whole).Seconds()*1000, "ms/complete-list-at-1%")
		b.ReportMetric(timed(func() { p.must(p.service.Publish(background, shards...)) }).Seconds()*1000, "ms/all-shards-at-1%")
		end(large[len(large)/100:])
		ours := timed(func() { p.must(p.service.Publish(background, shards...)) })
		b.ReportMetric(ours.Seconds(), "s/all-shards-at-100%")
		b.ReportMetric(ours.Seconds()/p.bareLists(shards).Seconds(), "x-crypto/x509")
		b.ReportMetric(timed(whole).Seconds(), "s/complete-list-at-100%")
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
