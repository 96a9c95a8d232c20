package profile

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// BaseURL checks the public address under which CRLs, OCSP and CA certificates are served,
// "http://HOST[:PORT]", and returns it in the form that certificates carry. It is plain HTTP:
// what is served is signed, and verifying TLS first could need the very same CRL (RFC 5280 §8).
func BaseURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", errors.New("the status address stands in every certificate and looks like http://HOST:PORT; it is plain http, and nothing follows the path")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// CRLURL is the URL of a shard's CRL, in cRLDistributionPoints and, byte for byte, in the CRL's
// issuingDistributionPoint. A root's only CRL is shard 0 of RootOf(issuer).
func CRLURL(base, issuer string, shard int64) string {
	return fmt.Sprintf("%s/crl/%s/%d.crl", base, issuer, shard)
}

// DeltaURL is the URL of the delta to an issuer's complete CRL, in that CRL's freshestCRL.
func DeltaURL(base, issuer string) string { return base + "/crl/" + issuer + "/delta.crl" }

// OCSPURL is the URL of the OCSP responder of every issuer.
func OCSPURL(base string) string { return base + "/ocsp" }

// CAURL is the URL of the certificate of an issuer or root.
func CAURL(base, issuer string) string { return base + "/ca/" + issuer + ".crt" }
