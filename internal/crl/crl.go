// Package crl tells whose a CRL is before its entries are parsed, which then take twenty times
// the room: whoever stands in between could fill memory with a list that nobody signed.
package crl

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
)

// Signed reports whether one of the issuers' keys signed a list (RFC 5280 §5.1.1). Whether that
// issuer may sign lists, and this is of its own, is for whoever parses it to judge.
func Signed(der []byte, issuers ...*x509.Certificate) bool {
	var list struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &list); err != nil || len(rest) > 0 {
		return false
	}
	//lint:ignore SA1019 what replaces both parses all entries first
	unparsed := &pkix.CertificateList{TBSCertList: pkix.TBSCertificateList{Raw: list.TBS.FullBytes},
		SignatureAlgorithm: list.Algorithm, SignatureValue: list.Signature}
	return slices.ContainsFunc(issuers, func(c *x509.Certificate) bool {
		//lint:ignore SA1019 as above
		return c.CheckCRLSignature(unparsed) == nil
	})
}
