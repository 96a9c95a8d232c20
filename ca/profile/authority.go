package profile

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"time"
)

// Authority is what varies between two CA certificates.
type Authority struct {
	// Issuer is the line: Manufacturing, Operational or Infrastructure.
	Issuer string
	// Root: the certificate of the line's root, self-signed; else of the issuer.
	Root bool
	// Key is the CA's key: P-256 or P-384.
	Key crypto.PublicKey
}

// lineage is what is fixed for an issuer and its root.
type lineage struct {
	title          string
	root, issuer   int // years of life; zero: no end
	rootPathLength int // of the root; the issuer's is one less (RFC 5280 §4.2.1.9)
}

var lineages = map[string]lineage{
	// Without end, since an issuer must outlive its leaves (IEEE 802.1AR-2018 §8.6), and one
	// level deeper, for delegated issuers, one per lot and station.
	Manufacturing:  {title: "Manufacturing", rootPathLength: 2},
	Operational:    {title: "Operational", root: 20, issuer: 10, rootPathLength: 1},
	Infrastructure: {title: "Infrastructure", root: 20, issuer: 10, rootPathLength: 1},
}

// AuthorityTemplate builds a CA certificate, complete but for the signature.
func AuthorityTemplate(a Authority, p Placement) (*x509.Certificate, error) {
	l, ok := lineages[a.Issuer]
	if !ok {
		return nil, fmt.Errorf("there is no issuer %q", a.Issuer)
	}
	if err := checkKey(a.Key, false); err != nil {
		return nil, fmt.Errorf("%s CA certificate: %w", a.Issuer, err)
	}
	years, role, pathLength := l.issuer, "issuer", l.rootPathLength-1
	if a.Root {
		years, role, pathLength = l.root, "root", l.rootPathLength
	}
	end := NoEnd
	if years != 0 {
		end = p.NotBefore.UTC().AddDate(years, 0, 0).Add(-time.Second)
	}
	t, err := base(a.Key, p, end)
	if err != nil {
		return nil, fmt.Errorf("%s CA certificate: %w", a.Issuer, err)
	}
	// A CA's name stands for one key for ever: the prefix of the key identifier tells it from
	// successors and from other installations of the same organisation (RFC 5280 §4.1.2.4,
	// §4.1.2.6).
	t.Subject = pkix.Name{
		Organization: []string{p.Organisation},
		CommonName:   fmt.Sprintf("%s %s %s", l.title, role, hex.EncodeToString(t.SubjectKeyId[:4])),
	}
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	t.IsCA, t.MaxPathLen, t.MaxPathLenZero = true, pathLength, pathLength == 0
	if a.Root {
		// Go adds it to all others. RFC 5280 §4.2.1.1 does not require it of a root, but zlint
		// recognises a root by its signature, and what is linted is not self-signed yet.
		t.AuthorityKeyId = t.SubjectKeyId
	} else {
		// anyPolicy, so that a relying party may ask for a profile's policy (RFC 5280 §6.1).
		t.Policies = []x509.OID{policyAny}
		t.CRLDistributionPoints = []string{p.CRL}
		t.IssuingCertificateURL = []string{p.CA}
	}
	return t, nil
}

var policyAny = oid("2.5.29.32.0")
