package page

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
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
		"another CA's":  {other.list(url, 1, nil), false, "another issuer"},
		"forged":        {impostor.list(url, 1, nil), false, "verification"},
		"ended": {a.list(url, 1, func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), false, "ended"},
		"of the future": {a.list(url, 1, func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(30 * time.Minute) }), false, "future"},
		"a delta": {a.list(url, 1, func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}})
		}), false, "not understood"},
		"garbage":  {[]byte("<html>"), false, "x509"},
		"too much": {make([]byte, maxList+1), false, "more than"},
	} {
		answer = c.list
		revoked, err := new(Lists).revoked(who, a.certificate, time.Now())
		if revoked != c.revoked || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v", name, revoked, err)
		}
	}
	answer = a.list(server.URL+"/elsewhere", 1, nil)
	for path, says := range map[string]string{"/elsewhere": "302", "/none": "404"} {
		if _, err := new(Lists).revoked(a.visitor(server.URL+path), a.certificate, time.Now()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := new(Lists).revoked(a.certificate, a.certificate, time.Now()); !errors.Is(err, errNoList) {
		t.Errorf("no list: %v", err)
	}
}

// A list is asked for now and then, counts until it ends, and is not followed back.
func TestListsAreKept(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "ours")
	var answer []byte
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Write(answer)
	}))
	defer server.Close()
	who, now := a.visitor(server.URL), time.Now()
	l := new(Lists)
	// Nobody waits long for a server that has failed before, so what it says may come later.
	look := func(want bool, known bool, requests int64) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			revoked, err := l.revoked(who, a.certificate, now)
			if revoked == want && (err == nil) == known && asked.Load() == requests {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("revoked %v, %v after %d requests", revoked, err, asked.Load())
			}
		}
	}
	answer = a.list(server.URL, 5, nil)
	look(false, true, 1)
	look(false, true, 1)
	older := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, k := range l.known {
			k.asked = k.asked.Add(-listAge)
		}
	}
	answer = []byte("nonsense") // what was known stays
	older()
	look(false, true, 2)
	look(false, true, 2)
	now = now.Add(2 * time.Hour) // until it ends
	look(false, false, 2)
	now = time.Now()
	answer = a.list(server.URL, 6, nil, 7)
	older()
	look(true, true, 3)
	answer = a.list(server.URL, 5, nil)
	older()
	look(true, true, 4)
	// What another CA's list says at the same place is not known from this one.
	other := newAuthority(t, "theirs")
	if revoked, err := l.revoked(other.visitor(server.URL), other.certificate, now); revoked || err == nil {
		t.Errorf("another CA's: %v, %v", revoked, err)
	}
	for i := 0; len(l.known) < maxLists; i++ {
		l.revoked(a.visitor(server.URL+"/full"+strings.Repeat("x", i)), a.certificate, now)
	}
	older()
	look(true, true, asked.Load()+1)
	if len(l.known) != maxLists {
		t.Errorf("to ask for one again the others were given up: %d are kept", len(l.known))
	}
	for i := range 2 * maxLists {
		l.revoked(a.visitor(server.URL+"/"+strings.Repeat("x", i)), a.certificate, now)
	}
	if len(l.known) > maxLists {
		t.Errorf("%d lists are kept", len(l.known))
	}
}

// A server that does not answer keeps nobody waiting who comes after it was found dead, and
// nobody whose list is elsewhere; and it is asked once for all.
func TestDeadServer(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "ours")
	ended, hang := make(chan struct{}), make(chan struct{})
	var asked atomic.Int64
	var url string
	dead := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/alive" {
			w.Write(a.list(url+"/alive", 1, nil, 7))
			return
		}
		defer close(ended)
		select {
		case <-r.Context().Done(): // the device has given up
		case <-hang:
		}
	}))
	url = dead.URL
	defer dead.Close()
	defer close(hang)
	const visitors = 20
	who, l := a.visitor(url), new(Lists)
	for _, kept := range []bool{false, true} {
		have := &list{asked: time.Now().Add(-2 * failureAge), err: errors.New("dead")}
		if kept {
			have.until, have.number, have.revoked = time.Now().Add(time.Hour), big.NewInt(1), map[string]bool{}
			have.fetching = l.known[url+"\n"+string(a.certificate.Raw)].fetching
		}
		l.known = map[string]*list{url + "\n" + string(a.certificate.Raw): have}
		for range visitors {
			if revoked, err := l.revoked(who, a.certificate, time.Now()); revoked || (err == nil) != kept {
				t.Errorf("revoked %v, %v", revoked, err)
			}
		}
	}
	if revoked, err := l.revoked(a.visitor(url+"/alive"), a.certificate, time.Now()); !revoked || err != nil {
		t.Errorf("a list elsewhere: revoked %v, %v", revoked, err)
	}
	select {
	case <-ended:
		t.Error("somebody has waited for the server until it was given up")
	default:
	}
	if n := asked.Load(); n > 2 {
		t.Errorf("asked %d times", n)
	}
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
