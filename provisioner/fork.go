package provisioner

import (
	"context"
	"errors"
	"fmt"

	"github.com/hallmark-pki/hallmark/provisioner/decide"
	"github.com/hallmark-pki/hallmark/record"
)

// fork is a refusal for which a device must be suspended, with the certificate that it showed.
type fork struct {
	*decide.Refusal
	device      record.Device
	certificate string
}

func (f *fork) Unwrap() error { return f.Refusal }

// forked adds the device to a refusal for which it must be suspended. Any other error is returned
// unchanged.
func forked(d record.Device, shown *record.Certificate, err error) error {
	if r, ok := errors.AsType[*decide.Refusal](err); ok && r.Suspend && shown != nil {
		return &fork{r, d, shown.Serial}
	}
	return err
}

// stop suspends the device of a fork, which stops both holders of the duplicated key, and
// publishes that before the caller is answered (design decision 8). The refusal stands even if
// suspending fails, which is logged.
func (s *Service) stop(ctx context.Context, err error) error {
	what, ok := errors.AsType[*fork](err)
	if !ok {
		return err
	}
	e := record.Event{Time: s.Now(), Actor: "server", Verb: "device.suspended", Object: what.device.Name(),
		Reason: fmt.Sprintf("%s: %s", what.Code, what.Detail), Detail: map[string]string{"code": what.Code, "certificate": what.certificate}, Alert: true}
	s.Log.Warn("a device was suspended", "device", what.device.Name(), "code", what.Code, "certificate", what.certificate, "why", what.Detail)
	if _, failed := s.Suspender.Suspend(context.WithoutCancel(ctx), what.device.ID, e); failed != nil {
		s.Log.Error("a device could not be suspended", "device", what.device.Name(), "err", failed)
	}
	return what.Refusal
}
