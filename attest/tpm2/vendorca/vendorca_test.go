package vendorca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// maker is a CA in which every part of a certificate can be odd.
type maker struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newCA makes a CA certificate, by parent or by itself.
func newCA(t testing.TB, name string, parent *maker, alter func(*x509.Certificate)) *maker {
	t.Helper()
	m := &maker{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if alter != nil {
		alter(template)
	}
	signer, issuer := m.key, template
	if parent != nil {
		signer, issuer = parent.key, parent.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &m.key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if m.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return m
}

// shape is what may be odd in a hand-made EK certificate.
type shape struct {
	serial  []byte // content of the INTEGER
	key     []byte // SubjectPublicKeyInfo
	names   []byte // value of the subject alternative name; none if nil
	unknown bool   // an unknown critical extension
}

func der(t testing.TB, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tagged(t testing.TB, class, tag int, compound bool, content []byte) []byte {
	return der(t, asn1.RawValue{Class: class, Tag: tag, IsCompound: compound, Bytes: content})
}

func seq(parts ...[]byte) []byte { return sequence(parts) }

// issue makes the certificate byte by byte, as crypto/x509 would not.
func (m *maker) issue(s shape) []byte {
	t := m.t
	algorithm := seq(der(t, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})) // ecdsa-with-SHA256
	extensions := [][]byte{seq(der(t, asn1.ObjectIdentifier{2, 5, 29, 37}), der(t, der(t, []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}})))}
	if s.names != nil {
		extensions = append(extensions, seq(der(t, oidSubjectAltName), der(t, true), der(t, s.names)))
	}
	if s.unknown {
		extensions = append(extensions, seq(der(t, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}), der(t, true), der(t, []byte{5, 0})))
	}
	tbs := seq(tagged(t, 2, 0, true, der(t, 2)), tagged(t, 0, asn1.TagInteger, false, s.serial), algorithm, m.cert.RawSubject,
		seq(der(t, now.AddDate(-1, 0, 0)), der(t, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC))), seq(), s.key,
		tagged(t, 2, 3, true, seq(extensions...)))
	digest := sha256.Sum256(tbs)
	signature, err := ecdsa.SignASN1(rand.Reader, m.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return seq(tbs, algorithm, der(t, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}))
}

func rsaInfo(t testing.TB, key *rsa.PublicKey, algorithm []byte) []byte {
	b := x509.MarshalPKCS1PublicKey(key)
	return seq(algorithm, der(t, asn1.BitString{Bytes: b, BitLength: 8 * len(b)}))
}

// directory makes a subject alternative name out of relative distinguished names.
func directory(t testing.TB, rdns ...[]pkix.AttributeTypeAndValue) []byte {
	var name pkix.RDNSequence
	for _, r := range rdns {
		name = append(name, r)
	}
	return seq(tagged(t, 2, 4, true, der(t, name)))
}

func attribute(n int, value any) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 23, 133, 2, n}, Value: value}
}

func stm(t testing.TB) []byte {
	return directory(t, []pkix.AttributeTypeAndValue{attribute(1, "id:53544D20")}, []pkix.AttributeTypeAndValue{attribute(2, "ST33HTPHAHD8")}, []pkix.AttributeTypeAndValue{attribute(3, "id:00010102")})
}

