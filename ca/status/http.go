package status

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/ca/status/ocsp"
	"github.com/hallmark-pki/hallmark/ca/status/reply"
	"github.com/hallmark-pki/hallmark/record"
)

// Handler serves
//
//	GET  /crl/ISSUER/SHARD.crl     the shard's CRL (RFC 2585)
//	GET  /crl/ISSUER.crl           the CRL over all shards
//	GET  /crl/ISSUER/delta.crl     what changed since one of those
//	GET  /crl/ISSUER.pem           the CRL over all shards and the root's, PEM
//	GET  /crl/relying-parties.pem  the same, of all issuers that relying parties trust
//	GET  /ocsp/BASE64              OCSP (RFC 6960 appendix A.1)
//	POST /ocsp
//	GET  /ca/ISSUER.crt            the CA certificate, DER
//	GET  /healthz                  503 if a CRL is older than LateAfter
//
// over plain HTTP: all of it is signed, and verifying https would need the same status. It must
// be the listener's own handler: a ServeMux would clean and redirect base64 with "//" in it.
func (s *Service) Handler() http.Handler { return &handler{s} }

type handler struct{ *Service }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	path := r.URL.Path
	isOCSP := path == "/ocsp" || strings.HasPrefix(path, "/ocsp/")
	switch {
	case isOCSP && r.Method == http.MethodPost:
		h.postOCSP(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		if isOCSP {
			w.Header().Set("Allow", "GET, HEAD, POST")
		}
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	case isOCSP:
		h.getOCSP(w, r, strings.TrimPrefix(path, "/ocsp"))
	case strings.HasPrefix(path, "/crl/"):
		h.serveCRL(w, r, strings.TrimPrefix(path, "/crl/"))
	case strings.HasPrefix(path, "/ca/"):
		h.serveCertificate(w, r, strings.TrimPrefix(path, "/ca/"))
	case path == "/healthz":
		h.serveHealth(w)
	default:
		http.NotFound(w, r)
	}
}

func (h *handler) serveCertificate(w http.ResponseWriter, r *http.Request, file string) {
	der := h.certificates[file]
	if der == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/pkix-cert") // RFC 2585 §4.1
	w.Header().Set("Cache-Control", reply.CacheControl(time.Hour))
	w.Header().Set("ETag", reply.Tag(der))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(der))
}

