package guard_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/relay/guard"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

// maker is an operational root with its issuer, whose responder signs documents.
type maker struct {
	*testing.T
	roots     *x509.CertPool
	trusted   string // a file of them
	root      *x509.Certificate
	rootKey   *ecdsa.PrivateKey
	issuer    *x509.Certificate
	key       *ecdsa.PrivateKey
	seal      denylist.Seal
	last      int64
	responder *ecdsa.PrivateKey
}

func newMaker(t *testing.T) *maker {
	m := &maker{T: t, roots: x509.NewCertPool()}
	m.rootKey = m.newKey()
	m.root = m.certify("Root", true, nil, m.rootKey, m.rootKey)
	m.roots.AddCert(m.root)
	m.trusted = filepath.Join(t.TempDir(), "relying-parties.pem")
	m.trust(m)
	m.key, m.responder = m.newKey(), m.newKey()
	m.issuer = m.certify("Issuer", true, m.root, m.key, m.rootKey)
	m.seal = denylist.Seal{Responder: m.certify("OCSP", false, m.issuer, m.responder, m.key), Issuer: m.issuer, Key: m.responder}
	return m
}

func (m *maker) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *maker) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.must(err)
	return key
}

func (m *maker) certify(name string, ca bool, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	m.last++
	x := &x509.Certificate{Subject: pkix.Name{CommonName: name}, SerialNumber: new(big.Int).SetBit(big.NewInt(m.last), 126, 1), IsCA: ca, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 1, 0), DNSNames: []string{"localhost"}}
	if x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}; name == "OCSP" {
		x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	}
	if ca {
		x.KeyUsage, x.ExtKeyUsage = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	}
	if parent == nil {
		parent = x
	}
	der, err := x509.CreateCertificate(rand.Reader, x, parent, key.Public(), by)
	m.must(err)
	c, err := x509.ParseCertificate(der)
	m.must(err)
	return c
}

// trust writes the roots of some makers, as a relay does.
func (m *maker) trust(makers ...*maker) {
	m.Helper()
	var text []byte
	for _, other := range makers {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.root.Raw})...)
	}
	m.replace(m.trusted, text)
}

// device is a certificate with its key and the issuer's.
func (m *maker) device(name string) tls.Certificate {
	key := m.newKey()
	leaf := m.certify(name, false, m.issuer, key, m.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, m.issuer.Raw}, PrivateKey: key, Leaf: leaf}
}

func (m *maker) serial(c tls.Certificate) denylist.Serial {
	s, ok := denylist.SerialOf(c.Leaf)
	if !ok {
		m.Fatal("no serial number")
	}
	return s
}

func (m *maker) document(number int64, issuer string, made time.Time) denylist.Document {
	return denylist.Document{Number: number, Issuer: issuer, Time: made.Truncate(time.Second), NextUpdate: made.Add(7 * 24 * time.Hour).Truncate(time.Second)}
}

// list writes a deny-list as a relay does: whole.
func (m *maker) list(path string, number int64, made time.Time, denied ...tls.Certificate) {
	m.Helper()
	m.seals(path, m.document(number, "operational", made), denied...)
}

func (m *maker) seals(path string, d denylist.Document, denied ...tls.Certificate) {
	m.Helper()
	var all []denylist.Denial
	for _, c := range denied {
		all = append(all, denylist.Denial{Serial: m.serial(c), Since: time.Now(), Reason: 6})
	}
	data, err := denylist.SealList(m.seal, d, slices.Values(all))
	m.must(err)
	m.replace(path, data)
}

func (m *maker) replace(path string, data []byte) {
	m.Helper()
	m.must(os.WriteFile(path+"~", data, 0o644))
	m.must(os.Rename(path+"~", path))
}

// serve answers "hello" to each line, over a guarded listener.
func (m *maker) serve(g *guard.Guard) (address string) {
	return m.serveWith(g, &tls.Config{Certificates: []tls.Certificate{m.device("server")}})
}

func (m *maker) serveWith(g *guard.Guard, config *tls.Config) (address string) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	m.must(err)
	listener := g.Listener(tcp, config)
	m.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 1)
				for {
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	return tcp.Addr().String()
}

