package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/wire"
)

// authority is a root with its key.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template *x509.Certificate, parent *authority, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	p := &authority{template, key}
	if parent != nil {
		p = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.certificate, key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newAuthority(t *testing.T, name string, parent *authority, start time.Time) *authority {
	t.Helper()
	key := newKey(t)
	return &authority{sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: start, NotAfter: start.AddDate(30, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, parent, key), key}
}

// leaf makes a server or client certificate that began an hour before now and lasts 30 days.
func (a *authority) leaf(t *testing.T, name string, now time.Time, chain ...*authority) tls.Certificate {
	t.Helper()
	key := newKey(t)
	c := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, 30),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a, key)
	out := tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
	for _, more := range chain {
		out.Certificate = append(out.Certificate, more.certificate.Raw)
	}
	return out
}

// request is one request as the server saw it.
type request struct {
	path   string
	from   string // the connection
	client []byte // certificate shown
}

// server is a Hallmark server as far as a client is concerned. Its fields may be
// changed between requests.
type server struct {
	root    *authority
	timeKey *ecdsa.PrivateKey
	now     time.Time
	bundle  wire.Bundle
	signer  *authority // of the bundle; normally root
	earlier []wire.SignedBundle
	url     string
	hangUp  func() // on all clients
	// answer replaces the handler of a path.
	answer map[string]http.HandlerFunc

	mu   sync.Mutex
	seen []request
}

func (s *server) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

func (s *server) pin() [32]byte { return sha256.Sum256(s.root.certificate.Raw) }

func start(t *testing.T, change func(*server, *tls.Config)) *server {
	t.Helper()
	s := &server{now: time.Now(), timeKey: newKey(t), answer: map[string]http.HandlerFunc{}}
	s.root = newAuthority(t, "infrastructure root", nil, s.now.AddDate(-1, 0, 0))
	s.signer = s.root
	issuer := newAuthority(t, "infrastructure", s.root, s.now.AddDate(0, -6, 0))
	spki, err := x509.MarshalPKIXPublicKey(s.timeKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	roots := [][]byte{s.root.certificate.Raw}
	s.bundle = wire.Bundle{Number: 3, Name: "Acme", Created: s.now.AddDate(0, -2, 0), Infrastructure: roots, Operational: roots, Manufacturing: roots, TimeKeys: [][]byte{spki}}
	h := httptest.NewUnstartedServer(s)
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{issuer.leaf(t, "server", s.now, issuer)}}
	if change != nil {
		change(s, h.TLS)
	}
	h.StartTLS()
	t.Cleanup(h.Close)
	s.url, s.hangUp = h.URL, h.CloseClientConnections
	s.bundle.Servers = []string{s.url}
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := request{path: r.URL.Path, from: r.RemoteAddr}
	if len(r.TLS.PeerCertificates) > 0 {
		q.client = r.TLS.PeerCertificates[0].Raw
	}
	s.mu.Lock()
	s.seen = append(s.seen, q)
	s.mu.Unlock()
	if f := s.answer[r.URL.Path]; f != nil {
		f(w, r)
		return
	}
	switch r.URL.Path {
	case wire.PathTrust:
		s.trust(w, r)
	case wire.PathTime:
		var m wire.TimeRequest
		if err := wire.Decode(r.Body, wire.MaxMessage, &m); err != nil {
			panic(err)
		}
		write(w, s.time(m.Nonce))
	case wire.PathEnrol, wire.PathRenew:
		s.evidence(w, r)
	default:
		http.NotFound(w, r)
	}
}

// trust gives the newest bundle or, asked for what comes after one, the steps to it.
func (s *server) trust(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		write(w, s.signed())
		return
	}
	answer := wire.TrustSteps{Newest: s.bundle.Number}
	for _, step := range append(s.earlier, s.signed()) {
		var b wire.Bundle
		if err := json.Unmarshal(step.Bundle, &b); err != nil {
			panic(err)
		}
		if b.Number > after && len(answer.Bundles) < 2 { // a device asks again for the rest
			answer.Bundles = append(answer.Bundles, step)
		}
	}
	write(w, answer)
}

func (s *server) signed() wire.SignedBundle {
	raw, err := json.Marshal(s.bundle)
	if err != nil {
		panic(err)
	}
	digest := wire.BundleDigest(raw)
	signature, err := ecdsa.SignASN1(rand.Reader, s.signer.key, digest[:])
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(s.signer.certificate.Raw)
	return wire.SignedBundle{Bundle: raw, Signatures: []wire.BundleSignature{{Signer: hex.EncodeToString(sum[:]), Signature: signature}}}
}

