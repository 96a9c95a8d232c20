package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/hallmark-pki/hallmark/admin/issuing"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/record"
)

// proofLife is how long a cloud has to look at a proof.
const proofLife = 24 * time.Hour

// issuers implements issuing.Authorities.
type issuers struct {
	in        *installation.Installation
	authority *publisher
}

func (i issuers) Issuing() []issuing.Issuer {
	all := make([]issuing.Issuer, len(i.in.Issuers))
	for n, one := range i.in.Issuers {
		all[n] = issuing.Issuer{Name: one.Name, Certificate: one.Certificate, Root: one.Root}
		if crl, err := x509.ParseRevocationList(i.in.Roots[n].CRL); err == nil { // the status service has read it
			all[n].Listed, _ = ca.Listed(crl, one.Certificate)
		}
	}
	return all
}

// Prove forgets the key before anybody has the certificate.
func (i issuers) Prove(ctx context.Context, issuer, code string, e record.Event) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	issued, err := i.authority.Issue(ctx, e, ca.Request{Profile: profile.Proof, Issuer: issuer,
		Content: profile.Content{Key: key.Public(), Code: code, Lifetime: proofLife}})
	if err != nil {
		return nil, err
	}
	return issued[0].Certificate, nil
}

// tellLosses looks for what the files lack. To count what an issuer that is gone has left behind,
// with a million devices, takes longer than anybody should wait for a start.
func tellLosses(ctx context.Context, in *installation.Installation, store record.Store, log *slog.Logger) {
	lost, err := in.Losses(ctx, store, time.Now(), false)
	if err != nil && ctx.Err() == nil {
		log.Error("whether the files lack anything by the record is not known", "error", err)
	}
	for _, l := range lost {
		log.Warn("the record knows of what is not here: hallmarkd check", "of", l.Subject, "missing", l.Detail, "hint", l.Hint)
	}
}