// Every oddity of real EK certificates is read, keeps the signature intact, and what
// was signed stays what is returned.
func TestQuirks(t *testing.T) {
	m := newCA(t, "maker", nil, nil)
	set, err := New([][]byte{m.cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	plain := rsaInfo(t, &key.PublicKey, seq(der(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}), asn1.NullBytes))
	oaep := rsaInfo(t, &key.PublicKey, seq(der(t, oidRSAESOAEP), seq()))
	tcpa := rsaInfo(t, &key.PublicKey, seq(der(t, oidRSAESOAEP), // Infineon: pSourceFunc pSpecified "TCPA"
		seq(tagged(t, 2, 2, true, seq(der(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 9}), der(t, []byte("TCPA")))))))
	header := func(inner ...byte) func([]byte) []byte {
		return func(b []byte) []byte {
			b = append(inner, b...)
			return append([]byte{0x10, 0x01, 0x00, byte(len(b) >> 8), byte(len(b))}, b...)
		}
	}
	pad := func(x byte) func([]byte) []byte {
		return func(b []byte) []byte { return append(bytes.Clone(b), bytes.Repeat([]byte{x}, 300)...) }
	}
	good := []byte{0x11, 0x22}
	for name, c := range map[string]struct {
		shape shape
		store func([]byte) []byte
	}{
		"plain":              {shape{serial: good, key: plain}, bytes.Clone},
		"critical names":     {shape{serial: good, key: plain, names: stm(t)}, bytes.Clone},
		"negative serial":    {shape{serial: []byte{0xB7, 1}, key: plain}, bytes.Clone},
		"padded serial":      {shape{serial: []byte{0, 0, 0x11}, key: plain}, bytes.Clone},
		"padded negative":    {shape{serial: []byte{0xFF, 0xFF, 0x11}, key: plain}, bytes.Clone},
		"serial 0":           {shape{serial: []byte{0}, key: plain}, bytes.Clone},
		"long serial":        {shape{serial: bytes.Repeat([]byte{0x11}, 24), key: plain}, bytes.Clone},
		"OAEP":               {shape{serial: good, key: oaep}, bytes.Clone},
		"OAEP with TCPA":     {shape{serial: good, key: tcpa, names: stm(t)}, bytes.Clone},
		"zeros behind":       {shape{serial: good, key: plain}, pad(0)},
		"FF behind":          {shape{serial: good, key: plain}, pad(0xFF)},
		"TCG header":         {shape{serial: good, key: plain}, header()},
		"TCG headers":        {shape{serial: good, key: plain}, header(0x10, 0x02)},
		"everything at once": {shape{serial: []byte{0xB7, 1}, key: tcpa, names: stm(t)}, func(b []byte) []byte { return pad(0)(header()(b)) }},
	} {
		t.Run(name, func(t *testing.T) {
			signed := m.issue(c.shape)
			ek, err := ParseEK(c.store(signed))
			if err != nil {
				t.Fatal(err)
			}
			if !key.PublicKey.Equal(ek.Certificate.PublicKey) {
				t.Error("another key was read")
			}
			if !bytes.Equal(ek.Certificate.Raw, signed) {
				t.Error("Raw is not what was signed")
			}
			if len(ek.Certificate.UnhandledCriticalExtensions) > 0 {
				t.Error("the TCG names are called unhandled")
			}
			if err := set.Verify(ek, nil, now); err != nil {
				t.Error(err)
			}
			signed[len(signed)-1] ^= 1
			if ek, err := ParseEK(c.store(signed)); err == nil && set.Verify(ek, nil, now) == nil {
				t.Error("a changed signature was believed")
			}
		})
	}
}

