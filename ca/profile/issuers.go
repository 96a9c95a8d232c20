package profile

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Issuers lists the three lines of issuers: one after the other in a line issues, under
// the line's name and then NAME-2, NAME-3 and so on. A successor's certificates, CRLs and
// OCSP answers are apart from its predecessor's.
func Issuers() []string { return []string{Manufacturing, Operational, Infrastructure} }

// LineOf names the line of an issuer: "operational" of "operational-2"; empty if it is
// not an issuer's name.
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

// Successor names the issuer after one of the same line.
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

// Recognise finds which of them signed c, and under which profile. It pins issuer and
// profile, not merely a chain (design decision 2): ok is false for a certificate of
// somebody else, and for one whose profile is of another line than its issuer. Whether c
// is valid now, and whether it still counts, is not asked.
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
