package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// rootCRL signs a root's CRL (RFC 5280 §5), DER.
func rootCRL(root *x509.Certificate, signer crypto.Signer, list *x509.RevocationList) ([]byte, error) {
	der, err := x509.CreateRevocationList(rand.Reader, list, root, signer)
	if err != nil {
		return nil, fmt.Errorf("sign the root's CRL: %w", err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if len(crl.RevokedCertificateEntries) != len(list.RevokedCertificateEntries) {
		return nil, fmt.Errorf("the root's CRL should have %d entries", len(list.RevokedCertificateEntries))
	}
	return der, crl.CheckSignatureFrom(root)
}

// RevokeIssuer signs the root's CRL that follows list (DER), the one in use: it adds an issuer
// and has the same nextUpdate. reason is a CRLReason.
func RevokeIssuer(list []byte, root, issuer *x509.Certificate, signer crypto.Signer, reason int, now time.Time) ([]byte, error) {
	next, err := nextRootCRL(list, root, issuer, reason, now)
	if err != nil {
		return nil, err
	}
	if key, ok := root.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(signer.Public()) {
		return nil, errors.New("this is not the root's key")
	}
	return rootCRL(root, signer, next)
}

// UnsignedRevocation is the list that RevokeIssuer would sign, for a root key that is kept
// elsewhere: its RawTBSRevocationList is to be signed there. Its own signature is by a throw-away
// key.
func UnsignedRevocation(list []byte, root, issuer *x509.Certificate, reason int, now time.Time) (*x509.RevocationList, error) {
	next, err := nextRootCRL(list, root, issuer, reason, now)
	if err != nil {
		return nil, err
	}
	key, err := throwAwayKey(root.PublicKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateRevocationList(rand.Reader, next, root, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseRevocationList(der)
}

// nextRootCRL is the list that follows the one in use, with an issuer added.
func nextRootCRL(list []byte, root, issuer *x509.Certificate, reason int, now time.Time) (*x509.RevocationList, error) {
	in, err := x509.ParseRevocationList(list)
	if err != nil {
		return nil, err
	}
	if err := in.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("the list in use: %w", err)
	}
	if err := profile.CheckSignature(issuer, root); err != nil {
		return nil, err
	}
	if before, listed := Listed(in, issuer); listed {
		return nil, fmt.Errorf("the list names this issuer already, since %s", before.Format(time.DateOnly))
	}
	since := now.UTC().Add(-backdate).Truncate(time.Second) // as the list, which must not contain a time after its thisUpdate
	entries := []x509.RevocationListEntry{{SerialNumber: issuer.SerialNumber, RevocationTime: since, ReasonCode: reason}}
	for _, e := range in.RevokedCertificateEntries {
		entries = append(entries, x509.RevocationListEntry{SerialNumber: e.SerialNumber, RevocationTime: e.RevocationTime, ReasonCode: e.ReasonCode})
	}
	return rootCRLOf(new(big.Int).Add(in.Number, big.NewInt(1)), entries, now, in.NextUpdate), nil
}

func rootCRLOf(number *big.Int, entries []x509.RevocationListEntry, now, next time.Time) *x509.RevocationList {
	return &x509.RevocationList{Number: number, ThisUpdate: now.UTC().Add(-backdate).Truncate(time.Second), NextUpdate: next, RevokedCertificateEntries: entries}
}

// Listed reports whether a root's CRL names an issuer, and since when.
func Listed(crl *x509.RevocationList, issuer *x509.Certificate) (since time.Time, listed bool) {
	for _, e := range crl.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(issuer.SerialNumber) == 0 {
			return e.RevocationTime, true
		}
	}
	return since, false
}

// MaxRootCRL bounds a root's CRL, in bytes: it names a few issuers.
const MaxRootCRL = 64 << 10

// SignedRevocation joins the RawTBSRevocationList of UnsignedRevocation and a signature over it.
func SignedRevocation(tbs, signature []byte) ([]byte, error) {
	if len(tbs) > MaxRootCRL || len(signature) > 1<<10 {
		return nil, errors.New("the list or its signature is too long to be one")
	}
	list, err := profile.Assemble(tbs, signature) // a CertificateList is built like a Certificate (RFC 5280 §5.1)
	if err != nil {
		return nil, errors.New("this is not a list that is to be signed")
	}
	return list, nil
}

// ReadRootCRL reads a root's CRL that was signed elsewhere, PEM or DER. It must be a valid
// successor of the list in use (DER): signed by the root, complete, with a greater number, not
// expired, and dropping no entry.
func ReadRootCRL(text, inUse []byte, root *x509.Certificate, now time.Time) (*x509.RevocationList, error) {
	crl, err := ParseRootCRL(text)
	if err != nil {
		return nil, err
	}
	before, err := x509.ParseRevocationList(inUse)
	if err != nil {
		return nil, fmt.Errorf("the list in use: %w", err)
	}
	if !bytes.Equal(crl.RawIssuer, root.RawSubject) || crl.CheckSignatureFrom(root) != nil {
		return nil, fmt.Errorf("%s has not signed it", root.Subject.CommonName)
	}
	switch {
	case crl.Number == nil || crl.Number.BitLen() > 159: // RFC 5280 §5.2.3: at most 20 octets
		return nil, errors.New("it has no crlNumber, or one that is too long")
	case crl.Number.Cmp(before.Number) <= 0:
		return nil, fmt.Errorf("its crlNumber is %v, and that of the list in use %v: relying parties that have the latter would not accept it", crl.Number, before.Number)
	case crl.ThisUpdate.After(now.Add(backdate)):
		return nil, fmt.Errorf("its thisUpdate, %s, is in the future", crl.ThisUpdate.Format(time.RFC3339))
	case !crl.NextUpdate.After(now): // or absent, which RFC 5280 §5.1.2.5 does not allow
		return nil, fmt.Errorf("its nextUpdate, %s, has passed", crl.NextUpdate.Format(time.RFC3339))
	}
	for _, e := range crl.Extensions {
		if e.Critical { // as in a delta or a shard (RFC 5280 §5.2)
			return nil, fmt.Errorf("it has a critical extension, %v: a root's list is complete", e.Id)
		}
	}
	return crl, checkRootEntries(crl, before)
}

// checkRootEntries makes sure that a list irrevocably names every issuer that the list before it
// names.
func checkRootEntries(crl, before *x509.RevocationList) error {
	for _, e := range crl.RevokedCertificateEntries {
		if slices.ContainsFunc(e.Extensions, func(x pkix.Extension) bool { return x.Critical }) {
			return fmt.Errorf("its entry for %x has a critical extension", e.SerialNumber)
		}
		if e.ReasonCode == 6 || e.ReasonCode == 8 { // certificateHold, removeFromCRL (RFC 5280 §5.3.1)
			return fmt.Errorf("its entry for %x can be taken back: an issuer is revoked for good", e.SerialNumber)
		}
	}
	for _, e := range before.RevokedCertificateEntries {
		if !slices.ContainsFunc(crl.RevokedCertificateEntries, func(x x509.RevocationListEntry) bool { return x.SerialNumber.Cmp(e.SerialNumber) == 0 }) {
			return fmt.Errorf("it does not name %x, which the list in use names since %s", e.SerialNumber, e.RevocationTime.Format(time.DateOnly))
		}
	}
	return nil
}

// ParseRootCRL parses a CRL, PEM or DER, of at most MaxRootCRL bytes, and verifies nothing.
func ParseRootCRL(text []byte) (*x509.RevocationList, error) {
	if len(text) > MaxRootCRL {
		return nil, fmt.Errorf("a root's CRL has at most %d bytes", MaxRootCRL)
	}
	if block, rest := pem.Decode(text); block != nil {
		if block.Type != "X509 CRL" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, errors.New("the PEM file holds something else than one X509 CRL")
		}
		text = block.Bytes
	}
	crl, err := x509.ParseRevocationList(text)
	if err != nil || !bytes.Equal(crl.Raw, text) {
		return nil, errors.New("this is not a signed CRL in PEM or DER")
	}
	return crl, nil
}
