package denylist

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

var made = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// status is a root, an issuer and its OCSP responder.
type status struct {
	testing.TB
	Seal
	roots     *x509.CertPool
	issuerKey *ecdsa.PrivateKey
}

func newStatus(t testing.TB) *status {
	s := &status{TB: t, roots: x509.NewCertPool()}
	rootKey, key := newECDSA(t), newECDSA(t)
	s.issuerKey = newECDSA(t)
	root := s.certify("Root", true, nil, nil, rootKey, rootKey)
	s.Issuer = s.certify("Issuer", true, nil, root, s.issuerKey, rootKey)
	s.Responder = s.certify("OCSP", false, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, s.Issuer, key, s.issuerKey)
	s.Key = key
	s.roots.AddCert(root)
	return s
}

func newECDSA(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *status) certify(name string, ca bool, usage []x509.ExtKeyUsage, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	x := &x509.Certificate{Subject: pkix.Name{CommonName: name}, SerialNumber: big.NewInt(time.Now().UnixNano()), ExtKeyUsage: usage,
		NotBefore: made.Add(-time.Hour), NotAfter: made.AddDate(0, 1, 0), IsCA: ca, BasicConstraintsValid: true}
	if ca {
		x.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if parent == nil {
		parent = x
	}
	der, err := x509.CreateCertificate(rand.Reader, x, parent, key.Public(), by)
	if err != nil {
		s.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		s.Fatal(err)
	}
	return c
}

var document = Document{Number: 7, Issuer: "operational", Time: made, NextUpdate: made.Add(24 * time.Hour)}

func serials(n int) []Serial {
	all := make([]Serial, n)
	for i := range all {
		rand.Read(all[i][:])
	}
	slices.SortFunc(all, func(a, b Serial) int { return bytes.Compare(a[:], b[:]) })
	return all
}

func (s *status) denyList(denied []Serial) []byte {
	data, err := SealList(s.Seal, document, func(yield func(Denial) bool) {
		for i, n := range denied {
			if !yield(Denial{n, made.Add(-time.Duration(i) * time.Second), []int{0, 1, 6, 9}[i%4]}) {
				return
			}
		}
	})
	if err != nil {
		s.Fatal(err)
	}
	return data
}

func TestList(t *testing.T) {
	s := newStatus(t)
	denied, good := serials(1000), serials(1000)
	data := s.denyList(denied)
	if over := len(data) - 21*len(denied); over > 1500 {
		t.Errorf("%d bytes beside the entries", over)
	}
	l, err := OpenList(data, s.roots, made)
	if err != nil {
		t.Fatal(err)
	}
	if l.Document != document || l.Len() != len(denied) {
		t.Errorf("%+v with %d entries", l.Document, l.Len())
	}
	for i, n := range denied {
		if d, ok := l.Lookup(n); !ok || d.Reason != []int{0, 1, 6, 9}[i%4] || !d.Since.Equal(made.Add(-time.Duration(i)*time.Second)) {
			t.Fatalf("entry %d: %+v %v", i, d, ok)
		}
	}
	for _, n := range good {
		if _, ok := l.Lookup(n); ok {
			t.Error("a good certificate is denied")
		}
	}
	if n := testing.AllocsPerRun(100, func() { l.Lookup(good[0]); l.Lookup(denied[0]) }); n != 0 {
		t.Errorf("a lookup allocates %v times", n)
	}
	if got := slices.Collect(l.All()); len(got) != len(denied) || got[5].Serial != denied[5] {
		t.Error("All gives something else")
	}
	if empty, err := OpenList(s.denyList(nil), s.roots, made); err != nil || empty.Len() != 0 {
		t.Error("an empty list:", err)
	}
	slices.Reverse(denied)
	if _, err := SealList(s.Seal, document, func(yield func(Denial) bool) {
		_ = yield(Denial{Serial: denied[0]}) && yield(Denial{Serial: denied[1]})
	}); err == nil {
		t.Error("a list out of order was sealed")
	}
}

func TestDocumentsThatAreNotBelieved(t *testing.T) {
	s, other := newStatus(t), newStatus(t)
	data := s.denyList(serials(3))
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if _, err := OpenList(bad, s.roots, made); err == nil {
			t.Fatalf("a changed byte %d of %d was not seen", i, len(data))
		}
		if _, err := OpenList(data[:i], s.roots, made); err == nil {
			t.Fatalf("%d bytes passed for the whole", i)
		}
	}
	leaf := newECDSA(t)
	device := Seal{s.certify("device", false, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, s.Issuer, leaf, s.issuerKey), s.Issuer, leaf}
	for name, c := range map[string]struct {
		by    Seal
		roots *x509.CertPool
		d     Document
		want  string
	}{
		"another root":      {s.Seal, other.roots, document, "not trusted"},
		"a device's key":    {device, s.roots, document, "no OCSP responder"},
		"another's issuer":  {Seal{s.Responder, other.Issuer, s.Key}, other.roots, document, "not certified"},
		"another's key":     {Seal{s.Responder, s.Issuer, leaf}, s.roots, document, "signature"},
		"made in tomorrow":  {s.Seal, s.roots, Document{7, "operational", made.Add(time.Hour), made.Add(2 * time.Hour)}, "clock"},
		"before its signer": {s.Seal, s.roots, Document{7, "operational", made.AddDate(0, -1, 0), made}, "not trusted"},
	} {
		data, err := SealList(c.by, c.d, slices.Values([]Denial(nil)))
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := OpenList(data, c.roots, made); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, d := range map[string]Document{
		"outlives its signer": {7, "operational", made, made.AddDate(1, 0, 0)},
		"ends before it is":   {7, "operational", made, made.Add(-time.Hour)},
		"no issuer":           {7, "", made, made},
		"a path for a name":   {7, "../x", made, made},
	} {
		if _, err := SealList(s.Seal, d, slices.Values([]Denial(nil))); err == nil {
			t.Error("sealed:", name)
		}
	}
	if _, err := OpenFilter(data, s.roots, made); err == nil {
		t.Error("a deny-list passed for a filter")
	}
	// What was kept can be read when its signer's certificate has run out.
	if _, err := OpenList(data, s.roots, made.AddDate(0, 2, 0)); err != nil {
		t.Error(err)
	}
}

func TestFilterIsRightAboutEveryCertificate(t *testing.T) {
	s := newStatus(t)
	for _, n := range []struct{ denied, good int }{{0, 0}, {0, 1000}, {1, 0}, {1000, 0}, {1, 100_000}, {1000, 99_000}, {50_000, 50_000}, {30_000, 10}} {
		denied, good := serials(n.denied), serials(n.good)
		data, err := SealFilter(s.Seal, document, made, denied, good)
		if err != nil {
			t.Fatal(err)
		}
		f, err := OpenFilter(data, s.roots, made)
		if err != nil {
			t.Fatal(err)
		}
		if f.Document != document || !f.Until.Equal(made) || int(f.Denied) != n.denied || int(f.Issued) != n.denied+n.good {
			t.Errorf("%+v", f)
		}
		for verdict, all := range map[Verdict][]Serial{Denied: denied, Good: good} {
			for _, serial := range all {
				if got := f.Lookup(serial, made); got != verdict {
					t.Fatalf("%+v: %v, want %v", n, got, verdict)
				}
			}
		}
		if f.Lookup(Serial{}, made.Add(time.Second)) != NotCovered {
			t.Error("a later certificate is covered")
		}
		if n := testing.AllocsPerRun(100, func() { f.Lookup(Serial{1}, made) }); n != 0 {
			t.Errorf("a lookup allocates %v times", n)
		}
	}
	same := serials(10)
	if _, err := SealFilter(s.Seal, document, made, same, same); err == nil {
		t.Error("certificates that are good and denied made a filter")
	}
}

// FuzzOpenDocument: whatever is in a file, nothing panics, and what opens is what was sealed.
func FuzzOpenDocument(f *testing.F) {
	s := newStatus(f)
	list := s.denyList(serials(2))
	filter, err := SealFilter(s.Seal, document, made, serials(2), serials(2))
	if err != nil {
		f.Fatal(err)
	}
	for _, d := range [][]byte{list, filter, list[:100], nil} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, err := OpenList(data, s.roots, made); err == nil && !bytes.Equal(data, list) {
			t.Errorf("opened %+v", l)
		}
		if x, err := OpenFilter(data, s.roots, made); err == nil && !bytes.Equal(data, filter) {
			t.Errorf("opened %+v", x)
		}
	})
}

// FuzzReadFilter: a body as if it had been signed.
func FuzzReadFilter(f *testing.F) {
	s := newStatus(f)
	data, err := SealFilter(s.Seal, document, made, serials(20), serials(20))
	if err != nil {
		f.Fatal(err)
	}
	_, _, body, err := open(filterContext, data, s.roots, made)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		var x Filter
		if x.read(body) == nil {
			x.Lookup(Serial{1}, made)
		}
		checkEntries(body)
	})
}
