package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/relay/each"
	"github.com/hallmark-pki/hallmark/relay/fetch"
	"github.com/hallmark-pki/hallmark/relay/stream"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

// Every format shows a suspension once it is reported as enforced, and no longer shows it
// once the restoration is; the program was told in between, and each change to --each.
func TestChangesAreEnforced(t *testing.T) {
	s := newSite(t)
	id, serial := s.device()
	_, other := s.device()
	p := s.post()
	crl, serials, list, denied := p.file(wire.FormatCRL), p.file(wire.FormatSerials), p.file(wire.FormatMap), p.file(wire.FormatDenylist)
	roots := p.file(wire.FormatRoots)
	p.Reload = "echo reload >>" + p.etc + "/log"
	p.Each = `echo "$HALLMARK_STATUS $HALLMARK_DEVICE $HALLMARK_NAME $HALLMARK_SERIAL $HALLMARK_REASON" >>` + p.etc + "/log"
	p.run()
	p.enforced()
	if text := p.read(serials); strings.Contains(text, serial) {
		t.Errorf("denied before anything happened: %s", text)
	}
	if text := openssl(t, "x509", "-in", roots, "-noout", "-subject"); !strings.Contains(text, "CN = Operational root ") {
		t.Errorf("roots: %s", text)
	}
	before := p.read(denied)
	s.Suspend(id)
	p.enforced()
	if text := p.read(serials); !strings.Contains(text, "\n"+serial+"\n") || strings.Contains(text, other) {
		t.Errorf("serials: %s", text)
	}
	if text := p.read(list); !strings.Contains(text, "\n"+serial+" 1;\n") {
		t.Errorf("map: %s", text)
	}
	if p.read(denied) == before {
		t.Error("the deny-list is the old one")
	}
	if text := openssl(t, "crl", "-in", crl, "-noout", "-text"); strings.Contains(text, serial) {
		t.Error("the first list is the root's, and denies a device")
	}
	if !deniedBy(t, p.read(crl), serial) {
		t.Error("the CRLs do not show it")
	}
	want := fmt.Sprintf("reload\nreload\nhold default:%s acme-%s %s certificate-hold\n", id, id, serial)
	if text := p.read(p.etc + "/log"); text != want {
		t.Errorf("commands:\n%s\nnot\n%s", text, want)
	}
	r := p.last()
	if r.Program != "test" || r.Fail != wire.FailClosed || r.Version != "1" || strings.Join(r.Formats, " ") != "crl denylist nginx-map roots serials each" ||
		r.Until.Before(time.Now().Add(6*24*time.Hour)) {
		t.Errorf("reported: %+v", r)
	}
	s.Restore(id)
	p.enforced()
	if strings.Contains(p.read(serials), serial) || deniedBy(t, p.read(crl), serial) {
		t.Error("still denied after it was restored")
	}
	if text := p.read(p.etc + "/log"); text != want+fmt.Sprintf("reload\ngood default:%s acme-%s %s \n", id, id, serial) {
		t.Errorf("commands: %s", text)
	}
	st, err := ReadStatus(p.dir, time.Now())
	if err != nil || !st.Running || st.Problem != "" || st.Number != s.Newest() || st.Until.IsZero() {
		t.Errorf("status: %+v, %v", st, err)
	}
	if st, err = ReadStatus(p.dir, time.Now().Add(time.Hour)); !strings.Contains(st.Problem, "nothing was heard of the relay") {
		t.Errorf("an hour queued: %+v, %v", st, err)
	}
	if _, _, err := New(p.Config); err == nil || !strings.Contains(err.Error(), "another relay") {
		t.Errorf("a second relay in the folder: %v", err)
	}
	elsewhere := p.Config
	elsewhere.Dir = t.TempDir()
	if _, _, err := New(elsewhere); err == nil || !strings.Contains(err.Error(), "another relay writes "+crl) {
		t.Errorf("a second relay on the files: %v", err)
	}
}

// deniedBy asks an independent reader of CRLs.
func deniedBy(t *testing.T, text, serial string) bool {
	t.Helper()
	for block := range strings.SplitAfterSeq(text, "-----END X509 CRL-----\n") {
		if strings.TrimSpace(block) == "" {
			continue
		}
		file := filepath.Join(t.TempDir(), "one")
		if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(openssl(t, "crl", "-in", file, "-noout", "-text"), "Serial Number: "+serial) {
			return true
		}
	}
	return false
}