func (h *handler) serveHealth(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	if age := h.Age(); age > LateAfter {
		http.Error(w, "the oldest CRL was signed "+age.Round(time.Minute).String()+" ago", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (h *handler) serveCRL(w http.ResponseWriter, r *http.Request, path string) {
	l, err := h.find(r.Context(), path)
	switch {
	case errors.Is(err, record.ErrNotFound):
		http.NotFound(w, r)
	case err != nil:
		h.log.Error("a CRL cannot be served", "path", path, "error", err)
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the list cannot be read now; try again", http.StatusServiceUnavailable)
	case strings.HasSuffix(path, ".pem"):
		l.Serve(w, r, "application/x-pem-file", cacheFor)
	default:
		l.Serve(w, r, "application/pkix-crl", cacheFor) // RFC 2585 §4.2
	}
}

// find returns the list for a path below /crl/.
func (h *handler) find(ctx context.Context, path string) (*list, error) {
	if name, ok := strings.CutSuffix(path, ".pem"); ok {
		return h.file(ctx, name)
	}
	for end, kind := range map[string]kind{".crl": complete, "/delta.crl": delta} {
		if name, ok := strings.CutSuffix(path, end); ok && h.issuers[name] != nil {
			return h.wholeList(ctx, h.issuers[name], kind)
		}
	}
	name, ok := parseShard(path)
	if !ok {
		return nil, record.ErrNotFound
	}
	return h.list(ctx, name)
}

// parseShard parses ISSUER/SHARD.crl; each number has only one spelling.
func parseShard(path string) (record.Shard, bool) {
	issuer, file, ok := strings.Cut(path, "/")
	digits, isCRL := strings.CutSuffix(file, ".crl")
	number, err := strconv.ParseInt(digits, 10, 64)
	if !ok || !isCRL || err != nil || number < 0 || strconv.FormatInt(number, 10) != digits {
		return record.Shard{}, false
	}
	return record.Shard{Issuer: issuer, Number: number}, true
}

// list finds the newest list of a shard, from memory or, after askAgain, from the record; a list
// that should exist is signed on the spot. ErrNotFound if there is no such shard.
func (s *Service) list(ctx context.Context, name record.Shard) (*list, error) {
	if l := s.rootLists[name]; l != nil {
		return l, nil
	}
	s.mu.Lock()
	sh := s.shards[name]
	s.mu.Unlock()
	if sh == nil {
		opened, err := s.open(ctx, name.Issuer)
		if err != nil {
			return nil, err
		}
		if !opened[name.Number] {
			return nil, record.ErrNotFound
		}
		if sh, err = s.shard(name); err != nil {
			return nil, err
		}
	}
	if now := s.now().UnixNano(); now-sh.asked.Load() > int64(askAgain) || now < sh.asked.Load() {
		if err := s.load(ctx, sh); err != nil {
			if sh.newest.Load() == nil {
				return nil, err
			}
			s.log.Warn("the record cannot be read; the last CRL is served", "issuer", name.Issuer, "shard", name.Number, "error", err)
		}
	}
	if l := sh.newest.Load(); l != nil {
		return l, nil
	}
	if err := s.publish(context.WithoutCancel(ctx), sh); err != nil {
		return nil, err
	}
	return sh.newest.Load(), nil
}

// open returns the numbers of an issuer's shards that have a list. It queries them at most once a
// second, so that guessing numbers costs nothing.
func (s *Service) open(ctx context.Context, issuer string) (map[int64]bool, error) {
	i := s.issuers[issuer]
	if i == nil {
		return nil, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	now := s.now()
	if age := now.Sub(i.asked); age >= time.Second || age < 0 {
		shards, err := s.listed(ctx, issuer)
		if err != nil {
			return nil, err
		}
		i.opened, i.asked = make(map[int64]bool, len(shards)), now
		for _, sh := range shards {
			i.opened[sh.Number] = true
		}
	}
	return i.opened, nil // replaced above, never changed
}

// maxPath bounds the path of a GET; RFC 9919 §6 has clients use POST beyond 255.
const maxPath = 2 * ocsp.MaxRequest

func (h *handler) getOCSP(w http.ResponseWriter, r *http.Request, path string) {
	if len(path) > maxPath {
		http.Error(w, "request too long: use POST", http.StatusRequestURITooLong)
		return
	}
	request, err := ocsp.DecodePath(path)
	if err != nil {
		writeOCSP(w, answer{der: ocsp.Malformed})
		return
	}
	a, only := h.answerOCSP(r.Context(), request)
	if only {
		writeOCSP(w, a)
		return
	}
	// RFC 9919 §7.2, but for Expires: its nextUpdate would let a cache repeat "good"
	// for a day after a revocation.
	header := w.Header()
	header.Set("Content-Type", "application/ocsp-response")
	header.Set("Cache-Control", forAMinute)
	if left := a.nextUpdate.Sub(h.now()); left < cacheFor {
		header.Set("Cache-Control", reply.CacheControl(left))
	}
	header.Set("ETag", a.etag)
	header.Set("Last-Modified", a.modified)
	if len(r.Header["If-None-Match"])+len(r.Header["Range"]) > 0 {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.der))
		return
	}
	// The same in one system call instead of ServeContent's two.
	header.Set("Content-Length", strconv.Itoa(len(a.der)))
	w.Write(a.der)
}

func (h *handler) postOCSP(w http.ResponseWriter, r *http.Request) {
	request, err := io.ReadAll(http.MaxBytesReader(w, r.Body, ocsp.MaxRequest))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(w, "request too large", http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, "the request could not be read", http.StatusBadRequest)
		return
	}
	a, _ := h.answerOCSP(r.Context(), request)
	writeOCSP(w, a)
}

// writeOCSP writes an answer that no cache may keep. Errors of the protocol are also sent with
// status 200: the response contains them (RFC 6960 §2.3).
func writeOCSP(w http.ResponseWriter, a answer) {
	w.Header().Set("Content-Type", "application/ocsp-response")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(a.der)))
	w.Write(a.der)
}

var forAMinute = reply.CacheControl(cacheFor)
