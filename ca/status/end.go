package status

import (
	"context"
	"errors"

	"github.com/hallmark-pki/hallmark/record"
)

// Revoke ends a device (record.Revocations.Revoke) and returns when CRLs and OCSP say
// so. It returns the shards on which the status of a certificate changed. With
// ErrUnpublished the device is revoked all the same.
func (s *Service) Revoke(ctx context.Context, device string, reason int, why string, e record.Event) (shards []record.Shard, err error) {
	shards, err = s.store.Revoke(ctx, device, s.now(), reason, why, e)
	return s.show(ctx, shards, err)
}

// Suspend puts a device's certificates on hold; otherwise as Revoke.
func (s *Service) Suspend(ctx context.Context, device string, e record.Event) (shards []record.Shard, err error) {
	shards, err = s.store.Suspend(ctx, device, s.now(), e)
	return s.show(ctx, shards, err)
}

// Restore lifts a suspension: the certificates leave the CRL; otherwise as Revoke.
func (s *Service) Restore(ctx context.Context, device string, e record.Event) (shards []record.Shard, err error) {
	shards, err = s.store.Restore(ctx, device, s.now(), e)
	return s.show(ctx, shards, err)
}

// RevokeOperator ends all certificates of an operator; otherwise as Revoke.
func (s *Service) RevokeOperator(ctx context.Context, operator string, reason int, e record.Event) (shards []record.Shard, err error) {
	shards, err = s.store.RevokeOperator(ctx, operator, s.now(), reason, e)
	return s.show(ctx, shards, err)
}

// show publishes what a recorded change touched. The caller may hang up meanwhile:
// what is recorded is published regardless.
func (s *Service) show(ctx context.Context, shards []record.Shard, err error) ([]record.Shard, error) {
	if err != nil {
		return nil, err
	}
	if err := s.Publish(context.WithoutCancel(ctx), shards...); err != nil {
		return shards, errors.Join(ErrUnpublished, err)
	}
	return shards, nil
}
