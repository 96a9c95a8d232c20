package status

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto"
	"crypto/rand"
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
	"github.com/hallmark-pki/hallmark/record/sqlite/populate"
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
	serial := issued(p, store, "SN-1")
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
		serial := issued(p, store, fmt.Sprint("SN-", n))
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
	request := withNonce(b, p.request(issued(p, store, "SN-1"), crypto.SHA256), make([]byte, 32))
	digest := make([]byte, 32)
	for b.Loop() {
		p.service.answerOCSP(background, request)
	}
	ours := perCall(200, func() { p.service.answerOCSP(background, request) })
	bare := perCall(200, func() { p.ocspKey.Sign(rand.Reader, digest, crypto.SHA256) })
	b.ReportMetric(float64(ours)/float64(bare), "x-signature")
}

// million is a record of a million certificates, some of them revoked, with a service over
// it. HALLMARK_BENCH_MILLION names another number.
func million(b *testing.B, revoked func(total int) int) (p *pki, store *sqlite.Store, shards []record.Shard) {
	b.Helper()
	total := 1_000_000
	if text := os.Getenv("HALLMARK_BENCH_MILLION"); text != "" {
		fmt.Sscan(text, &total)
	}
	p, store = onSQLite(b)
	p.must(store.Close())
	file := filepath.Join(b.TempDir(), "hallmark.db")
	store, err := sqlite.Create(background, file, sqlite.Options{})
	p.must(err)
	p.must(store.Close())
	p.must(err2(populate.Fill(background, file, populate.Fleet{Devices: total, Every: total, Revoked: revoked(total), Now: time.Now()})))
	store, err = sqlite.Open(background, file, sqlite.Options{})
	p.must(err)
	b.Cleanup(func() { store.Close() })
	config := p.config()
	config.Store, config.Now = store, time.Now
	p.service, err = New(config)
	p.must(err)
	shards, err = store.Shards(background, "operational", time.Now())
	p.must(err)
	return p, store, shards
}

// BenchmarkMillion: a million certificates on record. One in a hundred is revoked: what one
// change costs, and the lists. All are revoked: all shards, read, signed, checked, stored and
// compressed, against encoding and signing the same lists with crypto/x509 in one go.
func BenchmarkMillion(b *testing.B) {
	timed := func(f func()) time.Duration { begin := time.Now(); f(); return time.Since(begin) }
	for range b.N {
		p, store, shards := million(b, func(total int) int { return total / 100 })
		all := func() { p.must(p.service.Publish(background, shards...)) }
		whole := func() { p.must(err2(p.service.wholeList(background, p.service.issuers["operational"], complete))) }
		b.ReportMetric(timed(all).Seconds()*1000, "ms/all-shards-at-1%")
		b.ReportMetric(timed(whole).Seconds()*1000, "ms/complete-list-at-1%")
		var changes []time.Duration
		for n := range 21 {
			found, err := store.DevicesNamed(background, "", fmt.Sprintf("SN-%07d", 10_000*len(shards)+n)) // a good one
			p.must(err)
			changes = append(changes, timed(func() {
				p.must(err2(p.service.Suspend(background, found[0].ID, record.Event{Time: time.Now(), Actor: "host", Verb: "x"})))
			}))
		}
		slices.Sort(changes)
		b.ReportMetric(changes[len(changes)/2].Seconds()*1000, "ms/change")
		store.Close()

		p, store, shards = million(b, func(total int) int { return total })
		ours := timed(all)
		b.ReportMetric(ours.Seconds(), "s/all-shards-at-100%")
		b.ReportMetric(ours.Seconds()/p.bareLists(shards).Seconds(), "x-crypto/x509")
		b.ReportMetric(timed(whole).Seconds(), "s/complete-list-at-100%")
		store.Close()
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
