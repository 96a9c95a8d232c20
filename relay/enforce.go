package relay

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/relay/disk"
	"github.com/hallmark-pki/hallmark/relay/fetch"
	"github.com/hallmark-pki/hallmark/relay/stream"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

// enforce writes what is known into the files, has the program take it up and reports that. If
// nothing changed, or everything is due again, it does nothing; with always it asks for signed lists
// even then.
func (r *Relay) enforce(ctx context.Context, always bool) error {
	if !always && (r.fetched.IsZero() || r.seen == r.state.Number && len(r.pending) == 0 && !r.state.Behind) {
		return nil
	}
	target, err := r.collect(ctx, always)
	if err != nil {
		return err
	}
	// A change that lets in what a signed list denies is false, or was followed by another denial.
	r.pending = slices.DeleteFunc(r.pending, func(c wire.Change) bool { return !c.Denied() && r.sources[c.Issuer].denied[serialOf(c)] })
	contents := map[string][]byte{}
	for _, f := range r.Files {
		maps.Copy(contents, r.contents(f))
	}
	if err := r.install(ctx, contents, r.stale(contents)); err != nil {
		return err
	}
	if r.Each != "" {
		if err := r.tell(ctx); err != nil {
			return err
		}
		target = min(target, r.state.Enforced())
	} else {
		r.pending = nil
	}
	if r.state.Told < r.owed {
		return nil
	}
	if r.state.Number != target {
		r.state.Number, r.state.Since = target, r.Now()
	}
	r.state.Contact, r.state.Closed = r.Now(), false
	r.state.Until, r.state.Half = r.lives()
	r.problem(and(r.expire(ctx), r.state.State.Problem()))
	r.tellReady()
	return r.report(ctx)
}

// settle is how long a signed list may lag behind the change that it must show.
const settle = 10 * time.Second

