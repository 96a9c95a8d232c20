package provisioner

import (
	"context"
	"testing"
	"time"
)

// looking is a record that is asked for plans alone.
type looking struct {
	Store
	do func(context.Context) (bool, error)
}

func (l looking) Planned(ctx context.Context) (bool, error) { return l.do(ctx) }

// TestNobodyWaitsForAnothersLook: a device that has hung up is let go although another still
// waits for the record.
func TestNobodyWaitsForAnothersLook(t *testing.T) {
	asks := make(chan bool, 2)
	s := &Service{Config: Config{Now: time.Now, Store: looking{do: func(ctx context.Context) (bool, error) {
		asks <- true
		<-ctx.Done()
		return false, ctx.Err()
	}}}}
	go s.planned(t.Context())
	<-asks
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan error)
	go func() {
		_, err := s.planned(gone)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("it was told something")
		}
	case <-time.After(time.Minute):
		t.Error("it still waits")
	}
}

// TestReplanOutlastsALook: what was found before plans changed is not believed after.
func TestReplanOutlastsALook(t *testing.T) {
	s, looks := &Service{Config: Config{Now: time.Now}}, 0
	s.Store = looking{do: func(context.Context) (bool, error) {
		if looks++; looks == 1 {
			s.Replan()
		}
		return looks > 1, nil
	}}
	for _, want := range []bool{false, true, true} {
		if got, err := s.planned(t.Context()); got != want || err != nil {
			t.Errorf("planned %v, %v; want %v", got, err, want)
		}
	}
	if looks != 2 {
		t.Errorf("it was looked for %d times", looks)
	}
}
