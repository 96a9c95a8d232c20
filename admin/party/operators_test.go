package party

import (
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
)

// What operators see of a relying party: how far behind it is, and that it is silent.
func TestShow(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	reported := func(ago time.Duration, number int64, problem string) record.RelyingParty {
		return record.RelyingParty{Name: "broker-1", Created: now, Accepted: [32]byte{1},
			Enforcement: record.Enforcement{Number: number, Reported: now.Add(-ago), Formats: "crl,each", Fail: "closed", Problem: problem}}
	}
	barred := reported(time.Hour, 7, "")
	barred.Disabled = now
	for name, c := range map[string]struct {
		party          record.RelyingParty
		state, problem string
		behind         int64
	}{
		"invited":             {record.RelyingParty{Name: "broker-1", Invitation: "x", InvitedUntil: now}, view.Invited, "", 0},
		"up to date":          {reported(time.Minute, 9, ""), view.Active, "", 0},
		"behind":              {reported(time.Minute, 7, "the reload failed"), view.Active, "the reload failed", 2},
		"nothing yet":         {reported(time.Minute, -1, ""), view.Active, "", 9},
		"silent":              {reported(7*time.Minute, 9, ""), view.Active, "nothing was heard of it for 7m0s", 0},
		"silent after a fall": {reported(7*time.Minute, 9, "the disk is full"), view.Active, "nothing was heard of it for 7m0s; the disk is full", 0},
		"disabled":            {barred, view.Disabled, "", 2},
	} {
		got := show(c.party, 9, now)
		if got.State != c.state || got.Problem != c.problem || got.Behind != c.behind {
			t.Errorf("%s: %+v", name, got)
		}
		if c.state != view.Invited && strings.Join(got.Formats, " ") != "crl each" {
			t.Errorf("%s: formats %q", name, got.Formats)
		}
	}
}
