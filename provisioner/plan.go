package provisioner

import (
	"context"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// Plans are the renewal plans of operators (record.Jobs).
type Plans interface {
	Planned(ctx context.Context) (bool, error)
	Moment(ctx context.Context, device string, at time.Time) (time.Time, error)
	Conclude(ctx context.Context, kind, device, outcome string, at time.Time) error
}

// lookAgain is how long the pipeline caches whether there is a renewal plan, unless Replan is
// called: without a plan, devices cost no more queries.
const lookAgain = 5 * time.Second

// outlook is whether there was a renewal plan when the record was last asked.
type outlook struct {
	looked  time.Time
	planned bool
}

// Replan makes the next device see that renewal plans have changed.
func (s *Service) Replan() { s.plans.Store(new(outlook)) }

func (s *Service) planned(ctx context.Context) (bool, error) {
	now, last := s.Now(), s.plans.Load()
	if last != nil {
		if age := now.Sub(last.looked); age >= 0 && age < lookAgain {
			return last.planned, nil
		}
	}
	planned, err := s.Store.Planned(ctx) // not under a lock: nobody waits for another caller's query
	if err == nil {
		s.plans.CompareAndSwap(last, &outlook{now, planned}) // unless Replan came meanwhile
	}
	return planned, err
}

// hasten moves a device's window to its moment in a renewal plan, if that is earlier.
func (s *Service) hasten(ctx context.Context, d record.Device, steering *Steering) error {
	planned, err := s.planned(ctx)
	if err != nil || !planned {
		return err
	}
	moment, err := s.Store.Moment(ctx, d.ID, s.Now())
	if err == nil && !moment.IsZero() && moment.Before(steering.Start) {
		steering.Start, steering.End = moment, moment
	}
	return err
}

// renewed marks a device as done in renewal plans. A failure is only logged: the device has its
// certificate, and will be asked to renew once more.
func (s *Service) renewed(ctx context.Context, d record.Device) {
	planned, err := s.planned(ctx)
	if err == nil && planned {
		err = s.Store.Conclude(context.WithoutCancel(ctx), record.JobRenew, d.ID, record.OutcomeDone, s.Now())
	}
	if err != nil {
		s.Log.Error("a renewal plan does not know that a device has renewed", "device", d.Name(), "err", err)
	}
}