// Changes in quick succession must not confuse: a list that is fetched for one of them
// shows the next already.
func TestChangesOvertakeEachOther(t *testing.T) {
	s := newSite(t)
	a, _ := s.device()
	b, second := s.device()
	p := s.post()
	crl := p.file(wire.FormatCRL)
	p.run()
	p.enforced()
	for range 5 {
		s.Suspend(a)
		s.Suspend(b)
		s.Restore(a)
	}
	p.enforced()
	if text := p.log.String(); strings.Contains(text, "not all is enforced") {
		t.Error(text)
	}
	if !deniedBy(t, p.read(crl), second) {
		t.Error("the second device is not denied")
	}
}

// A program that does not take up its files keeps those that it took up last, and is told
// again; each change is told to --each in its order.
func TestReloadFails(t *testing.T) {
	s := newSite(t)
	id, serial := s.device()
	p := s.post()
	serials := p.file(wire.FormatSerials)
	p.Reload = "echo no good >&2; test ! -e " + p.etc + "/broken"
	p.Each = `echo "$HALLMARK_STATUS" >>` + p.etc + "/each"
	p.run()
	p.enforced()
	before, was := p.read(serials), p.last().Number
	write(t, p.etc+"/broken", "")
	s.Suspend(id)
	p.troubled("the reload failed")
	if r := p.last(); r.Number != was || !strings.Contains(r.Problem, "no good") || !strings.Contains(r.Problem, "the last good files stay") {
		t.Errorf("reported: %+v", r)
	}
	if p.read(serials) != before {
		t.Error("the last good file did not come back")
	}
	st, err := ReadStatus(p.dir, time.Now())
	if err != nil || !strings.Contains(st.Problem, "the reload failed") || !st.Behind {
		t.Errorf("status: %+v, %v", st, err)
	}
	s.Restore(id)
	s.Suspend(id)
	if err := os.Remove(p.etc + "/broken"); err != nil {
		t.Fatal(err)
	}
	p.enforced()
	if !strings.Contains(p.read(serials), serial) {
		t.Error("not denied after the repair")
	}
	if text := p.read(p.etc + "/each"); !strings.HasSuffix(text, "hold\n") {
		t.Errorf("each: %q", text)
	}
}

// A command that hangs is ended, with what it started, and said.
func TestCommandHangs(t *testing.T) {
	s := newSite(t)
	p := s.post()
	p.file(wire.FormatSerials)
	p.Reload, p.Timeout = "sleep 1000 & echo $! >"+p.etc+"/pid; wait", 3*time.Second
	p.run()
	var pid string
	p.await("the command comes so far within its time", func() bool { // it is tried again
		text, _ := os.ReadFile(p.etc + "/pid")
		pid = strings.TrimSpace(string(text))
		return pid != ""
	})
	p.troubled("took more than 3s")
	p.await("the command's child ended", func() bool {
		text, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || strings.Contains(string(text), ") Z ")
	})
}

