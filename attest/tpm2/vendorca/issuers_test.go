package vendorca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"sync"
	"testing"
	"time"
)

// ek makes an EK certificate.
func (m *maker) ek() EK {
	m.t.Helper()
	info, err := x509.MarshalPKIXPublicKey(&newKey(m.t).PublicKey)
	if err != nil {
		m.t.Fatal(err)
	}
	e, err := ParseEK(m.issue(shape{serial: []byte{1}, key: info}))
	if err != nil {
		m.t.Fatal(err)
	}
	return e
}

func setOf(t testing.TB, anchors ...*maker) *Set {
	t.Helper()
	var ders [][]byte
	for _, a := range anchors {
		ders = append(ders, a.cert.Raw)
	}
	s, err := New(ders)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sent(makers ...*maker) (nv [][]byte) {
	for _, m := range makers {
		nv = append(nv, m.cert.Raw)
	}
	return nv
}

// A known issuer's own signature is not looked at again.
func TestIssuerIsRemembered(t *testing.T) {
	root := newCA(t, "root", nil, nil)
	middle := newCA(t, "middle", root, nil)
	set := setOf(t, root)
	first, second := middle.ek(), middle.ek()
	if set.issuers.issued(first.Certificate, sent(middle), now) {
		t.Error("known before it was verified")
	}
	if err := set.Verify(first, sent(root, middle), now); err != nil {
		t.Fatal(err)
	}
	if !set.issuers.issued(second.Certificate, sent(root, middle), now) {
		t.Error("not remembered")
	}
}

// To have seen an issuer changes no answer: each of these is refused although chips of
// that issuer were believed before.
func TestMemoryChangesNoAnswer(t *testing.T) {
	year := now.AddDate(1, 0, 0) // the end of the CAs that are made here
	root := newCA(t, "root", nil, nil)
	middle := newCA(t, "middle", root, nil)
	namesake := newCA(t, "middle", newCA(t, "root", nil, nil), nil)
	below := newCA(t, "below", middle, nil)
	long := newCA(t, "long", root, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.AddDate(-9, 0, 0), now.AddDate(9, 0, 0) })
	late := newCA(t, "late", root, func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, -1, 0) })
	lateRoot := newCA(t, "late root", nil, func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, -1, 0) })
	early := newCA(t, "early", lateRoot, nil)
	end := newCA(t, "end", root, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	for name, c := range map[string]struct {
		before *maker
		ek     EK
		sent   [][]byte
		now    time.Time
	}{
		"not sent":                  {middle, middle.ek(), nil, now},
		"another was sent":          {middle, middle.ek(), sent(long), now},
		"a namesake's":              {middle, namesake.ek(), sent(middle, namesake), now},
		"after the issuer's end":    {middle, middle.ek(), sent(middle), year.Add(time.Second)},
		"after the root's end":      {long, long.ek(), sent(long), year.Add(time.Second)},
		"before the root":           {early, early.ek(), sent(early), now.AddDate(0, -2, 0)},
		"before the issuer":         {late, late.ek(), sent(late), now.AddDate(0, -2, 0)},
		"below, too deep":           {end, newCA(t, "too deep", end, nil).ek(), sent(end), now},
		"below, not sent":           {middle, below.ek(), sent(middle), now},
		"below, sent but cut short": {middle, below.ek(), [][]byte{middle.cert.Raw, below.cert.Raw[:len(below.cert.Raw)-1]}, now},
	} {
		t.Run(name, func(t *testing.T) {
			set := setOf(t, root, lateRoot)
			if err := set.Verify(c.before.ek(), sent(c.before), now); err != nil {
				t.Fatal(err)
			}
			if len(set.issuers.known) != 1 {
				t.Fatal("not remembered")
			}
			if set.Verify(c.ek, c.sent, c.now) == nil {
				t.Error("believed")
			}
		})
	}
	set := setOf(t, root)
	for _, m := range []*maker{middle, below} {
		for range 2 {
			if err := set.Verify(m.ek(), sent(below, middle), now); err != nil {
				t.Error(err)
			}
		}
	}
	changed := middle.ek()
	changed.Certificate.Signature[len(changed.Certificate.Signature)-1] ^= 1
	if set.Verify(changed, sent(middle), now) == nil {
		t.Error("a changed signature was believed")
	}
}

