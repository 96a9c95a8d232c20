package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Bounds of an answer, for a server in other hands: JSON of 32 MiB, as "{}," again and again,
// is gigabytes once it is decoded.
const (
	// maxAnswer is in bytes: a thousand rows of the widest listing.
	maxAnswer = 32 << 20
	// maxObjects and maxValues bound what stands in it. A page of devices has some five thousand
	// objects and a hundred thousand values. Models, lots and operators, which come whole, have one
	// object each; relying parties, whole as well, one more for each device that their command
	// fails for (wire.MaxRelayFailing), of some hundred bytes: maxAnswer is reached as soon.
	maxObjects = 1 << 18
	maxValues  = 1 << 21
	// maxTrust bounds one trust bundle or several, in bytes. Whoever answers is not authenticated
	// yet: the bundles do that. A server keeps to what a device takes.
	maxTrust = wire.MaxMessage
	// maxProblem is of what is not an answer, in bytes, and ends on a terminal or in a log.
	maxProblem = 64 << 10
	// maxHeader is of all headers before an answer, in bytes; ours have a few hundred.
	maxHeader = 64 << 10
	// maxChain is how many certificates a chain has at most; ours have two.
	maxChain = 8
)

// timeout bounds one exchange; a revocation waits for its CRLs.
const timeout = 60 * time.Second

// transport is HTTP/1.1 over connections that dial opens. What a server compresses is bounded as
// it is once unpacked.
func transport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	return &http.Transport{DialTLSContext: dial, MaxResponseHeaderBytes: maxHeader}
}

// read reads an answer, of at most so many bytes; of a refusal the beginning will do.
func read(server string, resp *http.Response, most int) ([]byte, error) {
	refused := resp.StatusCode >= 300
	if refused {
		most = maxProblem - 1
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	switch {
	case err != nil:
		return nil, unreachable(resp.Request.Context(), server, err)
	case refused:
		return text, nil
	case len(text) > most:
		return nil, fmt.Errorf("%s: the answer is larger than %d bytes", host(server), most)
	case !fits(text):
		return nil, fmt.Errorf("%s: the answer holds more than %d objects or %d values", host(server), maxObjects, maxValues)
	}
	return text, nil
}

// fits counts what would be decoded from a JSON text; whether it is one remains to be seen.
func fits(text []byte) bool {
	objects, values := 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{':
			objects++
		case ',', '[':
			values++
		case '"':
			i += quoted(text[i+1:])
		}
	}
	return objects <= maxObjects && values <= maxValues
}

// quoted is how far it is behind the mark that ends a string.
func quoted(text []byte) int {
	for i := 0; ; {
		n := bytes.IndexAny(text[i:], `"\`)
		switch {
		case n < 0:
			return len(text)
		case text[i+n] == '"':
			return i + n + 1
		}
		i = min(i+n+2, len(text)) // what is escaped
	}
}