// collect fetches the signed lists that files are made of, until they show every pending change, and
// returns the number that they all show. With always it asks for every list, else for those of
// issuers with pending changes.
func (r *Relay) collect(ctx context.Context, always bool) (target int64, err error) {
	target = r.seen
	for deadline := time.Now().Add(settle); ; {
		missing := ""
		for name, s := range r.sources {
			if !always && !slices.ContainsFunc(r.pending, func(c wire.Change) bool { return c.Issuer == name }) {
				continue
			}
			m, err := r.confirmLifts(ctx, name, s)
			if err != nil {
				return 0, err
			}
			missing = cmp.Or(m, missing)
			for _, format := range r.formats() {
				get := map[string]func(context.Context, string, *source) (document, error){
					wire.FormatCRL: r.crls, wire.FormatDenylist: r.denyList, wire.FormatFilter: r.filter}[format]
				if get == nil {
					continue
				}
				d, err := get(ctx, name, s)
				if err != nil {
					return 0, fmt.Errorf("%s of %s: %w", format, name, err)
				}
				if format == wire.FormatFilter {
					target = min(target, d.number) // made once a minute: nothing waits for it
				} else if m := r.missing(d, name, s); m != "" {
					missing = "the server's " + format + " does not show the change of " + m + " yet"
				}
			}
		}
		if missing == "" {
			return target, nil
		}
		if time.Now().After(deadline) {
			return 0, errors.New(missing)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case e := <-r.events:
			r.queued = stream.Add(r.queued, e)
			r.drain()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lives returns when the first list ends, and when half the life of one has passed.
func (r *Relay) lives() (until, half time.Time) {
	for _, s := range r.sources {
		until, half = sooner(until, half, s.made, s.until)
		for _, d := range s.documents {
			until, half = sooner(until, half, d.made, d.until)
		}
	}
	return until, half
}

// sooner takes the earlier end, and the earlier half of a life.
func sooner(until, half, made, end time.Time) (time.Time, time.Time) {
	if end.IsZero() {
		return until, half
	}
	if until.IsZero() || end.Before(until) {
		until = end
	}
	if middle := made.Add(end.Sub(made) / 2); half.IsZero() || middle.Before(half) {
		half = middle
	}
	return until, half
}

// missing names a certificate whose change a document should show and does not; empty if there is
// none. A list may be newer than what is being enforced, so what has a queued change is passed over.
func (r *Relay) missing(d document, issuer string, s *source) string {
	later := map[denylist.Serial]bool{}
	for _, e := range r.queued {
		if e.Change != nil {
			later[serialOf(*e.Change)] = true
		}
	}
	for _, c := range r.pending {
		x := serialOf(c)
		switch {
		case c.Issuer != issuer || later[x] || c.Expires.Before(r.Now()): // what has expired is on no list
		case d.number >= 0 && d.number < c.Number, d.number < 0 && d.denied[x] != s.denied[x]:
			return "certificate " + c.Serial
		}
	}
	if d.number >= 0 {
		return ""
	}
	for x := range s.denied {
		if !later[x] && !d.denied[x] {
			return "certificate " + x.String()
		}
	}
	return ""
}

// formats are those that are written, once each.
func (r *Relay) formats() (all []string) {
	for _, f := range r.Files {
		all = append(all, f.Format)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// contents is what a file shall hold. A deny-list and a filter are of one issuer: those of further
// issuers get files beside it, FILE.ISSUER.
func (r *Relay) contents(f File) map[string][]byte {
	out := map[string][]byte{}
	if f.Format == wire.FormatRoots {
		out[f.Path] = r.trusted
		return out
	}
	var serials []string
	for n, name := range r.issuers {
		s := r.sources[name]
		switch f.Format {
		case wire.FormatCRL:
			out[f.Path] = append(out[f.Path], s.documents[pathCRL+name+".pem"].body...)
		case wire.FormatDenylist, wire.FormatFilter:
			path, document := f.Path, wire.PathFeed+"/"+name
			if n > 0 {
				path += "." + name
			}
			if f.Format == wire.FormatFilter {
				document += "/filter"
			}
			out[path] = s.documents[document].body
		default:
			for serial := range s.denied {
				serials = append(serials, strings.ToUpper(serial.String()))
			}
		}
	}
	if f.Format == wire.FormatSerials || f.Format == wire.FormatMap {
		slices.Sort(serials)
		out[f.Path] = lines(f.Format, slices.Compact(serials))
	}
	return out
}

// stale are the files of issuers that are no longer followed. Nobody keeps them fresh: a reader would
// refuse devices that are good, and everybody once such a file has ended.
func (r *Relay) stale(contents map[string][]byte) (paths []string) {
	for _, f := range r.Files {
		if f.Format == wire.FormatDenylist || f.Format == wire.FormatFilter {
			paths = append(paths, disk.Beside(f.Path)...)
		}
	}
	return slices.DeleteFunc(paths, func(path string) bool { _, wanted := contents[path]; return wanted })
}

// lines writes serial numbers as OpenSSL, nginx and haproxy print them: upper-case hex.
func lines(format string, serials []string) []byte {
	var b bytes.Buffer
	b.WriteString("# Denied certificates by serial number. Written by hallmark relay.\n")
	end := "\n"
	if format == wire.FormatMap {
		end = " 1;\n"
	}
	for _, s := range serials {
		b.WriteString(s)
		b.WriteString(end)
	}
	return b.Bytes()
}

// everybody denies every certificate: nginx's map by its default, a list of prefixes by all first
// digits, which are below 8 since serial numbers are positive.
func everybody(format string) []byte {
	if format == wire.FormatMap {
		return []byte("# The lists have ended: nobody is let in. Written by hallmark relay.\ndefault 1;\n")
	}
	return lines(format, []string{"0", "1", "2", "3", "4", "5", "6", "7"})
}

// install puts contents in place. If the program does not take them up, the files that it last took
// up are put back, since it may be restarted meanwhile.
func (r *Relay) install(ctx context.Context, contents map[string][]byte, stale []string) error {
	before, err := r.replace(ctx, contents, stale)
	if err != nil {
		return fmt.Errorf("%w; the last good files stay", errors.Join(err, r.restore(before)))
	}
	return nil
}

// replace replaces the files that change, removes the stale ones, and has the program take that up.
// Before is what the program has of the files that change.
func (r *Relay) replace(ctx context.Context, contents map[string][]byte, stale []string) (before map[string][]byte, err error) {
	before = map[string][]byte{}
	for _, path := range stale {
		before[path], _ = disk.Read(path) // if it cannot be read it is removed for good
	}
	for path, text := range contents {
		old := r.installed[path]
		if !bytes.Equal(old, text) || !disk.Holds(path, text) { // somebody may have put back an old one
			before[path] = old
		}
	}
	if len(before) == 0 && !r.state.Behind {
		return nil, nil
	}
	// A relay that is killed before the program took the files up must not think later that it did.
	// If this folder is full, which problem says, files on another disk still get revocations.
	r.state.Behind = true
	_ = writeState(r.Dir, r.state)
	for path := range before {
		if text, wanted := contents[path]; wanted {
			if err := disk.Replace(path, text); err != nil {
				return before, err
			}
		}
	}
	for _, path := range stale { // only now that others hold what it said
		if err := os.Remove(path); err != nil {
			return before, err
		}
	}
	if r.Reload != "" {
		if err := r.command(ctx, r.Reload, nil); err != nil {
			return before, fmt.Errorf("the reload failed: %w", err)
		}
	}
	r.state.Behind = false
	for path := range before {
		r.installed[path] = contents[path] // nil of one that was removed
	}
	return before, nil
}

// restore puts files back as they were; a file that was not there stays.
func (r *Relay) restore(files map[string][]byte) error {
	var failed error
	for path, text := range files {
		if text != nil && !disk.Holds(path, text) {
			failed = errors.Join(failed, disk.Replace(path, text))
		}
	}
	return failed
}

// expire says when half the life of the lists has passed, and acts when they have ended: with fail
// closed, formats without an end of their own then deny everybody.
func (r *Relay) expire(ctx context.Context) error {
	now, end := r.Now(), r.state.Until.Format(time.RFC3339)
	switch {
	case r.state.Until.IsZero() || now.Before(r.state.Half):
		return nil
	case now.Before(r.state.Until):
		return fmt.Errorf("half the life of the lists has passed without a fresh one: they end on %s", end)
	case r.Fail == wire.FailOpen:
		return fmt.Errorf("the lists ended on %s; the relying party fails open: certificates revoked since are let in", end)
	}
	if err := r.close(ctx); err != nil {
		return fmt.Errorf("the lists ended on %s, and they could not be closed: %w", end, err)
	}
	return fmt.Errorf("the lists ended on %s; the relying party fails closed: nobody is let in", end)
}

func (r *Relay) close(ctx context.Context) error {
	if r.state.Closed {
		return nil
	}
	contents := map[string][]byte{}
	for _, f := range r.Files {
		if f.Format == wire.FormatSerials || f.Format == wire.FormatMap {
			contents[f.Path] = everybody(f.Format)
		}
	}
	if _, err := r.replace(ctx, contents, nil); err != nil { // what is closed stays closed
		return err
	}
	r.state.Closed = true
	return writeState(r.Dir, r.state)
}

// problem logs what is wrong, once, and keeps it for the status; nil means that all is well.
func (r *Relay) problem(err error) {
	say := func(err error) {
		if r.state.Problem = ""; err != nil {
			r.state.Problem = shorten(err.Error())
		}
	}
	say(err)
	if failed := writeState(r.Dir, r.state); failed != nil {
		say(and(fmt.Errorf("the status could not be written: %w", failed), err))
	}
	if text := r.state.Problem; text != r.said {
		if r.said = text; text == "" {
			r.Log.Info("all is enforced again", "change", r.state.Number)
		} else {
			r.Log.Error("not all is enforced", "change", r.state.Number, "problem", text)
		}
		r.Systemd.Status(text)
	}
}

// report tells the server what is enforced.
func (r *Relay) report(ctx context.Context) error {
	formats := r.formats()
	if r.Each != "" {
		formats = append(formats, wire.FormatEach)
	}
	var failures []wire.RelayFailure
	for _, f := range r.state.Failing {
		failures = append(failures, f.RelayFailure)
	}
	body, err := json.Marshal(wire.RelayReport{
		Number: r.state.Number, Formats: formats, Program: r.Program, Fail: r.Fail, Until: r.state.Until,
		Problem: r.state.Problem, Version: r.Version, Failing: failures,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fetch.Patience)
	defer cancel()
	resp, err := r.Send(ctx, http.MethodPost, wire.PathRelayReport, http.Header{"Content-Type": {"application/json"}}, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, fetch.MaxSmall)) // to the end: the connection stays warm
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("report: %w", fetch.Refusal(resp, text))
	}
	return err
}

// shorten bounds a text, some of which may be the server's.
func shorten(text string) string {
	if len(text) > wire.MaxRelayText {
		return strings.ToValidUTF8(text[:wire.MaxRelayText-3], "") + "…"
	}
	return text
}
