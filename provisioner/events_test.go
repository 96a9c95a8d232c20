package provisioner

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// A device that loses its power in the middle is no failure of the server: whoever is woken by
// errors in the log is not.
func TestPowerCutIsNoError(t *testing.T) {
	for cause, level := range map[error]string{context.Canceled: "level=INFO", errors.New("disk"): "level=ERROR"} {
		var log bytes.Buffer
		s := &Service{Config: Config{Log: slog.New(slog.NewTextHandler(&log, nil))}}
		if err := s.refused(t.Context(), "enrolment.refused", subject{}, cause); err != cause || !strings.Contains(log.String(), level) {
			t.Errorf("%v: %v, %s", cause, err, &log)
		}
	}
}
