package admin

import (
	"context"
	"time"

	"github.com/hallmark-pki/hallmark/admin/credential"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// callers says whose certificates may speak to operators' listener.
func (s *Service) callers() *credential.Pin {
	return &credential.Pin{
		Profile: profile.Operator, Noun: "operator", Issuers: s.Issuers, Status: s.Store.Status, Now: s.Now,
		Recovery: "ask another operator for an invitation, or run hallmarkd operator recover on the server",
		Disabled: func(ctx context.Context, name string) (time.Time, error) {
			o, err := s.Store.Operator(ctx, name)
			return o.Disabled, err
		},
	}
}

// issuance is how they get theirs.
func (s *Service) issuance() credential.Issuance {
	return credential.Issuance{
		Invited: "operator", Actor: "operator", AcceptLabel: wire.LabelAccept, RenewLabel: wire.LabelOperator, Kind: wire.KindInvitation,
		Permissions: s.Permissions, Issue: s.Issuer.IssueOperator,
		Take: func(ctx context.Context, id string, key [32]byte, at time.Time, e record.Event) (string, error) {
			o, err := s.Store.AcceptInvitation(ctx, id, key, at, e)
			return o.Name, err
		},
	}
}