// The serial number of a repaired certificate is still covered by the signature.
func TestRepairKeepsTheSignatureStrict(t *testing.T) {
	m := newCA(t, "maker", nil, nil)
	set, err := New([][]byte{m.cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	info, err := x509.MarshalPKIXPublicKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	signed := m.issue(shape{serial: []byte{0xB7, 0x01, 0x02}, key: info})
	i := bytes.Index(signed, []byte{0xB7, 0x01, 0x02})
	signed[i+2] ^= 0xFF
	ek, err := ParseEK(signed)
	if err != nil {
		t.Fatal(err)
	}
	if set.Verify(ek, nil, now) == nil {
		t.Error("a changed serial number was believed")
	}
}

func TestUnknownCriticalExtensionStays(t *testing.T) {
	m := newCA(t, "maker", nil, nil)
	info, err := x509.MarshalPKIXPublicKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := ParseEK(m.issue(shape{serial: []byte{1}, key: info, names: stm(t), unknown: true}))
	if err != nil {
		t.Fatal(err)
	}
	if len(ek.Certificate.UnhandledCriticalExtensions) != 1 {
		t.Errorf("unhandled: %v", ek.Certificate.UnhandledCriticalExtensions)
	}
	set, err := New([][]byte{m.cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	if set.Verify(ek, nil, now) == nil {
		t.Error("the certificate was believed")
	}
}

func TestParseEKRefuses(t *testing.T) {
	m := newCA(t, "maker", nil, nil)
	good := m.cert.Raw
	info, err := x509.MarshalPKIXPublicKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	named := func(b []byte) []byte { return m.issue(shape{serial: []byte{1}, key: info, names: b}) }
	maker := []pkix.AttributeTypeAndValue{attribute(1, "id:53544D20")}
	for name, nv := range map[string][]byte{
		"nothing":                 nil,
		"zeros":                   make([]byte, 100),
		"text":                    []byte("-----BEGIN CERTIFICATE-----"),
		"no sequence":             {0x04, 0x01, 0x00},
		"truncated":               good[:len(good)-1],
		"something behind":        append(bytes.Clone(good), 0, 1),
		"mixed padding":           append(bytes.Clone(good), 0, 0xFF),
		"two certificates":        slices.Concat(good, good),
		"too large":               append(bytes.Clone(good), make([]byte, 17<<10)...),
		"header alone":            {0x10, 0x01, 0x00, 0x00},
		"header too long":         append([]byte{0x10, 0x01, 0x00, 0xFF, 0xFF}, good...),
		"header, noise":           {0x10, 0x01, 0x00, 0x00, 0x02, 0x01, 0x02},
		"header, then more":       append(append([]byte{0x10, 0x01, 0x00, byte(len(good) >> 8), byte(len(good))}, good...), 1),
		"header, junk in it":      append(append([]byte{0x10, 0x01, 0x00, byte((len(good) + 1) >> 8), byte(len(good) + 1)}, good...), 1),
		"serial not integer":      bytes.Replace(good, []byte{0x02, 0x01, 0x07}, []byte{0x04, 0x01, 0x07}, 1),
		"key of other type":       m.issue(shape{serial: []byte{1}, key: rsaInfo(t, &key.PublicKey, seq(der(t, asn1.ObjectIdentifier{1, 2, 3, 4})))}),
		"maker twice":             named(directory(t, maker, maker)),
		"maker odd, then another": named(directory(t, []pkix.AttributeTypeAndValue{attribute(1, "Acme"), attribute(1, "id:53544D20")})),
		"maker a number":          named(directory(t, []pkix.AttributeTypeAndValue{attribute(1, 7)})),
		"model too long":          named(directory(t, []pkix.AttributeTypeAndValue{attribute(2, strings.Repeat("x", 65))})),
		"model with NUL":          named(directory(t, []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("a\x00b")}}})),
		"model empty":             named(directory(t, []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: asn1.RawValue{Tag: asn1.TagUTF8String}}})),
		"names no sequence":       named([]byte{0x04, 0x00}),
		"issuer too long":         newCA(t, strings.Repeat("x", 600), nil, nil).cert.Raw,
		"issuer steers terminals": newCA(t, "\u009b2J\u202e", nil, nil).cert.Raw,
		"directory broken":        named(seq(tagged(t, 2, 4, true, []byte{0x30, 0x05}))),
		"directory and more":      named(seq(tagged(t, 2, 4, true, append(der(t, pkix.RDNSequence{}), 5, 0)))),
	} {
		if ek, err := ParseEK(nv); err == nil {
			t.Errorf("%s: accepted: %+v", name, ek)
		}
	}
}