// A device for which the command for each change fails is said to be so, and tried again, in
// the order of its changes; it holds up nobody else, whatever happens to them, and is not
// forgotten when the relay starts anew.
func TestEachFails(t *testing.T) {
	s := newSite(t)
	var ids []string
	for range 3 {
		id, _ := s.device()
		ids = append(ids, id)
	}
	p := s.post()
	p.Each = `echo "$HALLMARK_DEVICE $HALLMARK_STATUS" >>` + p.etc + `/each; test "$HALLMARK_DEVICE" != default:` + ids[1] + ` -o -e ` + p.etc + `/repaired`
	stop := p.run()
	p.enforced()
	for _, id := range ids {
		s.Suspend(id)
	}
	count := func(n int, status string) int {
		text, _ := os.ReadFile(p.etc + "/each")
		return strings.Count(string(text), "default:"+ids[n]+" "+status)
	}
	fails := func(times int64) wire.RelayFailure {
		t.Helper()
		newest := s.Newest()
		p.await("what fails is reported, and the rest as enforced", func() bool {
			r := p.last()
			return r.Number == newest && len(r.Failing) == 1 && r.Failing[0].Times >= times && strings.Contains(r.Problem, "the command fails for default:"+ids[1]+" since ")
		})
		return p.last().Failing[0]
	}
	first := fails(1)
	if first.Device != "default:"+ids[1] || first.Since.IsZero() || count(0, "hold") != 1 || count(2, "hold") != 1 {
		t.Errorf("reported: %+v; each: %q", first, p.read(p.etc+"/each"))
	}
	s.Restore(ids[1])
	s.Restore(ids[0])
	if again := fails(first.Times); again.Change != first.Change || !again.Since.Equal(first.Since) || count(0, "good") != 1 || count(1, "good") != 0 {
		t.Errorf("reported: %+v, before %+v; each: %q", again, first, p.read(p.etc+"/each"))
	}
	p.await("it is tried again", func() bool {
		st, err := ReadStatus(p.dir, time.Now())
		return err == nil && len(st.Failing) == 1 && st.Failing[0].Times > 2
	})
	stop()
	st, err := ReadStatus(p.dir, time.Now())
	if err != nil || len(st.Failing) != 1 || count(1, "hold") < 3 || !strings.Contains(st.Problem, "the command fails for") {
		t.Errorf("status: %+v, %v", st, err)
	}
	p.run()
	fails(3)
	write(t, p.etc+"/repaired", "")
	p.enforced()
	p.await("nothing fails", func() bool { return len(p.last().Failing) == 0 })
	if text := p.read(p.etc + "/each"); count(0, "hold") != 1 || count(2, "hold") != 1 || count(1, "good") != 1 || !strings.HasSuffix(text, "default:"+ids[1]+" hold\ndefault:"+ids[1]+" good\n") {
		t.Errorf("each: %q", text)
	}
}

// While the command hangs for one device, for the first time or again, others do not wait for it.
func TestEachHangs(t *testing.T) {
	s := newSite(t)
	bad, _ := s.device()
	p := s.post()
	serials := p.file(wire.FormatSerials)
	p.Each, p.Timeout = `echo "$HALLMARK_DEVICE" >>`+p.etc+`/each; test "$HALLMARK_DEVICE" != default:`+bad+` || sleep 1000`, 5*time.Minute
	stop := p.run()
	p.enforced()
	write(t, p.etc+"/each", "")
	tries := func() int { return strings.Count(p.read(p.etc+"/each"), bad) }
	others := func(tried func()) {
		t.Helper()
		before := tries()
		tried()
		p.await("it is tried", func() bool { return tries() > before })
		id, serial := s.device()
		s.Suspend(id)
		began, newest := time.Now(), s.Newest()
		p.await("the other's change is enforced", func() bool { return p.last().Number == newest })
		if took := time.Since(began); took > p.Timeout/2 {
			t.Errorf("it took %v", took)
		}
		if f := p.last().Failing; len(f) != 1 || f[0].Device != "default:"+bad {
			t.Errorf("failing: %+v", f)
		}
		if !strings.Contains(p.read(serials), serial) {
			t.Error("it is not in the file")
		}
	}
	others(func() { s.Suspend(bad) })
	stop()
	others(func() { p.run() })
}

// What comes while commands run is in the files before they are through.
func TestFilesComeBeforeCommands(t *testing.T) {
	s := newSite(t)
	var ids []string
	for range 10 {
		id, _ := s.device()
		ids = append(ids, id)
	}
	last, serial := s.device()
	p := s.post()
	serials := p.file(wire.FormatSerials)
	begun, goOn := p.etc+"/begun", p.etc+"/go-on"
	p.Each, p.Timeout = ": >"+begun+"; until test -e "+goOn+`; do sleep 0.1; done; echo "$HALLMARK_DEVICE" >>`+p.etc+"/each", 5*time.Minute
	p.run()
	p.enforced()
	for _, id := range ids {
		s.Suspend(id)
	}
	p.await("the first command runs", func() bool { _, err := os.Stat(begun); return err == nil })
	s.Suspend(last)
	p.await("the last is in the file", func() bool { return strings.Contains(p.read(serials), serial) })
	if text, err := os.ReadFile(p.etc + "/each"); err == nil {
		t.Errorf("each: %q", text)
	}
	write(t, goOn, "")
	p.enforced()
	for _, id := range append(ids, last) {
		if text := p.read(p.etc + "/each"); strings.Count(text, "default:"+id+"\n") != 1 {
			t.Errorf("%s in each: %q", id, text)
		}
	}
}