func (s *server) time(nonce []byte) wire.TimeAnswer {
	digest := wire.TimeMessage(nonce, s.now.Unix())
	signature, err := ecdsa.SignASN1(rand.Reader, s.timeKey, digest[:])
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(s.bundle.TimeKeys[0])
	return wire.TimeAnswer{Unix: s.now.Unix(), Key: hex.EncodeToString(sum[:]), Signature: signature}
}

// evidence checks the binding as a server does; here the statement is the binding itself.
func (s *server) evidence(w http.ResponseWriter, r *http.Request) {
	var e wire.Envelope
	if err := wire.Decode(r.Body, wire.MaxMessage, &e); err != nil {
		refuse(w, 400, wire.CodeMalformed, err.Error())
		return
	}
	b := wire.Binding{Label: strings.TrimPrefix(r.URL.Path, "/v1/"), Message: e.Message}
	if s.bundle.NonceMode {
		b.Nonce = e.Nonce
		if e.Client != nil {
			b.Client = e.Client.Certificates[0]
		}
	} else {
		b.Exporter, _ = r.TLS.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLength)
		if len(r.TLS.PeerCertificates) > 0 {
			b.Client = r.TLS.PeerCertificates[0].Raw
		}
	}
	sum := b.Sum()
	if !slices.Equal(e.Statement, sum[:]) || string(e.Signature) != "signature" {
		refuse(w, 403, wire.CodeEvidence, "another binding")
		return
	}
	if e.Client != nil {
		c, err := x509.ParseCertificate(e.Client.Certificates[0])
		if err != nil || !ecdsa.VerifyASN1(c.PublicKey.(*ecdsa.PublicKey), sum[:], e.Client.Signature) {
			refuse(w, 403, wire.CodeUnauthorised, "the client's proof does not hold")
			return
		}
	}
	if r.URL.Path == wire.PathEnrol && !slices.Equal(e.TicketMAC, wire.PermissionMAC([]byte("secret"), sum)) {
		refuse(w, 403, wire.CodeTicketInvalid, "wrong MAC")
		return
	}
	write(w, map[string]any{"identity": wire.Identity{Device: "m:1"}, "field_of_a_newer_server": []int{1}})
}

func write(w http.ResponseWriter, v any) { json.NewEncoder(w).Encode(v) }

func refuse(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", wire.ProblemType)
	w.WriteHeader(status)
	write(w, wire.Problem{Status: status, Code: code, Detail: detail, Hint: "hint"})
}

func prove(binding [32]byte) ([]byte, []byte, error) { return binding[:], []byte("signature"), nil }

var ticket = &wire.Permission{Kind: wire.KindTicket, ID: "abc", Secret: []byte("secret")}

func newClient(t *testing.T, s *server, change func(*client.Config)) *client.Client {
	t.Helper()
	config := client.Config{Servers: []string{s.url}, Pins: [][32]byte{s.pin()}}
	if change != nil {
		change(&config)
	}
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func enrols(t *testing.T, c *client.Client) {
	t.Helper()
	answer, err := c.Enrol(t.Context(), wire.Enrol{Serial: "<&>"}, prove, ticket)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Identity == nil || answer.Identity.Device != "m:1" {
		t.Fatalf("answer %+v", answer)
	}
}

// at is a system clock that stands wrong by so much but runs on.
func at(wrong time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(wrong) }
}

var clocks = map[string]time.Duration{
	"right":              0,
	"1970":               -time.Since(time.Unix(0, 0)),
	"a year behind":      -365 * 24 * time.Hour,
	"ten years ahead":    10 * 365 * 24 * time.Hour,
	"a hundred ahead":    100 * 365 * 24 * time.Hour,
	"a day ahead, valid": 24 * time.Hour,
}

