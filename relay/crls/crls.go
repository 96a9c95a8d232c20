// Package crls verifies the CRLs of one issuer and its root: each must be signed by its issuer, not
// have ended, and not be older than the one that is known.
package crls

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/internal/crl"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

// Lists is what several lists say together.
type Lists struct {
	// Denied are the certificates that are on one of them.
	Denied  map[denylist.Serial]bool
	Numbers Numbers
	// Made and Until are of the list that ends first.
	Made, Until time.Time
}

// Numbers are crlNumbers by scope, a short text: the lists of one issuer have numbers of their own each
// (RFC 5280 §5.2.3).
type Numbers map[string]*big.Int

const (
	// reasonRemove is removeFromCRL (RFC 5280 §5.3.1).
	reasonRemove = 8
	// skew is how much later than here a list may have been made.
	skew = 5 * time.Minute
)

// Read verifies lists (PEM) by those who must have signed them and by the numbers that are known.
// None may have ended: relying parties would refuse everybody. Nothing else may be in the text, which
// is written to disk as it is: what Go skips OpenSSL may take for a root to trust.
func Read(text []byte, signers []*x509.Certificate, known Numbers, now time.Time) (Lists, error) {
	l := Lists{Numbers: Numbers{}, Denied: map[denylist.Serial]bool{}}
	for len(text) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || !bytes.HasPrefix(text, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: block.Bytes})) {
			return l, errors.New("there is more in the answer than lists")
		}
		text = rest
		if !crl.Signed(block.Bytes, signers...) {
			return l, errors.New("one is not signed by its issuer")
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return l, err
		}
		scope := scopeOf(list)
		if l.Numbers[scope] != nil {
			return l, errors.New("there are two of the same certificates")
		}
		if err := check(list, signers, known[scope], now); err != nil {
			return l, err
		}
		l.Numbers[scope] = list.Number
		if l.Until.IsZero() || list.NextUpdate.Before(l.Until) {
			l.Made, l.Until = list.ThisUpdate, list.NextUpdate
		}
		for _, e := range list.RevokedCertificateEntries {
			var serial denylist.Serial
			if e.SerialNumber.Sign() >= 0 && e.SerialNumber.BitLen() <= 8*len(serial) && e.ReasonCode != reasonRemove {
				e.SerialNumber.FillBytes(serial[:])
				l.Denied[serial] = true
			}
		}
	}
	if len(l.Numbers) == 0 {
		return l, errors.New("there is none in the answer")
	}
	return l, nil
}

// check judges one list; before is the number of the last one of its scope.
func check(list *x509.RevocationList, signers []*x509.Certificate, before *big.Int, now time.Time) error {
	signed := slices.ContainsFunc(signers, func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(c) == nil
	})
	switch {
	case !signed:
		return fmt.Errorf("one is not signed by its issuer, %s", list.Issuer)
	case list.Number == nil: // RFC 5280 §5.2.3: every list has one
		return errors.New("one has no number")
	case now.After(list.NextUpdate):
		return fmt.Errorf("one ended on %s: somebody in between repeats old answers, or the clock here is wrong", list.NextUpdate.Format(time.RFC3339))
	case list.ThisUpdate.After(now.Add(skew)):
		return fmt.Errorf("one is of %s, and here it is %s: is the clock right?", list.ThisUpdate.Format(time.RFC3339), now.Format(time.RFC3339))
	case before != nil && list.Number.Cmp(before) < 0:
		return fmt.Errorf("number %v came after %v: somebody in between repeats old answers", list.Number, before)
	}
	return nil
}

// scopeOf tells lists of one issuer apart: a digest of the issuer and of what the list covers.
func scopeOf(list *x509.RevocationList) string {
	scope := list.RawIssuer
	for _, e := range list.Extensions {
		if e.Id.Equal([]int{2, 5, 29, 28}) { // issuingDistributionPoint
			scope = slices.Concat(scope, e.Value)
		}
	}
	sum := sha256.Sum256(scope)
	return hex.EncodeToString(sum[:])
}