// What comes ends a try, unless it could not be taken up: then what waits must become less.
func TestEachIsEnded(t *testing.T) {
	p := newSite(t).post()
	p.Each = "true"
	r, unlock, err := New(p.Config)
	p.must(err)
	defer unlock()
	for _, failing := range []int{wire.MaxRelayFailing - 1, wire.MaxRelayFailing} {
		r.state.Failing, r.events, r.queued = nil, make(chan stream.Event, 1), nil
		for n := range failing {
			c := wire.Change{Number: int64(n + 1), Device: fmt.Sprint("default:", n), Status: wire.StatusHold, Expires: time.Now().Add(time.Hour)}
			r.state.Failing = append(r.state.Failing, each.Failing{RelayFailure: wire.RelayFailure{Device: c.Device}, Changes: []wire.Change{c}})
		}
		r.events <- stream.Event{Number: 1000, Change: &wire.Change{Number: 1000}}
		p.must(r.again(t.Context()))
		if full := failing == wire.MaxRelayFailing; full != (len(r.state.Failing) == 0) || full == (len(r.queued) == 1) {
			t.Errorf("of %d that failed, %d wait; %d changes came", failing, len(r.state.Failing), len(r.queued))
		}
	}
}

// Where it is always time to try again, lists are still asked for, and the server hears of it.
func TestEachLeavesTimeForLists(t *testing.T) {
	r := &Relay{Config: Config{Now: time.Now}}
	r.state.Failing = make([]each.Failing, 1)
	if <-r.due(time.Now()); r.due(time.Now().Add(-pollEvery)) != nil {
		t.Error("it is tried before lists are asked for")
	}
}

// What a relay keeps of those that fail has a bound: beyond it nothing newer is enforced, until
// the command is mended.
func TestEachFailsForAll(t *testing.T) {
	s := newSite(t)
	p := s.post()
	p.Each = "test -e " + p.etc + "/repaired"
	p.run()
	p.enforced()
	var ids []string
	for range wire.MaxRelayFailing + 2 {
		id, _ := s.device()
		ids = append(ids, id)
	}
	for _, id := range ids {
		s.Suspend(id)
	}
	p.troubled("nothing newer is enforced")
	if r := p.last(); r.Number >= s.Newest() || len(r.Failing) != wire.MaxRelayFailing {
		t.Errorf("reported: change %d of %d, %d fail", r.Number, s.Newest(), len(r.Failing))
	}
	write(t, p.etc+"/repaired", "")
	p.enforced()
}

// What a command holds in its words or its environment stays here: problems go to the server.
func TestCommandKeepsSecrets(t *testing.T) {
	s := newSite(t)
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "systemd"))
	p := s.post()
	p.file(wire.FormatSerials)
	p.Reload = "sleep 1000 & : token=hunter2; echo notify=$NOTIFY_SOCKET. >&2; kill $!; exit 7"
	p.run()
	p.troubled("exit status 7: notify=.")
	if problem := p.last().Problem; strings.Contains(problem, "hunter2") {
		t.Error(problem)
	}
}

// A reload that leaves its program running, on the relay's own output, has worked.
func TestReloadLeavesSomething(t *testing.T) {
	s := newSite(t)
	p := s.post()
	p.file(wire.FormatSerials)
	p.Reload = "sleep 1000 & echo $! >>" + p.etc + "/pid"
	p.run()
	p.enforced()
	for _, pid := range strings.Fields(p.read(p.etc + "/pid")) {
		n, err := strconv.Atoi(pid)
		p.must(err)
		p.must(syscall.Kill(n, syscall.SIGKILL))
	}
}