// session is a client's connection, with which it is heard or not.
func (m *maker) dial(address string, cert tls.Certificate, cache tls.ClientSessionCache) (net.Conn, error) {
	c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: m.roots, ServerName: "localhost", Certificates: []tls.Certificate{cert}, ClientSessionCache: cache})
	if err != nil {
		return nil, err
	}
	m.Cleanup(func() { c.Close() })
	return c, echo(c)
}

func echo(c net.Conn) error {
	c.SetDeadline(time.Now().Add(30 * time.Second))
	b := []byte("x")
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

func TestDeniedAtTheHandshakeAndAfterwards(t *testing.T) {
	m := newMaker(t)
	path := filepath.Join(t.TempDir(), "denylist")
	good, stolen := m.device("good"), m.device("stolen")
	m.list(path, 1, time.Now().Add(-time.Hour))
	g, err := guard.New(path, guard.Options{Roots: m.trusted})
	m.must(err)
	address := m.serve(g)
	cache := tls.NewLRUClientSessionCache(4)
	standing, err := m.dial(address, stolen, cache)
	m.must(err)
	other, err := m.dial(address, good, nil)
	m.must(err)

	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- g.Watch(ctx, 10*time.Millisecond) }()
	m.list(path, 2, time.Now(), stolen)
	if _, err := standing.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection that stands: %v", err)
	}
	m.must(echo(other))
	if _, err := m.dial(address, stolen, nil); err == nil {
		t.Error("a new connection is let in")
	}
	if _, err := m.dial(address, stolen, cache); err == nil {
		t.Error("a resumed connection is let in")
	}
	m.list(path, 3, time.Now().Add(time.Second))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err = m.dial(address, stolen, nil); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not let in again: %v", err)
		}
	}
	stop()
	m.must(<-watched)
}

// A configuration that chooses another for each client is judged like any other.
func TestGuardsWhatGetConfigForClientGives(t *testing.T) {
	m := newMaker(t)
	path := filepath.Join(t.TempDir(), "denylist")
	good, stolen := m.device("good"), m.device("stolen")
	number, begun := int64(1), time.Now()
	m.list(path, number, begun, stolen)
	g, err := guard.New(path, guard.Options{Roots: m.trusted})
	m.must(err)
	write := func(denied tls.Certificate) {
		number++
		m.list(path, number, begun.Add(time.Duration(number)*time.Second), denied)
		m.must(g.Reload())
	}
	own := []tls.Certificate{m.device("server")}
	for name, choose := range map[string]func(*tls.ClientHelloInfo) (*tls.Config, error){
		"another":  func(*tls.ClientHelloInfo) (*tls.Config, error) { return &tls.Config{Certificates: own}, nil },
		"the same": func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil },
	} {
		address := m.serveWith(g, &tls.Config{Certificates: own, GetConfigForClient: choose})
		standing, err := m.dial(address, good, nil)
		m.must(err)
		if _, err := m.dial(address, stolen, nil); err == nil {
			t.Errorf("%s: a denied client is let in", name)
		}
		if _, err := m.dial(address, tls.Certificate{}, nil); err == nil {
			t.Errorf("%s: a client without a certificate is let in", name)
		}
		write(good)
		if _, err := standing.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection that stands: %v", name, err)
		}
		write(stolen)
	}
	address := m.serveWith(g, &tls.Config{Certificates: own, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("no") }})
	if _, err := m.dial(address, good, nil); err == nil {
		t.Error("a client for whom there is no configuration is let in")
	}
}

