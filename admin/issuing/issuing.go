// Package issuing is what operators see and do of issuing CAs: which there are, a proof
// for a cloud, and their end.
package issuing

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/renewal"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/issuers"
)

// Authorities are the issuing CAs.
type Authorities interface {
	// Issuing lists the issuers, of each line the one that issues first.
	Issuing() []Issuer
	// Prove has an issuer certify a code that a cloud gave, under a key that nobody keeps.
	Prove(ctx context.Context, issuer, code string, e record.Event) (*x509.Certificate, error)
}

// Issuer is an issuer's certificate and its root's.
type Issuer struct {
	Name              string
	Certificate, Root *x509.Certificate
	// Listed is since when its root's CRL names it; zero while it does not.
	Listed time.Time
}

// Store is what ending an issuer asks of the record.
type Store interface {
	IssuerRevocations(ctx context.Context) ([]record.Job, error)
	CreateJob(ctx context.Context, of record.Selection, at time.Time, judge record.JobJudge) (record.Job, error)
	CancelJob(ctx context.Context, id string, at time.Time, e record.Event) (record.Job, error)
	OpenApprovals(ctx context.Context, at time.Time) ([]record.Approval, error)
}

// Service answers operators; every field is needed.
type Service struct {
	Store       Store
	Authorities Authorities
	Plans       *renewal.Service
	// Wake says that there is a job to run.
	Wake func()
}

// Routes are for operators.
func (s *Service) Routes() []gate.Route {
	return []gate.Route{
		{Pattern: "GET " + issuers.Path, Handle: s.list},
		{Pattern: "GET " + issuers.Path + "/{name}", Handle: s.show},
		{Pattern: "POST " + issuers.Path + "/{name}/prove", Handle: s.prove},
		{Pattern: "POST " + issuers.Path + "/{name}/revoke", Handle: s.revoke},
	}
}

func (s *Service) list(ctx context.Context, _ *gate.Call) (any, error) {
	begun, err := s.Store.IssuerRevocations(ctx)
	out := wire.List[issuers.Issuer]{Items: []issuers.Issuer{}}
	for _, i := range s.Authorities.Issuing() {
		out.Items = append(out.Items, s.view(i, begun))
	}
	return out, err
}

func (s *Service) show(ctx context.Context, c *gate.Call) (any, error) {
	i, err := s.find(c.Request.PathValue("name"))
	if err != nil {
		return nil, err
	}
	begun, err := s.Store.IssuerRevocations(ctx)
	return s.view(i, begun), err
}

func (s *Service) find(name string) (Issuer, error) {
	all := s.Authorities.Issuing()
	at := slices.IndexFunc(all, func(i Issuer) bool { return i.Name == name })
	if at < 0 {
		return Issuer{}, gate.Refuse(http.StatusNotFound, wire.CodeNotFound, "hallmark issuer list shows those there are", "there is no issuer %q", name)
	}
	return all[at], nil
}

// inUse is the issuer of a line that issues.
func (s *Service) inUse(line string) Issuer {
	all := s.Authorities.Issuing()
	return all[slices.IndexFunc(all, func(i Issuer) bool { return profile.LineOf(i.Name) == line })]
}

func (s *Service) view(i Issuer, begun []record.Job) issuers.Issuer {
	sum := sha256.Sum256(i.Certificate.Raw)
	out := issuers.Issuer{Name: i.Name, State: issuers.Succeeded, Listed: i.Listed,
		Subject: i.Certificate.Subject.String(), NotBefore: i.Certificate.NotBefore, NotAfter: i.Certificate.NotAfter,
		Fingerprint: hex.EncodeToString(sum[:]), PEM: text(i.Certificate), Root: text(i.Root)}
	if s.inUse(profile.LineOf(i.Name)).Name == i.Name {
		out.State = issuers.Issues
	}
	if j := revocation(begun, i.Name); j != nil {
		out.State, out.Job = issuers.Revoked, j.ID
		if j.State == record.JobWaiting {
			out.State = issuers.Waiting
		}
	}
	return out
}

// revocation is the newest of an issuer; nil if there is none.
func revocation(begun []record.Job, issuer string) *record.Job {
	for n := len(begun) - 1; n >= 0; n-- {
		if begun[n].Issuer == issuer {
			return &begun[n]
		}
	}
	return nil
}

func text(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// prove certifies the code that AWS IoT or Azure IoT Hub gave, which shows them that
// whoever registers an issuer holds its key.
func (s *Service) prove(ctx context.Context, c *gate.Call) (any, error) {
	var in issuers.NewProof
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	i, err := s.find(c.Request.PathValue("name"))
	if err != nil {
		return nil, err
	}
	if err := profile.CheckCode(in.Code); err != nil {
		return nil, gate.Invalid("copy the code that the cloud shows", "%v", err)
	}
	e := c.Event("issuer.proved", i.Name)
	e.Detail["code"] = in.Code
	cert, err := s.Authorities.Prove(ctx, i.Name, in.Code, e)
	if err != nil {
		return nil, err
	}
	return issuers.Proof{Issuer: i.Name, Expires: cert.NotAfter, PEM: text(cert)}, nil
}