// A relay that comes back tells --each what happened meanwhile, and not what it was told
// before.
func TestResumes(t *testing.T) {
	s := newSite(t)
	a, _ := s.device()
	b, _ := s.device()
	p := s.post()
	p.Each = `echo "$HALLMARK_DEVICE" >>` + p.etc + `/each`
	stop := p.run()
	p.enforced()
	s.Suspend(a)
	p.enforced()
	stop()
	s.Suspend(b)
	p.run()
	p.enforced()
	if text, want := p.read(p.etc+"/each"), "default:"+a+"\ndefault:"+b+"\n"; text != want {
		t.Errorf("each: %q, not %q", text, want)
	}
}

// A relay that is killed in the middle of many commands does not begin again with the first: of so many
// changes the feed may not tell it any more.
func TestResumesInTheMiddle(t *testing.T) {
	s := newSite(t)
	var ids []string
	for range 40 {
		id, _ := s.device()
		ids = append(ids, id)
	}
	p := s.post()
	p.Each = `sleep 0.1; echo >>` + p.etc + `/each`
	stop := p.run()
	p.enforced()
	stop()
	before := s.Newest()
	for _, id := range ids {
		s.Suspend(id)
	}
	stop = p.run()
	p.await("half is told", func() bool { text, _ := os.ReadFile(p.etc + "/each"); return len(text) >= len(ids)/2 })
	stop() // which writes as little as a kill
	st, err := readState(p.dir)
	p.must(err)
	if st.Told < before+5 || st.Number != before {
		t.Errorf("told up to %d, enforced up to %d of %d before", st.Told, st.Number, before)
	}
	p.run()
	p.enforced()
}

// A stream that does not reach back that far is no reason to stand still.
func TestFeedGone(t *testing.T) {
	s := newSite(t)
	a, first := s.device()
	b, second := s.device()
	p := s.post()
	serials := p.file(wire.FormatSerials)
	p.Each = `echo "$HALLMARK_DEVICE" >>` + p.etc + `/each`
	stop := p.run()
	p.enforced()
	from := s.Newest()
	stop()
	s.Suspend(a)
	s.standBetween(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == wire.PathChanges && r.URL.Query().Get("after") == fmt.Sprint(from) {
			w.Header().Set("Content-Type", wire.ProblemType)
			w.WriteHeader(http.StatusGone)
			fmt.Fprintf(w, `{"code":%q,"detail":"the stream does not go on"}`, wire.CodeFeedGone)
			return
		}
		next.ServeHTTP(w, r)
	})
	p.run()
	p.await("the relay went on", func() bool { return p.last().Number == s.Newest() })
	s.Suspend(b)
	p.enforced()
	if text := p.read(serials); !strings.Contains(text, first) || !strings.Contains(text, second) {
		t.Errorf("serials: %s", text)
	}
	if text := p.read(p.etc + "/each"); text != "default:"+b+"\n" {
		t.Errorf("each: %q", text)
	}
	if !strings.Contains(p.log.String(), "the command is not run for changes") {
		t.Error("it was not said")
	}
}

