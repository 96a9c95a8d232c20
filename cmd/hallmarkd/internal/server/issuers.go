package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"time"

	"github.com/hallmark-pki/hallmark/admin"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/record"
)

// proofLife is how long a cloud has to look at a proof.
const proofLife = 24 * time.Hour

// issuers is admin.Authorities.
type issuers struct {
	in        *installation.Installation
	authority *publisher
}

func (i issuers) Issuing() []admin.Issuing {
	var all []admin.Issuing
	for _, one := range i.in.Issuers {
		all = append(all, admin.Issuing{Name: one.Name, Certificate: one.Certificate, Root: one.Root})
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
