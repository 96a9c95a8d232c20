package device

import (
	"crypto/x509"
	"net/http"
	"time"
)

// HTTPClient is a client that shows the current working certificate to servers that ask for one.
// roots are the trusted roots (Identity.Roots). It limits the time for connecting but not for the
// rest: set Timeout, or use contexts.
func HTTPClient(i *Identity, roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     i.TLSConfig(roots),
		TLSHandshakeTimeout: handshakeTimeout,
		// So that idle connections do not long outlive a renewal.
		IdleConnTimeout:   90 * time.Second,
		ForceAttemptHTTP2: true,
	}}
}
