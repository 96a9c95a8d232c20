package relay

import (
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
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