func TestNames(t *testing.T) {
	m := newCA(t, "maker", nil, nil)
	info, err := x509.MarshalPKIXPublicKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		names []byte
		want  EK
	}{
		"three names (ST)": {stm(t), EK{Maker: "STM", Model: "ST33HTPHAHD8"}},
		"one name of three values": {directory(t, []pkix.AttributeTypeAndValue{attribute(1, "id:49465800"), attribute(2, "SLB9670"), attribute(3, "id:0755")}),
			EK{Maker: "IFX", Model: "SLB9670"}},
		"among others": {seq(tagged(t, 2, 2, false, []byte("tpm.example")), tagged(t, 2, 4, true, der(t, pkix.RDNSequence{{attribute(1, "id:414D4400")}, {{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "x"}}}))),
			EK{Maker: "AMD"}},
		"lower-case hex":    {directory(t, []pkix.AttributeTypeAndValue{attribute(1, "id:494e5443")}), EK{Maker: "INTC"}},
		"swtpm":             {directory(t, []pkix.AttributeTypeAndValue{attribute(1, "id:00001014")}), EK{Maker: makerSwtpm}},
		"test":              {directory(t, []pkix.AttributeTypeAndValue{attribute(1, "id:fffff1d0")}), EK{Maker: MakerTest}},
		"blank ID":          {directory(t, []pkix.AttributeTypeAndValue{attribute(1, "id:20202020")}), EK{Maker: "20202020"}},
		"not an ID":         {directory(t, []pkix.AttributeTypeAndValue{attribute(1, "Acme")}), EK{}},
		"hex without id":    {directory(t, []pkix.AttributeTypeAndValue{attribute(1, "53544D20")}), EK{}},
		"ID with a colon":   {directory(t, []pkix.AttributeTypeAndValue{attribute(1, "id:413A4200")}), EK{Maker: "413A4200"}},
		"ID too long":       {directory(t, []pkix.AttributeTypeAndValue{attribute(1, "id:53544D2020")}), EK{}},
		"no directory name": {seq(tagged(t, 2, 2, false, []byte("tpm.example"))), EK{}},
	} {
		ek, err := ParseEK(m.issue(shape{serial: []byte{1}, key: info, names: c.names}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if ek.Maker != c.want.Maker || ek.Model != c.want.Model {
			t.Errorf("%s: %q %q", name, ek.Maker, ek.Model)
		}
		if want := name == "swtpm" || name == "test"; ek.Simulated() != want {
			t.Errorf("%s: Simulated() = %v", name, ek.Simulated())
		}
	}
}

// What is missing is named, with what to do about it.
func TestVerifyExplains(t *testing.T) {
	root := newCA(t, "root", nil, nil)
	middle := newCA(t, "middle", root, nil)
	old := newCA(t, "old", root, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })
	expired := newCA(t, "expired", nil, func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) })
	dead := newCA(t, "dead end", root, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	below := newCA(t, "below", dead, nil)
	over := newCA(t, "over", root, func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) })
	under := newCA(t, "under", over, nil)
	namesake := newCA(t, "root", nil, nil)
	leaf := func(m *maker, algorithm x509.SignatureAlgorithm, names []byte) EK {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(9, 0, 0), SignatureAlgorithm: algorithm,
			ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: names}}}
		der, err := x509.CreateCertificate(rand.Reader, template, m.cert, &newKey(t).PublicKey, m.key)
		if err != nil {
			t.Fatal(err)
		}
		ek, err := ParseEK(der)
		if err != nil {
			t.Fatal(err)
		}
		return ek
	}
	unknownMaker := directory(t, []pkix.AttributeTypeAndValue{attribute(1, "id:51515151")})
	for name, c := range map[string]struct {
		anchors, helpers []*maker
		ek               EK
		want             []string // empty: verified
	}{
		"root and helper":     {[]*maker{root}, []*maker{middle}, leaf(middle, 0, stm(t)), nil},
		"pinned intermediate": {[]*maker{middle}, nil, leaf(middle, 0, stm(t)), nil},
		"both, helper sent":   {[]*maker{root, middle}, []*maker{middle, root}, leaf(middle, 0, stm(t)), nil},
		"no anchor":           {nil, nil, leaf(middle, 0, stm(t)), []string{`"CN=middle"`, "STMicroelectronics", "https://", "hallmark vendorca import"}},
		"no anchor, helper":   {nil, []*maker{middle}, leaf(middle, 0, unknownMaker), []string{`"CN=root"`, "docs/tpm-makers.md", "hallmark vendorca import"}},
		"helpers to a root":   {nil, []*maker{middle, root}, leaf(middle, 0, stm(t)), []string{`"CN=root"`, "hallmark vendorca import"}},
		"helper missing":      {[]*maker{root}, nil, leaf(middle, 0, stm(t)), []string{`"CN=middle"`, "hallmark vendorca import"}},
		"namesake":            {[]*maker{namesake}, []*maker{middle}, leaf(middle, 0, stm(t)), []string{`"CN=root"`, "did not sign", "hallmark vendorca import"}},
		"SHA-1 intermediate":  {[]*maker{root}, []*maker{old}, leaf(old, 0, stm(t)), []string{`"CN=old"`, "ECDSA-SHA1", "hallmark vendorca import"}},
		"SHA-1 pinned":        {[]*maker{old}, nil, leaf(old, 0, stm(t)), nil},
		"SHA-1 leaf":          {[]*maker{root}, nil, leaf(root, x509.ECDSAWithSHA1, stm(t)), []string{"ECDSA-SHA1", "list"}},
		"anchor expired":      {[]*maker{expired}, nil, leaf(expired, 0, stm(t)), []string{`"CN=expired"`, "2026-11-21", "hallmark vendorca import"}},
		"helper expired":      {[]*maker{root}, []*maker{over}, leaf(over, 0, stm(t)), []string{`"CN=over"`, "2026-11-21", "clock"}},
		"one above expired":   {[]*maker{root}, []*maker{under, over}, leaf(under, 0, stm(t)), []string{`"CN=over"`, "2026-11-21", "clock"}},
		"path too long":       {[]*maker{root}, []*maker{dead, below}, leaf(below, 0, stm(t)), []string{`"CN=root"`, "rules"}},
	} {
		t.Run(name, func(t *testing.T) {
			var ders [][]byte
			for _, a := range c.anchors {
				ders = append(ders, a.cert.Raw)
			}
			set, err := New(ders)
			if err != nil || set.Len() != len(c.anchors) {
				t.Fatal(set.Len(), err)
			}
			if len(ders) == 0 {
				set = nil // trusts nobody, as an empty one does
			}
			var sent [][]byte
			for _, h := range c.helpers {
				sent = append(sent, h.cert.Raw)
			}
			err = set.Verify(c.ek, sent, now)
			if (err == nil) != (len(c.want) == 0) {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

// A device cannot make the server work: it may send few CA certificates, of keys
// that are neither too weak nor too large.
func TestHelpersAreBounded(t *testing.T) {
	root := newCA(t, "root", nil, nil)
	set, err := New([][]byte{root.cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	middle := newCA(t, "middle", root, nil)
	info, err := x509.MarshalPKIXPublicKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := ParseEK(middle.issue(shape{serial: []byte{1}, key: info}))
	if err != nil {
		t.Fatal(err)
	}
	noise := slices.Repeat([][]byte{newCA(t, "noise", nil, nil).cert.Raw}, maxHelpers)
	if set.Verify(ek, append(noise, middle.cert.Raw), now) == nil {
		t.Error("a ninth helper was looked at")
	}
	if err := set.Verify(ek, append(noise[:maxHelpers-1:maxHelpers-1], middle.cert.Raw), now); err != nil {
		t.Error(err)
	}
	if set.Verify(ek, append(noise, middle.cert.Raw), now) == nil {
		t.Error("a ninth helper was looked at, because it is known")
	}
	for bits, want := range map[int]bool{1024: true, 2048: false, 4096: false, 8192: true} {
		key := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), uint(bits-1)), E: 65537}
		if got := unreasonable(&x509.Certificate{PublicKey: key}); got != want {
			t.Errorf("RSA-%d: unreasonable = %v", bits, got)
		}
		der, err := x509.CreateCertificate(rand.Reader, middle.cert, root.cert, key, root.key)
		if err != nil {
			t.Fatal(err)
		}
		if helpers := parseHelpers([][]byte{der}); (len(helpers) == 0) != want {
			t.Errorf("RSA-%d: %d helpers", bits, len(helpers))
		}
	}
	for curve, want := range map[elliptic.Curve]bool{elliptic.P384(): false, elliptic.P521(): true} {
		if got := unreasonable(&x509.Certificate{PublicKey: &ecdsa.PublicKey{Curve: curve}}); got != want {
			t.Errorf("%s: unreasonable = %v", curve.Params().Name, got)
		}
	}
	if unreasonable(middle.cert) || !unreasonable(&x509.Certificate{}) {
		t.Error("P-256 is reasonable, no key is not")
	}
}

// What cannot issue certificates is not an anchor, and does not keep the others out.
func TestNewLeavesOut(t *testing.T) {
	root := newCA(t, "root", nil, nil)
	info, err := x509.MarshalPKIXPublicKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	noSign := newCA(t, "no certificates", nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	set, err := New([][]byte{[]byte("noise"), root.issue(shape{serial: []byte{1}, key: info}), noSign.cert.Raw, root.cert.Raw})
	if set.Len() != 1 {
		t.Errorf("%d anchors", set.Len())
	}
	if err == nil || !strings.Contains(err.Error(), "certificate 1") || !strings.Contains(err.Error(), "certificate 2") || !strings.Contains(err.Error(), "no certificates") {
		t.Errorf("the error does not list what was left out: %v", err)
	}
	if (*Set)(nil).Len() != 0 {
		t.Error("a nil Set has anchors")
	}
}

// What is no certificate ends a chain, or is left out of it.
func TestParseHelpers(t *testing.T) {
	a, b := newCA(t, "a", nil, nil), newCA(t, "b", nil, nil)
	for name, c := range map[string]struct {
		nv   []byte
		want int
	}{
		"two":            {slices.Concat(a.cert.Raw, b.cert.Raw), 2},
		"padded":         {slices.Concat(a.cert.Raw, b.cert.Raw, make([]byte, 9)), 2},
		"sequence first": {slices.Concat([]byte{0x30, 0x03, 0x02, 0x01, 0x00}, b.cert.Raw), 1},
		"noise first":    {slices.Concat([]byte("noise"), b.cert.Raw), 0},
		"nothing":        {nil, 0},
	} {
		if got := parseHelpers([][]byte{c.nv}); len(got) != c.want {
			t.Errorf("%s: %d certificates", name, len(got))
		}
	}
}

func TestReadCertificates(t *testing.T) {
	a, b := newCA(t, "a", nil, nil), newCA(t, "b", nil, nil)
	info, err := x509.MarshalPKIXPublicKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ek := a.issue(shape{serial: []byte{1}, key: info})
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	for name, c := range map[string]struct {
		file    []byte
		want    []string
		skipped int
	}{
		"DER":           {a.cert.Raw, []string{"a"}, 0},
		"DER, two":      {slices.Concat(a.cert.Raw, b.cert.Raw), []string{"a", "b"}, 0},
		"DER, then not": {slices.Concat(a.cert.Raw, []byte("tail")), []string{"a"}, 0},
		"PEM": {slices.Concat([]byte("subject: a\n"), block("CERTIFICATE", a.cert.Raw), []byte("\n# b\n"), block("CERTIFICATE", b.cert.Raw)),
			[]string{"a", "b"}, 0},
		"PEM among others":  {slices.Concat(block("PRIVATE KEY", []byte{1}), block("CERTIFICATE", a.cert.Raw), block("X509 CRL", []byte{2})), []string{"a"}, 2},
		"an EK certificate": {ek, nil, 1},
		"text":              {[]byte("readme"), nil, 1},
		"empty":             {nil, nil, 1},
	} {
		got, skipped := ReadCertificates(c.file)
		var names []string
		for _, g := range got {
			names = append(names, g.Subject.CommonName)
		}
		if !slices.Equal(names, c.want) || skipped != c.skipped {
			t.Errorf("%s: %v, %d skipped", name, names, skipped)
		}
	}
}

// rocaPrime makes a prime as Infineon's library did: k·M + (65537^a mod M).
func rocaPrime(t *testing.T, bits int) *big.Int {
	t.Helper()
	m := big.NewInt(1) // the product of all primes up to 167, which contain the fingerprint's
	for p := int64(2); p <= 167; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
		}
	}
	k, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-m.BitLen())))
	if err != nil {
		t.Fatal(err)
	}
	for a := int64(1); ; a++ {
		p := new(big.Int).Exp(big.NewInt(65537), big.NewInt(a), m)
		p.Add(p, new(big.Int).Mul(k, m))
		if p.ProbablyPrime(20) {
			return p
		}
	}
}