// What was not signed for, what is of long ago and what has ended reaches no file, and
// the relay says so and goes on once it is right again.
func TestForgeries(t *testing.T) {
	flip := func(body string) string { b := []byte(body); b[len(b)-9] ^= 1; return string(b) }
	for _, c := range []struct {
		name, format, path string
		change             func(old, new string) string
		says               string
	}{
		{"deny-list not signed", wire.FormatSerials, wire.PathFeed + "/operational", func(_, new string) string { return flip(new) }, "signature is wrong"},
		{"old deny-list", wire.FormatSerials, wire.PathFeed + "/operational", func(old, _ string) string { return old }, "before the one that is known"},
		{"filter not signed", wire.FormatFilter, wire.PathFeed + "/operational/filter", func(_, new string) string { return flip(new) }, "signature is wrong"},
		{"deny-list for filter", wire.FormatFilter, wire.PathFeed + "/operational/filter", func(_, _ string) string { return "hallmark-denylist-1\n" }, "not a document"},
		{"old CRLs", wire.FormatCRL, "/crl/operational.pem", func(old, _ string) string { return old }, "somebody in between repeats old answers"},
		{"no CRLs", wire.FormatCRL, "/crl/operational.pem", func(_, _ string) string { return "" }, "there is none in the answer"},
		{"CRL that is none", wire.FormatCRL, "/crl/operational.pem", func(_, _ string) string { return "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n" }, "CRLs of operational"},
		{"another issuer's", wire.FormatCRL, "/crl/operational.pem", func(_, _ string) string { return newSite(t).get("/crl/operational.pem") }, "not signed by its issuer"},
		{"trust bundle", wire.FormatCRL, wire.PathRelayTrust, func(_, new string) string { return strings.Replace(new, `"bundle":"ey`, `"bundle":"ez`, 1) }, "trust bundle"},
		{"no issuers", wire.FormatCRL, wire.PathRelayTrust, func(_, new string) string { return strings.Replace(new, `["operational"]`, `[]`, 1) }, "names no issuers"},
		{"an issuer's name", wire.FormatCRL, wire.PathRelayTrust, func(_, new string) string { return strings.Replace(new, `["operational"]`, `["../x"]`, 1) }, "not an issuer's name"},
		{"too long", wire.FormatCRL, wire.PathRelayTrust, func(_, new string) string { return new + strings.Repeat("x", fetch.MaxSmall) }, "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			id, serial := s.device()
			p := s.post()
			file := p.file(c.format)
			old := s.get(c.path)
			if c.format != wire.FormatFilter { // which would be made anew in a minute
				s.Suspend(id)
				p.await("the server's new list", func() bool { return c.format != wire.FormatSerials || s.get(c.path) != old })
			}
			stop := p.run()
			p.await("the relay works", func() bool { return p.last().Number >= 0 })
			stop()
			good := p.read(file)
			if c.format != wire.FormatFilter {
				s.Restore(id)
			}
			s.standBetween(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path != c.path {
					next.ServeHTTP(w, r)
					return
				}
				r.Header.Del("If-None-Match")
				answer := httptest.NewRecorder()
				next.ServeHTTP(answer, r)
				w.WriteHeader(answer.Code)
				io.WriteString(w, c.change(old, answer.Body.String()))
			})
			p.run()
			p.troubled(c.says)
			if p.read(file) != good {
				t.Error("the forgery reached the file, or the good one is gone")
			}
			s.standBetween(nil)
			if c.format == wire.FormatFilter {
				p.await("the forger's absence is felt", func() bool { return p.last().Problem == "" })
				return
			}
			p.enforced()
			if p.read(file) == good || strings.Contains(p.read(file), serial) {
				t.Error("not restored after the forger has gone")
			}
		})
	}
}

// What happens when Hallmark is away: an alarm at half of the life, and at the end what
// was chosen.
func TestHallmarkIsAway(t *testing.T) {
	for _, fail := range []string{wire.FailOpen, wire.FailClosed} {
		t.Run(fail, func(t *testing.T) {
			s := newSite(t)
			id, serial := s.device()
			s.Suspend(id)
			p := s.post()
			serials, list := p.file(wire.FormatSerials), p.file(wire.FormatMap)
			p.Fail, p.Reload = fail, "echo >>"+p.etc+"/reloads"
			stop := p.run()
			p.enforced()
			stop()
			// The relay still reports, so that the test hears it; nothing else answers.
			s.standBetween(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == wire.PathRelayReport {
					next.ServeHTTP(w, r)
					return
				}
				http.Error(w, "away", http.StatusBadGateway)
			})
			later := func(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }
			p.Now = later(3 * 24 * time.Hour)
			stop = p.run()
			p.troubled("502")
			if strings.Contains(p.last().Problem, "half") {
				t.Errorf("an alarm too early: %s", p.last().Problem)
			}
			stop()
			p.Now = later(4 * 24 * time.Hour)
			stop = p.run()
			p.troubled("half the life of the lists has passed")
			stop()
			if st, err := ReadStatus(p.dir, p.Now()); err != nil || !strings.Contains(st.Problem, "half the life") {
				t.Errorf("status: %+v, %v", st, err)
			}
			if !strings.Contains(p.read(serials), "\n"+serial+"\n") {
				t.Error("the list went before its end")
			}
			p.Now = later(8 * 24 * time.Hour)
			stop = p.run()
			p.troubled("the relying party fails " + fail)
			open := strings.Contains(p.read(serials), "\n"+serial+"\n")
			closed := strings.Contains(p.read(serials), "\n0\n1\n2\n3\n4\n5\n6\n7\n") && strings.Contains(p.read(list), "\ndefault 1;\n")
			if open != (fail == wire.FailOpen) || closed != (fail == wire.FailClosed) {
				t.Errorf("open %v, closed %v: %s", open, closed, p.read(serials))
			}
			if want := map[string]int{wire.FailOpen: 1, wire.FailClosed: 2}[fail]; strings.Count(p.read(p.etc+"/reloads"), "\n") != want {
				t.Errorf("reloads: %q", p.read(p.etc+"/reloads"))
			}
			stop()
			// It says it once, and not at every attempt.
			if n := strings.Count(p.log.String(), "the relying party fails "+fail); n != 1 {
				t.Errorf("said %d times", n)
			}
			s.standBetween(nil)
			p.Now = time.Now
			p.run()
			p.enforced()
			if !strings.Contains(p.read(serials), "\n"+serial+"\n") || strings.Contains(p.read(list), "default") {
				t.Errorf("with contact again: %s", p.read(serials))
			}
		})
	}
}