// What cannot be believed changes nothing, and is said.
func TestLastGoodFileStays(t *testing.T) {
	m, stranger := newMaker(t), newMaker(t)
	path := filepath.Join(t.TempDir(), "denylist")
	stolen := m.device("stolen")
	if _, err := guard.New(path, guard.Options{Roots: m.trusted}); err == nil {
		t.Error("without a file")
	}
	if _, err := guard.New(path, guard.Options{}); err == nil {
		t.Error("without roots")
	}
	now := time.Now()
	m.list(path, 2, now, stolen)
	g, err := guard.New(path, guard.Options{Roots: m.trusted})
	m.must(err)
	for name, change := range map[string]func(){
		"a stranger's": func() { stranger.list(path, 3, now.Add(time.Minute)) },
		"an older one": func() { m.list(path, 1, now.Add(-time.Hour)) },
		"an older one that ends with it": func() { // as its signer does
			d := m.document(1, "operational", now.Add(-time.Hour))
			d.NextUpdate = m.document(2, "operational", now).NextUpdate
			m.seals(path, d)
		},
		"half a file": func() {
			whole, err := os.ReadFile(path)
			m.must(err)
			m.replace(path, whole[:len(whole)/2])
		},
		"no file": func() { m.must(os.Remove(path)) },
	} {
		m.list(path, 2, now, stolen)
		m.must(g.Reload())
		change()
		if err := g.Reload(); err == nil || !strings.HasPrefix(err.Error(), "guard: ") {
			t.Errorf("%s: %v", name, err)
		}
		if err := g.Check(stolen.Leaf); !errors.Is(err, guard.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnded(t *testing.T) {
	m := newMaker(t)
	path := filepath.Join(t.TempDir(), "denylist")
	good, stolen := m.device("good"), m.device("stolen")
	m.list(path, 1, time.Now(), stolen)
	for _, c := range []struct {
		fail         guard.Fail
		good, stolen error
	}{{guard.Closed, guard.ErrEnded, guard.ErrEnded}, {guard.Open, nil, guard.ErrDenied}} {
		var late, watched atomic.Bool
		ctx, stop := context.WithCancel(t.Context())
		g, err := guard.New(path, guard.Options{Roots: m.trusted, Fail: c.fail, Now: func() time.Time {
			if watched.Load() {
				stop()
			}
			if late.Load() {
				return time.Now().Add(8 * 24 * time.Hour)
			}
			return time.Now()
		}})
		m.must(err)
		standing, err := m.dial(m.serve(g), good, nil)
		m.must(err)
		late.Store(true)
		if got := g.Check(good.Leaf); !errors.Is(got, c.good) || c.good == nil && got != nil {
			t.Errorf("good: %v", got)
		}
		if got := g.Check(stolen.Leaf); !errors.Is(got, c.stolen) {
			t.Errorf("stolen: %v", got)
		}
		watched.Store(true)
		m.must(os.Chtimes(path, time.Time{}, time.Now().Add(time.Minute))) // it is read again, for which the time is asked
		g.Watch(ctx, time.Millisecond)
		if err := echo(standing); (err == nil) != (c.fail == guard.Open) {
			t.Errorf("the connection that stands: %v", err)
		}
	}
}

// Lists of further issuers lie beside the first.
func TestTwoIssuers(t *testing.T) {
	m := newMaker(t)
	path := filepath.Join(t.TempDir(), "denylist")
	first, second := m.device("first"), m.device("second")
	m.list(path, 1, time.Now(), first)
	m.list(path+".operational-2", 1, time.Now(), second)
	g, err := guard.New(path, guard.Options{Roots: m.trusted})
	m.must(err)
	for _, c := range []tls.Certificate{first, second} {
		if err := g.Check(c.Leaf); !errors.Is(err, guard.ErrDenied) {
			t.Errorf("%s: %v", c.Leaf.Subject, err)
		}
	}
	if err := g.Check(m.device("third").Leaf); err != nil {
		t.Error(err)
	}
}

// Neither what else stands beside the file nor the name of its folder counts.
func TestBeside(t *testing.T) {
	m := newMaker(t)
	path := filepath.Join(t.TempDir(), "a[b", "denylist")
	m.must(os.Mkdir(filepath.Dir(path), 0o700))
	second := m.device("second")
	m.list(path, 1, time.Now())
	m.list(path+".operational-2", 1, time.Now(), second)
	m.must(os.WriteFile(path+".backup-1", nil, 0o600))
	g, err := guard.New(path, guard.Options{Roots: m.trusted})
	m.must(err)
	if err := g.Check(second.Leaf); !errors.Is(err, guard.ErrDenied) {
		t.Error(err)
	}
}

// The list of an issuer that comes later may have been made before that of the first, since
// nothing changed in it.
func TestAnIssuerMore(t *testing.T) {
	m := newMaker(t)
	path, now := filepath.Join(t.TempDir(), "denylist"), time.Now()
	first, second := m.device("first"), m.device("second")
	m.list(path, 1, now)
	g, err := guard.New(path, guard.Options{Roots: m.trusted})
	m.must(err)
	m.seals(path+".operational-2", m.document(1, "operational-2", now.Add(-time.Hour)), second)
	m.list(path, 2, now, first)
	m.must(g.Reload())
	for _, c := range []tls.Certificate{first, second} {
		if err := g.Check(c.Leaf); !errors.Is(err, guard.ErrDenied) {
			t.Errorf("%s: %v", c.Leaf.Subject, err)
		}
	}
}

func TestFilter(t *testing.T) {
	m := newMaker(t)
	path := filepath.Join(t.TempDir(), "filter")
	good, stolen, young := m.device("good"), m.device("stolen"), m.device("young")
	covers := time.Now().Add(-time.Minute)
	young.Leaf.NotBefore = time.Now()
	data, err := denylist.SealFilter(m.seal, m.document(1, "operational", time.Now()), covers, []denylist.Serial{m.serial(stolen)}, []denylist.Serial{m.serial(good)})
	m.must(err)
	m.replace(path, data)
	for _, fail := range []guard.Fail{guard.Closed, guard.Open} {
		g, err := guard.New(path, guard.Options{Roots: m.trusted, Fail: fail})
		m.must(err)
		if err := g.Check(good.Leaf); err != nil {
			t.Errorf("good: %v", err)
		}
		if err := g.Check(stolen.Leaf); !errors.Is(err, guard.ErrDenied) {
			t.Errorf("stolen: %v", err)
		}
		if err := g.Check(young.Leaf); (err == nil) != (fail == guard.Open) || err != nil && !errors.Is(err, guard.ErrNotCovered) {
			t.Errorf("younger than the filter: %v", err)
		}
	}
}

// The next CA's root comes and the old one's goes while the server runs. Whoever is revoked under
// the old one is refused all the while, also by those who have not been given the new root yet.
func TestTheNextCA(t *testing.T) {
	for format, write := range map[string]func(m *maker, path, issuer string, made time.Time, good, stolen tls.Certificate){
		"deny-list": func(m *maker, path, issuer string, made time.Time, _, stolen tls.Certificate) {
			m.seals(path, m.document(1, issuer, made), stolen)
		},
		"filter": func(m *maker, path, issuer string, made time.Time, good, stolen tls.Certificate) {
			data, err := denylist.SealFilter(m.seal, m.document(1, issuer, made), made, []denylist.Serial{m.serial(stolen)}, []denylist.Serial{m.serial(good)})
			m.must(err)
			m.replace(path, data)
		},
	} {
		m, next := newMaker(t), newMaker(t)
		path, now := filepath.Join(t.TempDir(), "list"), time.Now()
		good, stolen, nobody := m.device("good"), m.device("stolen"), m.device("nobody")
		young, lost := next.device("young"), next.device("lost")
		write(m, path, "operational", now.Add(-time.Hour), good, nobody)
		g, err := guard.New(path, guard.Options{Roots: m.trusted})
		m.must(err)
		address, cache := m.serve(g), tls.NewLRUClientSessionCache(1)
		standing, err := m.dial(address, good, cache)
		m.must(err)
		judged := func(when string, want map[*tls.Certificate]bool) {
			t.Helper()
			m.must(g.Reload())
			for c, in := range want {
				if _, err := m.dial(address, *c, nil); (err == nil) != in {
					t.Errorf("%s, %s, %s: %v", format, when, c.Leaf.Subject, err)
				}
			}
		}
		write(next, path+".operational-2", "operational-2", now, young, lost)
		write(m, path, "operational", now, good, stolen)
		judged("before its root is here", map[*tls.Certificate]bool{&good: true, &stolen: false, &young: false})
		m.trust(m, next)
		judged("beside the old one", map[*tls.Certificate]bool{&good: true, &stolen: false, &young: true, &lost: false})
		m.must(echo(standing))
		m.must(os.Remove(path + ".operational-2"))
		write(next, path, "operational-2", now, young, lost)
		m.trust(next)
		judged("alone", map[*tls.Certificate]bool{&good: false, &stolen: false, &young: true, &lost: false})
		if _, err := m.dial(address, good, cache); err == nil {
			t.Errorf("%s: a resumed connection under a root that is gone", format)
		}
		if echo(standing) == nil {
			t.Errorf("%s: a connection under a root that is gone stands", format)
		}
	}
}

// A file that comes within one tick of the kernel's clock, and is of the same size, is read as well.
func TestChangesThatFollowAtOnce(t *testing.T) {
	m := newMaker(t)
	path, begun := filepath.Join(t.TempDir(), "denylist"), time.Now().Add(-time.Hour)
	both := []tls.Certificate{m.device("one"), m.device("other")}
	m.list(path, 1, begun)
	g, err := guard.New(path, guard.Options{Roots: m.trusted})
	m.must(err)
	for i := range 100 {
		m.list(path, int64(i+2), begun.Add(time.Duration(i+1)*time.Second), both[i%2])
		m.must(g.Reload())
		if err := g.Check(both[i%2].Leaf); !errors.Is(err, guard.ErrDenied) {
			t.Fatalf("change %d: %v", i, err)
		}
	}
}

// An issuer's file goes before its root does: the relay replaces one after the other. Whom it denied is
// let in by nobody meanwhile.
func TestAFileGoesBeforeItsRoot(t *testing.T) {
	for _, fail := range []guard.Fail{guard.Closed, guard.Open} {
		m, next := newMaker(t), newMaker(t)
		path, now := filepath.Join(t.TempDir(), "list"), time.Now()
		next.last = 100 // not m's serial numbers
		stolen, lost, young := m.device("stolen"), next.device("lost"), next.device("young")
		m.trust(m, next)
		m.seals(path, m.document(1, "operational", now), stolen)
		next.seals(path+".operational-2", m.document(1, "operational-2", now), lost)
		g, err := guard.New(path, guard.Options{Roots: m.trusted, Fail: fail})
		m.must(err)
		m.must(os.Remove(path + ".operational-2"))
		next.seals(path, m.document(1, "operational-2", now), lost)
		for range 2 {
			m.must(g.Reload())
			for _, c := range []tls.Certificate{stolen, lost} {
				if g.Check(c.Leaf) == nil {
					t.Errorf("%v: %s is let in", fail, c.Leaf.Subject)
				}
			}
			next.seals(path, m.document(2, "operational-2", now.Add(time.Second)), lost)
		}
		m.trust(next)
		m.must(g.Reload())
		if err := g.Check(young.Leaf); err != nil {
			t.Errorf("%v: %v", fail, err)
		}
		if err := g.Check(stolen.Leaf); errors.Is(err, guard.ErrDenied) {
			t.Errorf("%v: the list of a root that is gone is kept: %v", fail, err)
		}
	}
}

// Of a certificate of an issuer that no file is about nobody knows anything.
func TestAnotherIssuer(t *testing.T) {
	m, dir := newMaker(t), t.TempDir()
	list, filter := filepath.Join(dir, "denylist"), filepath.Join(dir, "filter")
	m.list(list, 1, time.Now())
	mine := m.device("mine")
	data, err := denylist.SealFilter(m.seal, m.document(1, "operational", time.Now()), time.Now(), nil, []denylist.Serial{m.serial(mine)})
	m.must(err)
	m.replace(filter, data)
	key := m.newKey()
	m.issuer = m.certify("Issuer 2", true, m.root, key, m.rootKey)
	m.key = key
	theirs := m.device("theirs")
	for _, path := range []string{list, filter} {
		for _, fail := range []guard.Fail{guard.Closed, guard.Open} {
			g, err := guard.New(path, guard.Options{Roots: m.trusted, Fail: fail})
			m.must(err)
			m.must(g.Check(mine.Leaf))
			if err := g.Check(theirs.Leaf); (err == nil) != (fail == guard.Open) || err != nil && !errors.Is(err, guard.ErrNotCovered) {
				t.Errorf("%s, fail %d: %v", path, fail, err)
			}
		}
	}
}
