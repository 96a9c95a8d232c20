package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// A file that somebody put another in the place of does not stay: a list of long ago, say, or a link.
func TestFileIsPutBack(t *testing.T) {
	s := newSite(t)
	p := s.post()
	file := p.file(wire.FormatSerials)
	p.Reload = "cat " + file + " >>" + p.etc + "/taken"
	p.run()
	p.enforced()
	good := p.read(file)
	other := p.etc + "/other"
	write(t, other, good)
	for _, change := range []func(){
		func() { write(t, file, "of long ago") },
		func() { p.must(os.Remove(file)); p.must(os.Symlink(other, file)) },
	} {
		change()
		write(t, p.etc+"/taken", "")
		s.server.CloseClientConnections()
		p.await("it is put back, and taken up", func() bool {
			info, err := os.Lstat(file)
			return err == nil && info.Mode().IsRegular() && p.read(file) == good && p.read(p.etc+"/taken") == good
		})
	}
}

// Lists that ended stay closed on disk when the program does not take that up: it may be started
// again, and then nobody is let in either.
func TestClosedThoughTheReloadFails(t *testing.T) {
	s := newSite(t)
	p := s.post()
	file := p.file(wire.FormatSerials)
	stop := p.run()
	p.enforced()
	stop()
	open := p.read(file)
	s.standBetween(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.URL.Path == wire.PathRelayReport {
			server.ServeHTTP(w, r)
			return
		}
		http.Error(w, "away", http.StatusBadGateway)
	})
	p.Reload, p.Now = "false", func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
	stop = p.run()
	p.troubled("could not be closed")
	if text := p.read(file); !strings.Contains(text, "\n7\n") {
		t.Errorf("open: %s", text)
	}
	stop()
	s.standBetween(nil)
	p.Reload, p.Now = "true", time.Now
	p.run()
	p.enforced()
	if p.read(file) != open {
		t.Error("with contact again it stays closed")
	}
}

// Lists that ended while the relay was off let nobody in while it looks for Hallmark: the program is not
// started before they are closed.
func TestEndedWhileOff(t *testing.T) {
	s := newSite(t)
	p := s.post()
	file := p.file(wire.FormatSerials)
	stop := p.run()
	p.enforced()
	stop()
	var first atomic.Pointer[string]
	s.standBetween(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		text, _ := os.ReadFile(file)
		found := string(text)
		first.CompareAndSwap(nil, &found)
		http.Error(w, "away", http.StatusBadGateway)
	})
	p.Now = func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
	p.run()
	p.await("Hallmark is asked", func() bool { return first.Load() != nil })
	if text := *first.Load(); !strings.Contains(text, "\n7\n") {
		t.Errorf("open: %s", text)
	}
}

// A list that somebody put into the file's place while the relay was off does not keep newer ones out,
// whatever its number, and is replaced.
func TestNumberOfNobodys(t *testing.T) {
	s := newSite(t)
	p := s.post()
	file := p.file(wire.FormatCRL)
	stop := p.run()
	p.enforced()
	stop()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p.must(err)
	forged := ""
	for rest := []byte(p.read(file)); len(rest) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		list, err := x509.ParseRevocationList(block.Bytes)
		p.must(err)
		list.Number, list.RevokedCertificateEntries = new(big.Int).Lsh(big.NewInt(1), 150), nil
		list.ExtraExtensions = slices.DeleteFunc(list.Extensions, func(e pkix.Extension) bool { return !e.Id.Equal([]int{2, 5, 29, 28}) })
		as := &x509.Certificate{RawSubject: list.RawIssuer, SubjectKeyId: list.AuthorityKeyId, KeyUsage: x509.KeyUsageCRLSign, PublicKey: key.Public()}
		der, err := x509.CreateRevocationList(rand.Reader, list, as, key)
		p.must(err)
		forged += string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	}
	write(t, file, forged)
	id, serial := s.device()
	s.Suspend(id)
	stop = p.run()
	p.enforced()
	if !deniedBy(t, p.read(file), serial) {
		t.Error("the forged list stays")
	}
	stop()
	// Numbers are kept all the same, if not there.
	st, err := readState(p.dir)
	p.must(err)
	if len(st.Numbers) != 2 {
		t.Errorf("numbers: %v", st.Numbers)
	}
	for _, n := range st.Numbers {
		n.Lsh(n, 1)
	}
	p.must(writeState(p.dir, st))
	p.must(os.Remove(file))
	p.run()
	p.troubled("somebody in between repeats old answers")
}