// A CRL that a cache repeats beyond its end is refused; the alarm says what is the matter.
func TestListsOfLongAgo(t *testing.T) {
	s := newSite(t)
	p := s.post()
	crl := p.file(wire.FormatCRL)
	stop := p.run()
	p.enforced()
	stop()
	before := p.read(crl)
	p.Now = func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
	p.run()
	p.troubled("somebody in between repeats old answers, or the clock here is wrong")
	if p.read(crl) != before {
		t.Error("the file changed")
	}
}

func TestCheckConfig(t *testing.T) {
	good := Config{Files: []File{{wire.FormatSerials, "/a"}}, Fail: wire.FailOpen}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for says, change := range map[string]func(*Config){
		"there is no format":             func(c *Config) { c.Files[0].Format = "pem" },
		"name is missing":                func(c *Config) { c.Files[0].Path = "" },
		"written twice":                  func(c *Config) { c.Files = append(c.Files, File{wire.FormatMap, "/x/../a"}) },
		"cannot fail open":               func(c *Config) { c.Files[0].Format = wire.FormatCRL },
		"nothing to do":                  func(c *Config) { c.Files = nil },
		"fail closed (nobody is let in)": func(c *Config) { c.Fail = "" },
	} {
		c := good
		c.Files = append([]File(nil), good.Files...)
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A filter, which the server makes once a minute, holds nothing else back; what is reported
// as enforced is what all files show.
func TestFilterLagsBehind(t *testing.T) {
	s := newSite(t)
	id, serial := s.device()
	p := s.post()
	serials, crl := p.file(wire.FormatSerials), p.file(wire.FormatCRL)
	p.file(wire.FormatFilter)
	p.run()
	p.enforced()
	was := p.last().Number
	s.Suspend(id)
	p.await("the other files show it", func() bool { return strings.Contains(p.read(serials), serial) && deniedBy(t, p.read(crl), serial) })
	if r := p.last(); r.Number != was || r.Problem != "" {
		t.Errorf("reported: %+v", r)
	}
}

// Once an issuer is followed no more, the file of its successor changes places. The one that
// is left behind would deny who was restored since, and everybody from its end on.
func TestFilesOfIssuersNoLongerFollowed(t *testing.T) {
	s := newSite(t)
	p := s.post()
	list := p.file(wire.FormatDenylist)
	stale, others := list+".operational-2", list+".operational-notes"
	write(t, stale, "stale")
	write(t, others, "ours")
	p.Reload = "echo no such unit; echo look at the journal; exit 1"
	stop := p.run()
	p.troubled("the reload failed: exit status 1: no such unit; look at the journal; the last good files stay")
	if p.read(stale) != "stale" {
		t.Error("the program has not taken the removal up, and it stands")
	}
	stop()
	p.Reload = "test ! -e " + stale
	p.run()
	p.enforced()
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) || p.read(others) != "ours" || !strings.HasPrefix(p.read(list), "hallmark") {
		t.Errorf("the stale file: %v; the list: %.20q", err, p.read(list))
	}
}

// What waits from before the server was restored, and the feed does not know, is reported no
// more: the server refuses a report of what has not happened.
func TestFailsFromBefore(t *testing.T) {
	s := newSite(t)
	p := s.post()
	p.Each = "false"
	stop := p.run()
	p.enforced()
	stop()
	st, err := readState(p.dir)
	p.must(err)
	gone := wire.Change{Number: s.Newest() + 2, Device: "default:gone", Status: wire.StatusHold, Expires: time.Now().Add(time.Hour)}
	st.Told = gone.Number
	st.Failing = []each.Failing{{RelayFailure: wire.RelayFailure{Device: gone.Device, Change: gone.Number, Since: time.Now(), Times: 1}, Changes: []wire.Change{gone}}}
	p.must(writeState(p.dir, st))
	s.standBetween(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == wire.PathRelayReport {
			body, err := io.ReadAll(r.Body)
			if err != nil || bytes.Contains(body, []byte(gone.Device)) {
				http.Error(w, "not in the feed", http.StatusBadRequest)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		next.ServeHTTP(w, r)
	})
	s.mu.Lock()
	s.reports = nil
	s.mu.Unlock()
	p.run()
	p.enforced()
}

// The files of later issuers come back as well if the program does not take up what is new, also
// after the relay was started anew.
func TestFilesBesideComeBack(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	second := list + ".operational-2"
	write(t, list, "good")
	write(t, second, "good")
	r, unlock, err := New(Config{Dir: t.TempDir(), Files: []File{{wire.FormatDenylist, list}}, Reload: "false", Fail: wire.FailClosed})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := r.install(t.Context(), map[string][]byte{list: []byte("new"), second: []byte("new")}, nil); err == nil {
		t.Error("the reload has not failed")
	}
	for _, path := range []string{list, second} {
		if text, err := os.ReadFile(path); err != nil || string(text) != "good" {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
}

// What is to be written is not stale, be it empty.
func TestEmptyIsNotStale(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	second, third := list+".operational-2", list+".operational-3"
	write(t, second, "")
	write(t, third, "")
	r := &Relay{Config: Config{Files: []File{{wire.FormatDenylist, list}}}}
	if got := r.stale(map[string][]byte{list: nil, second: nil}); !slices.Equal(got, []string{third}) {
		t.Errorf("stale: %q", got)
	}
}

// A filter of before the last one is refused, also by a relay that was started meanwhile.
func TestFilterOfBefore(t *testing.T) {
	s := newSite(t)
	p := s.post()
	filter := p.file(wire.FormatFilter)
	stop := p.run()
	p.enforced()
	stop()
	last := p.read(filter)
	made, err := denylist.OpenFilter([]byte(last), s.roots, time.Now())
	p.must(err)
	p.must(os.Remove(filter)) // what is trusted does not depend on what others may change
	state, err := readState(p.dir)
	p.must(err)
	path := wire.PathFeed + "/operational/filter"
	state.Made[path] = made.Time.Add(time.Minute) // the filter of a minute later had come
	p.must(writeState(p.dir, state))
	p.run()
	p.troubled("before the one that is known here")
}

// A change of an issuer that the relay has not heard of is not enforced before it has.
func TestChangeOfANewIssuer(t *testing.T) {
	s := newSite(t)
	id, serial := s.device()
	p := s.post()
	serials := p.file(wire.FormatSerials)
	var streams atomic.Int64
	s.standBetween(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.URL.Path == wire.PathChanges && streams.Add(1) == 1 {
			w = &renamed{w}
		}
		server.ServeHTTP(w, r)
	})
	p.run()
	p.enforced()
	p.await("a stream", func() bool { return streams.Load() == 1 })
	s.Suspend(id)
	p.enforced()
	if !strings.Contains(p.read(serials), serial) {
		t.Error("reported as enforced, and not in the file")
	}
	if streams.Load() != 2 {
		t.Errorf("%d streams", streams.Load())
	}
}

// renamed tells of another issuer.
type renamed struct{ http.ResponseWriter }

func (w *renamed) Write(b []byte) (int, error) {
	_, err := w.ResponseWriter.Write(bytes.ReplaceAll(b, []byte(`"issuer":"operational"`), []byte(`"issuer":"operational-2"`)))
	return len(b), err
}

func (w *renamed) Unwrap() http.ResponseWriter { return w.ResponseWriter }