func TestROCA(t *testing.T) {
	p, q := rocaPrime(t, 512), rocaPrime(t, 512)
	if n := new(big.Int).Mul(p, q); !ROCA(n) {
		t.Errorf("not recognised: %x", n)
	}
	for range 50 {
		n, err := rand.Prime(rand.Reader, 512)
		if err != nil {
			t.Fatal(err)
		}
		if n.Mul(n, p); ROCA(n) {
			t.Errorf("one sound prime, called weak: %x", n)
		}
	}
}

// The table's claims about itself.
func TestMakers(t *testing.T) {
	for id, m := range makers {
		if len(id) > 4 || id != strings.ToUpper(id) || m.name == "" {
			t.Errorf("%q: %+v", id, m)
		}
	}
}

func FuzzParseEK(f *testing.F) {
	m := newCA(f, "maker", nil, nil)
	info, err := x509.MarshalPKIXPublicKey(&newKey(f).PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	odd := m.issue(shape{serial: []byte{0xB7, 1}, key: info, names: stm(f), unknown: true})
	f.Add(m.cert.Raw)
	f.Add(odd)
	f.Add(append([]byte{0x10, 0x01, 0x00, byte(len(odd) >> 8), byte(len(odd))}, odd...))
	f.Add(slices.Concat(m.cert.Raw, odd, make([]byte, 20)))
	set, err := New([][]byte{newCA(f, "maker", nil, nil).cert.Raw})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, nv []byte) {
		ReadCertificates(nv)
		parseHelpers([][]byte{nv})
		ek, err := ParseEK(nv)
		if err != nil {
			return
		}
		if ek.Certificate.PublicKey == nil || !bytes.Contains(nv, ek.Certificate.Raw) || !bytes.Contains(ek.Certificate.Raw, ek.Certificate.RawTBSCertificate) {
			t.Error("what was read is not what was there")
		}
		if err := set.Verify(ek, [][]byte{nv}, now); err == nil {
			t.Error("believed a certificate that no anchor issued")
		}
	})
}

// A set has the name of its anchors, in whatever order they come.
func TestSetName(t *testing.T) {
	one, two := newCA(t, "One", nil, nil).cert.Raw, newCA(t, "Two", nil, nil).cert.Raw
	name := func(ders ...[]byte) string {
		s, err := New(ders)
		if err != nil {
			t.Fatal(err)
		}
		return s.Name()
	}
	if name(one, two) != name(two, one) {
		t.Error("the order makes another name")
	}
	names := map[string]bool{(*Set)(nil).Name(): true, name(): true, name(one): true, name(two): true, name(one, two): true}
	if len(names) != 5 {
		t.Errorf("different sets have one name: %v", names)
	}
}
