package device

import (
	"crypto/x509"
	"net/http"
	"time"
)

// HTTPClient is a client that shows the working certificate of each moment to servers
// that ask for one. roots are whom to believe (Identity.Roots). It has a time limit for
// connecting and none for the rest: set Timeout, or use contexts.
func HTTPClient(i *Identity, roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     i.TLSConfig(roots),
		TLSHandshakeTimeout: handshakeTimeout,
		// A connection that is not used is not kept beyond a renewal for long.
		IdleConnTimeout:   90 * time.Second,
		ForceAttemptHTTP2: true,
	}}
}
