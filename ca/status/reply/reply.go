// Package reply gives out the same bytes over HTTP again and again: with a tag of their
// contents, and compressed for those who take it (RFC 9110).
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

// Body is what is given out; make one with New.
type Body struct {
	bytes []byte
	tag   string
	// Modified is when they were made, or zero if those before have the same second:
	// If-Modified-Since cannot tell the two apart, so it is not offered.
	Modified   time.Time
	compressed func() []byte // nil if it gains nothing
}

// New is for bytes that do not change any more.
func New(body []byte, modified time.Time) Body {
	return Body{body, Tag(body), modified, sync.OnceValue(func() []byte { return compress(body) })}
}

// Compress does what the first who takes gzip would wait for.
func (b *Body) Compress() { b.compressed() }

// Serve answers with the bytes as a media type, which caches may keep for a while.
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
			h.Set("Content-Length", strconv.Itoa(len(body))) // net/http leaves it to us then
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

// CacheControl lets every cache keep an answer, as it is, for a while and no longer.
func CacheControl(d time.Duration) string {
	return "public, no-transform, must-revalidate, max-age=" + strconv.Itoa(max(0, int(d.Seconds())))
}

// takesGzip reads Accept-Encoding (§12.5.3). What is not understood is not taken.
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

// compress: a full shard of a CRL becomes 36 per cent of its size, in a third of the time of
// its parsing. More effort gains a thousandth.
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