// A genuine server is reached whatever the clock says, and while the time is unknown
// nothing but time and trust is exchanged and no certificate is shown.
func TestClock(t *testing.T) {
	for name, wrong := range clocks {
		for _, onFile := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/bundle on file %v", name, onFile), func(t *testing.T) {
				s := start(t, nil)
				id := newAuthority(t, "device", nil, time.Now().Add(-time.Hour)).leaf(t, "device", time.Now())
				c := newClient(t, s, func(c *client.Config) {
					c.Now = at(wrong)
					c.Floor = s.now.AddDate(0, -3, 0)
					if onFile {
						c.Trust = s.signed()
					}
				})
				answer, err := c.Renew(t.Context(), wire.Renew{Key: []byte{1}}, prove, &id)
				if err != nil || answer.Identity == nil {
					t.Fatalf("%+v, %v", answer, err)
				}
				believed := wrong == 0 || wrong == 24*time.Hour
				if off := time.Until(c.Now()); !believed && (off > time.Minute || off < -time.Minute) {
					t.Errorf("the time learned is wrong by %v", off)
				}
				for _, q := range s.requests() {
					if shown := q.client != nil; shown != (q.path == wire.PathRenew) {
						t.Errorf("%s: certificate shown: %v", q.path, shown)
					}
				}
				asked := slices.ContainsFunc(s.requests(), func(q request) bool { return q.path == wire.PathTime })
				if asked == believed {
					t.Errorf("time asked for: %v", asked)
				}
				if onFile && believed && len(s.requests()) != 1 {
					t.Errorf("%d requests for a renewal", len(s.requests()))
				}
			})
		}
	}
}

// What is not the server that was pinned gets nothing, whatever the clock says.
func TestImpostors(t *testing.T) {
	other := newAuthority(t, "other root", nil, time.Now().AddDate(-1, 0, 0))
	impostors := map[string]struct {
		change func(*server, *tls.Config)
		later  func(*server)
		pin    *authority
	}{
		"another installation": {pin: other},
		"right bundle, other chain": {change: func(_ *server, c *tls.Config) {
			c.Certificates = []tls.Certificate{other.leaf(t, "server", time.Now())}
		}},
		"bundle signed by a stranger": {later: func(s *server) { s.signer = other }},
		"unsigned bundle": {later: func(s *server) {
			s.answer[wire.PathTrust] = func(w http.ResponseWriter, _ *http.Request) {
				signed := s.signed()
				signed.Signatures = nil
				write(w, signed)
			}
		}},
		"refusal by a stranger": {pin: other, later: func(s *server) {
			s.answer[wire.PathTrust] = func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, wire.CodeRevoked, "revoked") }
		}},
		"certificate of another host": {change: func(s *server, c *tls.Config) {
			key := newKey(t)
			leaf := sign(t, &x509.Certificate{NotBefore: s.now.Add(-time.Hour), NotAfter: s.now.Add(time.Hour), DNSNames: []string{"elsewhere"}}, s.root, key)
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}
		}},
		"certificate of a device": {change: func(s *server, c *tls.Config) {
			key := newKey(t)
			leaf := sign(t, &x509.Certificate{NotBefore: s.now.Add(-time.Hour), NotAfter: s.now.Add(time.Hour), DNSNames: []string{"localhost"},
				IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, s.root, key)
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}
		}},
		"stolen key, certificate expired": {change: func(s *server, c *tls.Config) {
			c.Certificates = []tls.Certificate{s.root.leaf(t, "server", s.now.AddDate(0, -3, 0))}
		}},
	}
	for name, i := range impostors {
		for clock, wrong := range clocks {
			t.Run(name+"/"+clock, func(t *testing.T) {
				s := start(t, i.change)
				if i.later != nil {
					i.later(s)
				}
				c := newClient(t, s, func(c *client.Config) {
					c.Now = at(wrong)
					if i.pin != nil {
						c.Pins = [][32]byte{sha256.Sum256(i.pin.certificate.Raw)}
					}
				})
				_, err := c.Enrol(t.Context(), wire.Enrol{}, prove, ticket)
				refusedAsImpostor(t, s, err)
			})
		}
	}
}

func refusedAsImpostor(t *testing.T, s *server, err error) {
	t.Helper()
	if _, ok := errors.AsType[*client.TrustError](err); !ok {
		t.Fatalf("got %v", err)
	}
	for _, q := range s.requests() {
		if q.path != wire.PathTrust && q.path != wire.PathTime || q.client != nil {
			t.Fatalf("the impostor got %s", q.path)
		}
	}
}

// A server whose own clock is slow cannot take a device back before its floor.
func TestFloor(t *testing.T) {
	s := start(t, nil)
	genuine := time.Now()
	c := newClient(t, s, func(c *client.Config) { c.Now, c.Floor = at(clocks["1970"]), genuine.Add(-time.Minute) })
	s.now = genuine.Add(-30 * time.Minute)
	enrols(t, c)
	if c.Now().Before(genuine.Add(-time.Minute)) {
		t.Fatalf("the time went back to %v", c.Now())
	}
	// A clock below the floor is wrong, even if the chain would verify at it.
	s = start(t, nil)
	c = newClient(t, s, func(c *client.Config) { c.Now, c.Floor = at(-30*time.Minute), genuine.Add(-time.Minute) })
	enrols(t, c)
	if off := time.Since(c.Now()); off > time.Minute {
		t.Fatalf("the time is wrong by %v", off)
	}
}

