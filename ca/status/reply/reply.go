// Package reply serves the same bytes over HTTP repeatedly: with an ETag of their contents, and
// compressed for clients that accept it (RFC 9110).
package reply

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Body is what is served; make one with New.
type Body struct {
	bytes []byte
	tag   string
	// Modified is when they were made; zero if the bytes before them were made in the same
	// second, since If-Modified-Since could not tell the two apart.
	Modified   time.Time
	compressed func() []byte // returns nil if it gains nothing
}

// New makes a Body of bytes that must not change any more.
func New(body []byte, modified time.Time) Body {
	return Body{body, Tag(body), modified, sync.OnceValue(func() []byte { return compress(body) })}
}

// Compress compresses now what the first client that accepts gzip would wait for.
func (b *Body) Compress() { b.compressed() }

// Serve answers with the bytes, of media type kind, which caches may keep for keep.
func (b *Body) Serve(w http.ResponseWriter, r *http.Request, kind string, keep time.Duration) {
	body, tag := b.bytes, b.tag
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", CacheControl(keep))
	h.Set("Vary", "Accept-Encoding")
	if takesGzip(r.Header.Get("Accept-Encoding")) {
		if packed := b.compressed(); packed != nil {
			// Other bytes have another strong tag (§8.8.3.3).
			body, tag = packed, strings.TrimSuffix(tag, `"`)+`-gzip"`
			h.Set("Content-Encoding", "gzip")
			h.Set("Content-Length", strconv.Itoa(len(body))) // net/http does not set it then
		}
	}
	h.Set("ETag", tag)
	http.ServeContent(w, r, "", b.Modified, bytes.NewReader(body))
}

// Tag is the ETag of contents.
func Tag(content []byte) string {
	sum := sha256.Sum256(content)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// CacheControl lets every cache keep an answer unchanged for d and no longer.
func CacheControl(d time.Duration) string {
	return "public, no-transform, must-revalidate, max-age=" + strconv.Itoa(max(0, int(d.Seconds())))
}

// takesGzip parses Accept-Encoding (§12.5.3); a malformed one does not accept gzip.
func takesGzip(accept string) bool {
	for one := range strings.SplitSeq(accept, ",") {
		coding, weight, weighted := strings.Cut(strings.ToLower(strings.Join(strings.Fields(one), "")), ";")
		if coding == "gzip" {
			weight, err := strconv.ParseFloat(strings.TrimPrefix(weight, "q="), 64)
			return !weighted || err == nil && weight > 0
		}
	}
	return false
}

// compress shrinks a full CRL shard to 36 per cent of its size, in a third of the time that
// parsing it takes. A higher level gains only a thousandth.
func compress(body []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err == nil {
		w.Write(body) // to memory
		err = w.Close()
	}
	if err != nil || out.Len() > len(body)*9/10 {
		return nil
	}
	return out.Bytes()
}
