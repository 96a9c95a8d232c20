package admin

import (
	"context"
	"time"

	"github.com/hallmark-pki/hallmark/admin/credential"
	"github.com/hallmark-pki/hallmark/ca/profile"
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
