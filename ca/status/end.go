package status

import (
	"context"
	"errors"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// Suspend puts a device's certificates on hold (record.Revocations.Suspend) and returns when CRLs
// and OCSP say so, with the shards on which the status of a certificate changed. If the error is
// ErrUnpublished the device is suspended all the same.
func (s *Service) Suspend(ctx context.Context, device string, e record.Event) (shards []record.Shard, err error) {
	shards, err = s.store.Suspend(ctx, device, s.now(), e)
	return s.PublishChange(ctx, shards, err)
}

// RevokePrincipal ends all certificates of an operator or relying party; otherwise as Suspend.
func (s *Service) RevokePrincipal(ctx context.Context, name string, reason int, e record.Event) (shards []record.Shard, err error) {
	shards, err = s.store.RevokePrincipal(ctx, name, s.now(), reason, e)
	return s.PublishChange(ctx, shards, err)
}

// Signs reports whether an issuer is here, and so its lists and OCSP answers. One of which there are
// certificates on record may have been lost, in a restore from before it was made.
func (s *Service) Signs(issuer string) bool { return s.issuers[issuer] != nil }

// Unsigned are the issuers of shards whose lists nobody can sign here, with what that means to
// whoever has changed certificates on them; nil if there are none.
func (s *Service) Unsigned(shards []record.Shard) map[string]string {
	var all map[string]string
	for _, sh := range shards {
		if s.Signs(sh.Issuer) {
			continue
		}
		if all == nil {
			all = map[string]string{}
		}
		all[sh.Issuer] = "this CA is lost; nobody but this server goes by its certificates, and it goes by the record"
		if profile.LineOf(sh.Issuer) == profile.Operational {
			all[sh.Issuer] = "this CA is lost, and nobody can sign its CRLs and OCSP answers: relying parties are not told of this change to its certificates; they go by the last list that they have, until it ends, at most seven days after it was signed"
		}
	}
	return all
}

// PublishChange publishes the shards of a change, unless recording it failed with err. What is
// recorded is published even if ctx is cancelled. The error is ErrUnpublished if that fails.
func (s *Service) PublishChange(ctx context.Context, shards []record.Shard, err error) ([]record.Shard, error) {
	if err != nil {
		return nil, err
	}
	if err := s.Publish(context.WithoutCancel(ctx), shards...); err != nil {
		return shards, errors.Join(ErrUnpublished, err)
	}
	return shards, nil
}