// A time that is forged, replayed or impossible is refused.
func TestForgedTime(t *testing.T) {
	for name, forge := range map[string]func(s *server, nonce []byte) wire.TimeAnswer{
		"changed":  func(s *server, n []byte) wire.TimeAnswer { a := s.time(n); a.Unix += 3600; return a },
		"replayed": func(s *server, _ []byte) wire.TimeAnswer { return s.time(make([]byte, 32)) },
		"unknown key": func(s *server, n []byte) wire.TimeAnswer {
			s.timeKey = newKey(t)
			return s.time(n)
		},
		"before the floor": func(s *server, n []byte) wire.TimeAnswer { s.now = s.now.AddDate(0, -3, 0); return s.time(n) },
		"after the chain":  func(s *server, n []byte) wire.TimeAnswer { s.now = s.now.AddDate(0, 2, 0); return s.time(n) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, nil)
			s.answer[wire.PathTime] = func(w http.ResponseWriter, r *http.Request) {
				var m wire.TimeRequest
				if err := wire.Decode(r.Body, wire.MaxMessage, &m); err != nil {
					panic(err)
				}
				write(w, forge(s, m.Nonce))
			}
			c := newClient(t, s, func(c *client.Config) { c.Now = at(clocks["1970"]) })
			_, err := c.Enrol(t.Context(), wire.Enrol{}, prove, ticket)
			refusedAsImpostor(t, s, err)
		})
	}
}

// Bundles never go back; newer ones are followed, to new roots too.
func TestTrustBundles(t *testing.T) {
	s := start(t, nil)
	c := newClient(t, s, func(c *client.Config) { c.Trust = s.signed() })
	s.bundle.Number = 2
	if err := c.UpdateTrust(t.Context()); err == nil || !strings.Contains(err.Error(), "older") {
		t.Fatalf("bundle 2 after 3: %v", err)
	}
	next := newAuthority(t, "next root", nil, s.now.Add(-time.Hour))
	s.bundle.Number, s.bundle.Infrastructure = 4, [][]byte{s.root.certificate.Raw, next.certificate.Raw}
	if err := c.UpdateTrust(t.Context()); err != nil {
		t.Fatal(err)
	}
	if signed, b := c.Trust(); b.Number != 4 || len(signed.Bundle) == 0 {
		t.Fatalf("bundle %d", b.Number)
	}
	s.bundle.Number, s.bundle.Infrastructure, s.signer = 5, [][]byte{next.certificate.Raw}, next
	if err := c.UpdateTrust(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.UpdateTrust(t.Context()); err == nil {
		t.Fatal("the server still has a certificate of the root that bundle 5 took out, and was believed")
	}
	damaged := s.signed()
	damaged.Bundle[20] ^= 1
	if _, err := client.New(client.Config{Servers: []string{s.url}, Pins: [][32]byte{s.pin()}, Trust: damaged}); err == nil {
		t.Fatal("a damaged bundle on file was believed")
	}
}

// An enrolment from nothing but a fingerprint is one connection, unless that ends.
func TestMessageTwoGoesOverTheSameConnection(t *testing.T) {
	for name, c := range map[string]struct {
		header  string
		between func(s *server, n *client.Client, over context.CancelFunc) // what happens before message two
		want    int
	}{
		"kept":                 {"", func(*server, *client.Client, context.CancelFunc) {}, 1},
		"closed as announced":  {"close", func(*server, *client.Client, context.CancelFunc) {}, 2},
		"closed unannounced":   {"", func(s *server, _ *client.Client, _ context.CancelFunc) { s.hangUp() }, 2},
		"closed by the client": {"", func(_ *server, n *client.Client, _ context.CancelFunc) { n.Close() }, 2},
		"challenged once more": {"", func(*server, *client.Client, context.CancelFunc) {}, 1},
		"message one is over":  {"", func(_ *server, _ *client.Client, over context.CancelFunc) { over() }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, nil)
			s.answer[wire.PathEnrol] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Connection", c.header)
				write(w, wire.Answer{Challenge: &wire.Challenge{Session: []byte("session")}})
			}
			s.answer[wire.PathActivate] = func(w http.ResponseWriter, _ *http.Request) {
				write(w, wire.Answer{Identity: &wire.Identity{Device: "m:1"}})
			}
			n := newClient(t, s, nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for range 2 {
				if _, err := n.Enrol(ctx, wire.Enrol{Serial: "1"}, prove, ticket); err != nil {
					t.Fatal(err)
				}
				if name != "challenged once more" {
					break
				}
			}
			c.between(s, n, cancel)
			if answer, err := n.Activate(t.Context(), wire.Activate{}, nil); err != nil || answer.Identity == nil {
				t.Fatalf("%+v, %v", answer, err)
			}
			from := map[string]bool{}
			for _, r := range s.requests() {
				from[r.from] = true
			}
			if len(from) != c.want {
				t.Errorf("%d connections, want %d: %+v", len(from), c.want, s.requests())
			}
			if _, err := n.Activate(t.Context(), wire.Activate{}, nil); err != nil {
				t.Fatal(err)
			}
			if all := s.requests(); all[len(all)-1].from == all[len(all)-2].from {
				t.Error("the connection was kept beyond message two")
			}
		})
	}
}

