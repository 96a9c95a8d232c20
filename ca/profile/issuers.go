package profile

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Issuers lists the three lines of issuers. The issuers of a line succeed one another as NAME,
// NAME-2, NAME-3 and so on; each has its own certificates, CRLs and OCSP answers.
func Issuers() []string { return []string{Manufacturing, Operational, Infrastructure} }

// LineOf is the line of an issuer: "operational" for "operational-2"; empty if the name is not an
// issuer's.
func LineOf(issuer string) string {
	line, number, found := strings.Cut(issuer, "-")
	if !slices.Contains(Issuers(), line) {
		return ""
	}
	if n, err := strconv.Atoi(number); found && (err != nil || n < 2 || strconv.Itoa(n) != number) {
		return ""
	}
	return line
}

// Successor is the name of the issuer that succeeds another.
func Successor(issuer string) string {
	line, number, found := strings.Cut(issuer, "-")
	n := 1
	if found {
		n, _ = strconv.Atoi(number)
	}
	return fmt.Sprintf("%s-%d", line, n+1)
}

// Pins are the issuers whose certificates are accepted, by name.
type Pins map[string]*x509.Certificate

// Recognise finds which of them signed c, and under which profile. It pins issuer and profile,
// not merely a chain (design decision 2): ok is false if none of them signed c, or if the profile
// belongs to another line than the issuer. Validity and revocation are not checked.
func (p Pins) Recognise(c *x509.Certificate) (issuer string, kind Kind, ok bool) {
	kind, ok = Of(c)
	if !ok || IssuerOf(kind) == "" {
		return "", kind, false
	}
	for name, pinned := range p {
		if LineOf(name) == IssuerOf(kind) && bytes.Equal(c.RawIssuer, pinned.RawSubject) && c.CheckSignatureFrom(pinned) == nil {
			return name, kind, true
		}
	}
	return "", kind, false
}