// A CA that constrains what is below it must see each certificate.
func TestConstrainingIssuersAreNotRemembered(t *testing.T) {
	extension := func(number int, value ...byte) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, number}, Value: value}}
		}
	}
	policy := extension(36, 0x30, 3, 0x80, 1, 9) // requireExplicitPolicy after nine certificates more, RFC 5280 §4.2.1.11
	names := func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"tpm.example"} }
	plain := func(*x509.Certificate) {}
	for name, c := range map[string]struct {
		root, middle func(*x509.Certificate)
		want         int
	}{
		"nobody":                      {plain, plain, 1},
		"names, by the root":          {names, plain, 0},
		"names, by the issuer":        {plain, names, 0},
		"policies, by the root":       {policy, plain, 0},
		"policies, by the issuer":     {plain, policy, 0},
		"mappings, by the issuer":     {plain, extension(33, 0x30, 10, 0x30, 8, 6, 2, 0x2A, 3, 6, 2, 0x2A, 4), 0}, // 1.2.3 to 1.2.4
		"any policy, by the issuer":   {plain, extension(54, 2, 1, 9), 0},
		"something else, not refused": {plain, extension(99, 5, 0), 1},
	} {
		t.Run(name, func(t *testing.T) {
			root := newCA(t, "root", nil, c.root)
			middle := newCA(t, "middle", root, c.middle)
			set := setOf(t, root)
			if err := set.Verify(middle.ek(), sent(middle), now); err != nil {
				t.Fatal(err)
			}
			if len(set.issuers.known) != c.want {
				t.Errorf("%d remembered, not %d", len(set.issuers.known), c.want)
			}
		})
	}
	// What it is for: the first chip has no name, the second one that the root forbids.
	root := newCA(t, "root", nil, names)
	middle := newCA(t, "middle", root, nil)
	set := setOf(t, root)
	if err := set.Verify(middle.ek(), sent(middle), now); err != nil {
		t.Fatal(err)
	}
	info, err := x509.MarshalPKIXPublicKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	forbidden, err := ParseEK(middle.issue(shape{serial: []byte{1}, key: info, names: seq(tagged(t, 2, 2, false, []byte("other.example")))}))
	if err != nil {
		t.Fatal(err)
	}
	if set.Verify(forbidden, sent(middle), now) == nil {
		t.Error("a name that the root forbids was believed")
	}
}

// One Set serves every connection.
func TestVerifyInParallel(t *testing.T) {
	root := newCA(t, "root", nil, nil)
	set := setOf(t, root)
	var all sync.WaitGroup
	for range 4 {
		middle := newCA(t, "middle", root, nil)
		ek := middle.ek()
		all.Go(func() {
			for range 20 {
				if err := set.Verify(ek, sent(middle), now); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// Chips that bring an issuer of their own do not fill the memory.
func TestMemoryIsBounded(t *testing.T) {
	var s issuers
	for n := range uint32(3 * maxIssuers) {
		c := &x509.Certificate{Raw: binary.BigEndian.AppendUint32(nil, n)}
		s.remember([]*x509.Certificate{c, c, c})
		if len(s.known) == 0 || len(s.known) > maxIssuers {
			t.Fatalf("%d known after %d", len(s.known), n)
		}
	}
}

// A device cannot make a verification long: of each name one certificate is tried.
func TestOneHelperOfAName(t *testing.T) {
	root := newCA(t, "root", nil, nil)
	middle := newCA(t, "middle", root, nil)
	leaf := middle.ek()
	var same []*maker
	for range maxHelpers {
		same = append(same, newCA(t, "middle", nil, nil)) // issued by "middle", as it says
	}
	for _, helpers := range [][]*maker{same, append([]*maker{middle}, same...)} {
		var certs []*x509.Certificate
		for _, h := range helpers {
			certs = append(certs, h.cert)
		}
		up := path(leaf.Certificate, certs)
		for i, c := range up {
			for _, other := range up[:i] {
				if c.Subject.String() == other.Subject.String() {
					t.Errorf("%q is tried twice", c.Subject)
				}
			}
		}
	}
	if err := setOf(t, root).Verify(leaf, sent(middle, same[0]), now); err != nil {
		t.Errorf("the right one first: %v", err)
	}
	if err := setOf(t, root).Verify(leaf, sent(same[0], middle, root), now); err != nil {
		t.Errorf("the right one second: %v", err)
	}
}
