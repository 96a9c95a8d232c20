package page

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type authority struct {
	testing.TB
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	return authority{t, certify(t, template, template, key, key), key}
}

func certify(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// visitor is a certificate that names a list.
func (a authority) visitor(url string) *x509.Certificate {
	return certify(a, &x509.Certificate{SerialNumber: big.NewInt(7), CRLDistributionPoints: []string{"ldap://x", url}}, a.certificate, a.key, a.key)
}

// list is a CRL of one shard; change may spoil it.
func (a authority) list(url string, number int64, change func(*x509.RevocationList), serials ...int64) []byte {
	a.Helper()
	var p point
	p.Point.Full = []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(url)}}
	value, err := asn1.Marshal(p)
	if err != nil {
		a.Fatal(err)
	}
	template := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: value}}}
	for _, s := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: time.Now()})
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.certificate, a.key)
	if err != nil {
		a.Fatal(err)
	}
	return der
}

// What somebody in between made up is not parsed: 4 MiB of it would be 80.
func TestUnsignedListIsNotParsed(t *testing.T) {
	a := newAuthority(t, "ours")
	const url = "http://ca.example/list"
	serials := make([]int64, 10_000)
	for i := range serials {
		serials[i] = int64(i + 1)
	}
	der := a.list(url, 1, nil, serials...)
	der[len(der)-1] ^= 1
	if n := testing.AllocsPerRun(1, func() {
		if new(list).read(der, url, a.certificate, time.Now()) == nil {
			t.Error("believed")
		}
	}); n > float64(len(serials)) {
		t.Errorf("%v allocations", n)
	}
}

// Who is revoked is refused, and what is not the list that was asked for says nothing.
func TestLists(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t, "ours"), newAuthority(t, "theirs")
	impostor := newAuthority(t, "ours")
	var answer []byte
	var asked int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch r.URL.Path {
		case "/elsewhere":
			http.Redirect(w, r, "/list", http.StatusFound)
		case "/list":
			w.Write(answer)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	url := server.URL + "/list"
	who := a.visitor(url)
	for name, c := range map[string]struct {
		list    []byte
		revoked bool
		says    string // why it is not known
	}{
		"good":          {a.list(url, 1, nil, 6, 8), false, ""},
		"revoked":       {a.list(url, 1, nil, 6, 7), true, ""},
		"another shard": {a.list(url+"2", 1, nil), false, "another shard"},
		"another CA's":  {other.list(url, 1, nil), false, "not signed"},
		"forged":        {impostor.list(url, 1, nil), false, "not signed"},
		"ended": {a.list(url, 1, func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), false, "ended"},
		"of the future": {a.list(url, 1, func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(30 * time.Minute) }), false, "future"},
		"a delta": {a.list(url, 1, func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}})
		}), false, "not understood"},
		"garbage":  {[]byte("<html>"), false, "not signed"},
		"too much": {make([]byte, maxList+1), false, "more than"},
	} {
		answer = c.list
		revoked, err := new(Lists).revoked(who, a.certificate, time.Now())
		if revoked != c.revoked || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v", name, revoked, err)
		}
	}
	answer = a.list(server.URL+"/elsewhere", 1, nil)
	for path, says := range map[string]string{"/elsewhere": "answered 302", "/none": "answered 404"} {
		if _, err := new(Lists).revoked(a.visitor(server.URL+path), a.certificate, time.Now()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := new(Lists).revoked(a.certificate, a.certificate, time.Now()); !errors.Is(err, errNoList) {
		t.Errorf("no list: %v", err)
	}
}

// site answers for every server, in virtual time: with what says gives for a path, and to whoever
// asks for one of which it says nothing, not at all.
type site struct {
	says  map[string][]byte
	asked map[string]int
}

// dial serves one connection; what was asked is looked at after synctest.Wait.
func (s *site) dial(string, string, time.Duration) (net.Conn, error) {
	device, server := net.Pipe()
	go func() {
		defer server.Close()
		r, err := http.ReadRequest(bufio.NewReader(server))
		if err != nil {
			return
		}
		s.asked[r.URL.Path]++
		if s.says[r.URL.Path] == nil {
			io.Copy(io.Discard, server) // until the device gives up
			return
		}
		fmt.Fprintf(server, "HTTP/1.1 200 OK\r\n\r\n%s", s.says[r.URL.Path])
	}()
	return device, nil
}

// A list is asked for now and then, counts until it ends, and is not followed back.
func TestListsAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const url = "http://ca.example/list"
		a := newAuthority(t, "ours")
		s := &site{says: map[string][]byte{}, asked: map[string]int{}}
		who, l := a.visitor(url), &Lists{dial: s.dial}
		look := func(after time.Duration, want, known bool, requests int) {
			t.Helper()
			revoked, err := l.revoked(who, a.certificate, time.Now().Add(after))
			synctest.Wait()
			if revoked != want || (err == nil) != known || s.asked["/list"] != requests {
				t.Errorf("revoked %v, %v after %d requests", revoked, err, s.asked["/list"])
			}
		}
		say := func(list []byte) {
			s.says["/list"] = list
			time.Sleep(listAge + time.Second)
		}
		s.says["/list"] = a.list(url, 5, nil)
		look(0, false, true, 1)
		look(0, false, true, 1)
		say([]byte("nonsense")) // what was known stays
		look(0, false, true, 2)
		look(0, false, true, 2)
		look(2*time.Hour, false, false, 2) // until it ends
		say(a.list(url, 6, nil, 7))
		look(0, true, true, 3)
		say(a.list(url, 5, nil))
		look(0, true, true, 4)
		// What another CA's list says at the same place is not known from this one.
		other := newAuthority(t, "theirs")
		if revoked, err := l.revoked(other.visitor(url), other.certificate, time.Now()); revoked || err == nil {
			t.Errorf("another CA's: %v, %v", revoked, err)
		}
		kept := func() int {
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.known)
		}
		for i := 0; kept() < maxLists; i++ {
			path := "/full" + strings.Repeat("x", i)
			s.says[path] = []byte("nonsense")
			l.revoked(a.visitor("http://ca.example"+path), a.certificate, time.Now())
		}
		say(a.list(url, 7, nil, 7))
		look(0, true, true, 6)
		if n := kept(); n != maxLists {
			t.Errorf("to ask for one again the others were given up: %d are kept", n)
		}
		for i := range 2 * maxLists {
			path := "/more" + strings.Repeat("x", i)
			s.says[path] = []byte("nonsense")
			l.revoked(a.visitor("http://ca.example"+path), a.certificate, time.Now())
		}
		if n := kept(); n > maxLists {
			t.Errorf("%d lists are kept", n)
		}
	})
}