func TestNonceMode(t *testing.T) {
	s := start(t, nil)
	s.bundle.NonceMode = true
	s.answer[wire.PathNonce] = func(w http.ResponseWriter, _ *http.Request) { write(w, wire.NonceAnswer{Nonce: []byte("nonce")}) }
	c := newClient(t, s, nil)
	enrols(t, c)
	id := s.root.leaf(t, "device", s.now)
	if _, err := c.Renew(t.Context(), wire.Renew{Key: []byte{1}}, prove, &id); err != nil {
		t.Fatal(err)
	}
	// A device that knows no proxy does not drop its channel binding because a server asks.
	plain := start(t, nil)
	c = newClient(t, plain, func(c *client.Config) { c.Trust = plain.signed() })
	enrols(t, c)
	if slices.ContainsFunc(plain.requests(), func(q request) bool { return q.path == wire.PathNonce }) {
		t.Fatal("a nonce was asked for")
	}
}

func TestAnswers(t *testing.T) {
	s := start(t, nil)
	c := newClient(t, s, nil)
	enrols(t, c)
	for name, a := range map[string]struct {
		handler http.HandlerFunc
		code    string // "" for a NetworkError
	}{
		"refusal":       {func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, wire.CodeQuotaFull, "full") }, wire.CodeQuotaFull},
		"proxy's error": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) }, wire.CodeUnavailable},
		"not found":     {http.NotFound, wire.CodeNotFound},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere/", http.StatusFound)
		}, wire.CodeForbidden},
		"not JSON":  {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }, ""},
		"too large": {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, wire.MaxMessage+1)) }, ""},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}, ""},
		"cut off": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ""},
	} {
		s.answer[wire.PathActivate] = a.handler
		_, err := c.Activate(t.Context(), wire.Activate{Session: []byte{1}}, nil)
		if a.code == "" {
			if _, ok := errors.AsType[*client.NetworkError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if p, ok := errors.AsType[*wire.Problem](err); !ok || p.Code != a.code || p.Detail == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if sent, got := c.Bytes(); sent < 1000 || got < 1000 {
		t.Errorf("%d bytes sent, %d received", sent, got)
	}
}

func TestServers(t *testing.T) {
	s := start(t, nil)
	c := newClient(t, s, func(c *client.Config) { c.Servers = []string{"https://127.0.0.1:1", s.url} })
	enrols(t, c)
	c = newClient(t, s, func(c *client.Config) { c.Servers = []string{"https://127.0.0.1:1"} })
	_, err := c.Enrol(t.Context(), wire.Enrol{}, prove, ticket)
	if e, ok := errors.AsType[*client.NetworkError](err); !ok || e.Server != "https://127.0.0.1:1" {
		t.Fatalf("got %v", err)
	}
	old := start(t, func(_ *server, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 })
	_, err = newClient(t, old, nil).Enrol(t.Context(), wire.Enrol{}, prove, ticket)
	if _, ok := errors.AsType[*client.NetworkError](err); !ok || len(old.requests()) != 0 {
		t.Fatalf("TLS 1.2 was spoken: %v", err)
	}
	for _, bad := range []client.Config{
		{Servers: []string{"http://x"}, Pins: [][32]byte{{}}},
		{Servers: []string{s.url}},
		{Pins: [][32]byte{{}}},
	} {
		if _, err := client.New(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func FuzzParsePin(f *testing.F) {
	f.Add(strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := client.ParsePin(text); err == nil && hex.EncodeToString(p[:]) != strings.ToLower(text) {
			t.Fatal(text)
		}
	})
}