// A relay that cannot write its own folder says so, and what is revoked is in the files all the same.
func TestOwnFolderIsFull(t *testing.T) {
	s := newSite(t)
	id, serial := s.device()
	p := s.post()
	file := p.file(wire.FormatSerials)
	p.run()
	p.enforced()
	inTheWay := filepath.Join(p.dir, "."+stateFile+".new")
	p.must(os.MkdirAll(inTheWay+"/x", 0o700))
	s.Suspend(id)
	newest := s.Newest()
	p.troubled("the status could not be written")
	p.await("it is enforced", func() bool { return p.last().Number == newest && strings.Contains(p.read(file), serial) })
	p.must(os.RemoveAll(inTheWay))
	s.Restore(id)
	p.enforced()
}

// A trust bundle of before is refused, also if the one that was kept is gone; and a relay that was
// killed before its program took the files up has it do so.
func TestAfterAKill(t *testing.T) {
	s := newSite(t)
	p := s.post()
	p.file(wire.FormatSerials)
	p.Reload = "echo >>" + p.etc + "/taken"
	stop := p.run()
	p.enforced()
	stop()
	change := func(do func(*state)) {
		st, err := readState(p.dir)
		p.must(err)
		do(&st)
		p.must(writeState(p.dir, st))
	}
	change(func(st *state) { st.Bundle, st.Behind = st.Bundle+1, true })
	p.must(os.Remove(filepath.Join(p.dir, "trust.json")))
	stop = p.run()
	p.troubled("trust bundle 1 is older than 2")
	stop()
	change(func(st *state) { st.Bundle-- })
	p.run()
	p.enforced()
	if text := p.read(p.etc + "/taken"); text != "\n\n" {
		t.Errorf("taken up: %q", text)
	}
}

// A refusal that is too long fills neither the log nor the status.
func TestLongRefusal(t *testing.T) {
	s := newSite(t)
	p := s.post()
	p.file(wire.FormatSerials)
	s.standBetween(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.URL.Path != wire.PathRelayTrust {
			server.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", wire.ProblemType)
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, `{"detail":"no %s"}`, strings.Repeat("good, ", 100_000))
	})
	p.run()
	p.troubled("no good, good")
	if info, err := os.Stat(filepath.Join(p.dir, stateFile)); err != nil || info.Size() > 10_000 || len(p.log.String()) > 10_000 {
		t.Errorf("%d bytes in the status, %d in the log", info.Size(), len(p.log.String()))
	}
}

// Who asks for the status is no relay: neither the one that starts nor another who asks sees one.
func TestStatusIsNoRelay(t *testing.T) {
	p := newSite(t).post()
	p.file(wire.FormatSerials)
	lock := filepath.Join(p.dir, relayLock)
	f, err := os.Create(lock)
	p.must(err)
	p.must(syscall.Flock(int(f.Fd()), syscall.LOCK_SH)) // somebody asks
	if st, err := ReadStatus(p.dir, time.Now()); err != nil || st.Running {
		t.Errorf("%+v, %v", st, err)
	}
	synctest.Test(t, func(t *testing.T) { // who asks is quicker than who gives up, however busy the machine
		time.AfterFunc(200*time.Millisecond, func() { f.Close() })
		_, unlock, err := New(p.Config)
		p.must(err)
		unlock()
	})
}

// A server that says of ended lists that they have not changed opens no list that was closed: the
// program never takes up the list of before again.
func TestNotModifiedForEver(t *testing.T) {
	s := newSite(t)
	id, serial := s.device()
	s.Suspend(id)
	p := s.post()
	file := p.file(wire.FormatSerials)
	var later atomic.Int64
	p.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	p.Reload = "cat " + file + " >>" + p.etc + "/taken"
	p.run()
	p.enforced()
	later.Store(int64(8 * 24 * time.Hour))
	s.standBetween(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		server.ServeHTTP(w, r)
	})
	p.troubled("the relying party fails closed")
	write(t, p.etc+"/taken", "")
	s.mu.Lock()
	s.reports = nil
	s.mu.Unlock()
	s.server.CloseClientConnections()
	p.troubled("the relying party fails closed")
	if text := p.read(p.etc + "/taken"); strings.Contains(text, serial) {
		t.Errorf("taken up after the end: %s", text)
	}
}

