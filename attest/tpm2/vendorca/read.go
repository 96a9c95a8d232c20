package vendorca

import (
	"crypto/x509"
	"encoding/pem"
)

// ReadCertificates reads the CA certificates out of a file that an operator wants to import: PEM
// (other text and blocks in between are skipped) or DER, also several in a row. skipped counts
// the elements that are not CA certificates; it is at least 1 if the file holds no CA
// certificate.
func ReadCertificates(file []byte) (certificates []*x509.Certificate, skipped int) {
	add := func(der []byte) {
		c, err := parse(der)
		if err != nil || authority(c) != nil {
			skipped++
			return
		}
		certificates = append(certificates, c)
	}
	rest := file
	for block, after := pem.Decode(rest); block != nil; block, after = pem.Decode(rest) {
		add(block.Bytes)
		rest = after
	}
	for b := file; len(rest) == len(file) && len(b) > 0; {
		der, after, err := cutDER(b)
		if err != nil {
			break
		}
		add(der)
		b = after
	}
	if len(certificates) == 0 && skipped == 0 {
		skipped = 1
	}
	return certificates, skipped
}