// A server that does not answer keeps nobody waiting who comes after it was found dead, and
// nobody whose list is elsewhere; and it is asked once for all.
func TestDeadServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const base = "http://ca.example"
		a := newAuthority(t, "ours")
		s := &site{says: map[string][]byte{"/known": a.list(base+"/known", 1, nil), "/alive": a.list(base+"/alive", 1, nil, 7)}, asked: map[string]int{}}
		l := &Lists{dial: s.dial}
		visit := func(path string, revoked, known bool, wait time.Duration) {
			t.Helper()
			began := time.Now()
			got, err := l.revoked(a.visitor(base+path), a.certificate, time.Now())
			synctest.Wait()
			if got != revoked || (err == nil) != known || time.Since(began) != wait {
				t.Errorf("%s: revoked %v, %v after %v", path, got, err, time.Since(began))
			}
		}
		visit("/known", false, true, 0)
		delete(s.says, "/known")
		time.Sleep(listAge + time.Second)
		for path, known := range map[string]bool{"/known": true, "/never": false} {
			visit(path, false, known, listTimeout)
			time.Sleep(failureAge + time.Second)
			before := s.asked[path]
			for range 20 {
				visit(path, false, known, 0)
			}
			visit("/alive", true, true, 0)
			if n := s.asked[path] - before; n != 1 {
				t.Errorf("%s: asked %d times", path, n)
			}
			time.Sleep(listAge + listTimeout + time.Second)
			visit(path, false, known, failedTimeout)
			time.Sleep(listTimeout)
		}
	})
}

// While as many lists are fetched as may be, who needs another waits for a place.
func TestListsWaitForAPlace(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "ours")
	var url string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(a.list(url, 1, nil, 7)) }))
	url = server.URL
	defer server.Close()
	who := a.visitor(url)
	type answer struct {
		revoked bool
		err     error
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		l, answers := &Lists{busy: maxLists}, make(chan answer, 1)
		go func() {
			revoked, err := l.revoked(who, a.certificate, time.Now())
			answers <- answer{revoked, err}
		}()
		waits := func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.freed != nil
		}
		for !waits() && len(answers) == 0 {
			time.Sleep(time.Millisecond)
		}
		if !waits() {
			t.Fatal("nobody waits")
		}
		l.mu.Lock()
		l.free()
		l.mu.Unlock()
		if got := <-answers; got.revoked && got.err == nil {
			return
		} else if time.Now().After(deadline) { // it may have waited for too long already
			t.Fatalf("revoked %v, %v", got.revoked, got.err)
		}
	}
}

// FuzzList: whatever comes over the network, nothing is a list that the issuer did not sign.
func FuzzList(f *testing.F) {
	a := newAuthority(f, "ours")
	const url = "http://ca.example/1.crl"
	f.Add(a.list(url, 1, nil, 7))
	f.Add(a.list(url, 1, nil))
	f.Fuzz(func(t *testing.T, der []byte) {
		var l list
		if err := l.read(der, url, a.certificate, time.Now()); err == nil && l.number.Int64() != 1 {
			t.Fatal("a list of somebody else's")
		}
	})
}