// A server in other hands that names an issuer no more would have its revoked devices let in where
// files are lists of serial numbers. Only the trust bundle, which is signed, ends an issuer.
func TestIssuerIsFollowedWhileItsRootIsTrusted(t *testing.T) {
	p := newSite(t).post()
	p.file(wire.FormatSerials)
	stop := p.run()
	p.enforced()
	stop()
	r, unlock, err := New(p.Config)
	p.must(err)
	defer unlock()
	named := []string{"operational-2"}
	p.must(r.follows(named))
	if !slices.Equal(r.issuers, []string{"operational", "operational-2"}) || len(r.sources) != 2 {
		t.Errorf("followed: %q", r.issuers)
	}
	r.roots = x509.NewCertPool()
	p.must(r.follows(named))
	if !slices.Equal(r.issuers, named) || len(r.sources) != 1 || len(r.state.Issuers) > 0 {
		t.Errorf("followed, though its root was retired: %q", r.issuers)
	}
}

// Whose signature a list must have is not for the server to say.
func TestSignersAreSigned(t *testing.T) {
	s := newSite(t)
	s.standBetween(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if strings.HasPrefix(r.URL.Path, "/ca/") {
			t.Errorf("asked for %s", r.URL.Path)
		}
		server.ServeHTTP(w, r)
	})
	p := s.post()
	p.file(wire.FormatCRL)
	p.run()
	p.enforced()
}

// A server in other hands that says on the stream, which is not signed, that a revoked certificate is
// good lets nobody in.
func TestStreamLetsNobodyIn(t *testing.T) {
	s := newSite(t)
	id, serial := s.device()
	s.Suspend(id)
	var forging atomic.Bool
	s.standBetween(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.URL.Path != wire.PathChanges || !forging.Load() {
			server.ServeHTTP(w, r)
			return
		}
		fmt.Fprintf(w, "event: change\ndata: {\"number\":%d,\"issuer\":\"operational\",\"serial\":%q,\"status\":\"good\",\"expires\":\"2099-01-01T00:00:00Z\"}\n\n", s.Newest()+1, strings.ToLower(serial))
		fmt.Fprintf(w, "event: current\ndata: {\"number\":%d}\n\n", s.Newest()+1)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	p := s.post()
	file := p.file(wire.FormatSerials)
	stop := p.run()
	p.enforced()
	stop()
	forging.Store(true)
	p.run()
	p.troubled("the server's deny-list does not show the change of certificate")
	if !strings.Contains(p.read(file), serial) {
		t.Error("it is let in")
	}
	forging.Store(false)
	s.standBetween(nil)
	s.Restore(id)
	p.await("it is let in again", func() bool { return !strings.Contains(p.read(file), serial) })
}

// Nor does it have the command told so, though the forged change stands in a real one's place.
func TestStreamHasNobodyToldToLetIn(t *testing.T) {
	s := newSite(t)
	id, serial := s.device()
	other, _ := s.device()
	p := s.post()
	told := filepath.Join(p.etc, "told")
	p.Each = `echo "$HALLMARK_SERIAL $HALLMARK_STATUS" >>` + told
	s.Suspend(id)
	stop := p.run()
	p.enforced()
	stop()
	forged := s.Newest() + 1
	s.Suspend(other)
	s.standBetween(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.URL.Path != wire.PathChanges {
			server.ServeHTTP(w, r)
			return
		}
		fmt.Fprintf(w, "event: change\ndata: {\"number\":%d,\"issuer\":\"operational\",\"serial\":%q,\"status\":\"good\",\"expires\":\"2099-01-01T00:00:00Z\"}\n\n", forged, strings.ToLower(serial))
		fmt.Fprintf(w, "event: current\ndata: {\"number\":%d}\n\n", s.Newest())
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	p.run()
	p.enforced()
	if text, err := os.ReadFile(told); err == nil && strings.Contains(string(text), serial+" good") {
		t.Errorf("told: %s", text)
	}
}
