package party

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/admin/credential"
	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// issuance is how relays get their certificates.
func (s *Service) issuance() credential.Issuance {
	return credential.Issuance{
		Invited: "relying-party", Actor: "relay", AcceptLabel: wire.LabelRelayAccept, RenewLabel: wire.LabelRelay, Kind: wire.KindRelay,
		Permissions: s.Permissions, Issue: s.Issuer.IssueRelay,
		Take: func(ctx context.Context, id string, key [32]byte, at time.Time, e record.Event) (string, error) {
			p, err := s.Store.AcceptRelyingParty(ctx, id, key, at, e)
			return p.Name, err
		},
	}
}

// report keeps what a relay says of its relying party. What cannot be so is refused: a
// number that the feed has not reached would hide that the relay is behind.
func (s *Service) report(ctx context.Context, c *gate.Call) (any, error) {
	var in wire.RelayReport
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	newest, err := s.Newest(ctx)
	if err != nil {
		return nil, err
	}
	known := []string{wire.FormatCRL, wire.FormatSerials, wire.FormatMap, wire.FormatDenylist, wire.FormatFilter, wire.FormatRoots, wire.FormatEach}
	switch {
	case in.Number < -1 || in.Number > newest:
		return nil, gate.Refuse(http.StatusConflict, wire.CodeConflict, "take the snapshot again", "change %d is not in the feed, whose newest is %d", in.Number, newest)
	case in.Fail != wire.FailOpen && in.Fail != wire.FailClosed:
		return nil, gate.Invalid("", "fail %q is neither open nor closed", in.Fail)
	case len(in.Formats) > wire.MaxRelayFormats || slices.ContainsFunc(in.Formats, func(f string) bool { return !slices.Contains(known, f) }):
		return nil, gate.Invalid("", "formats are some of %s", strings.Join(known, ", "))
	case max(len(in.Program), len(in.Problem), len(in.Version)) > wire.MaxRelayText:
		return nil, gate.Invalid("", "a text has more than %d bytes", wire.MaxRelayText)
	}
	failing, err := failures(in, newest)
	if err != nil {
		return nil, err
	}
	err = s.Store.Report(ctx, c.Caller.Name, record.Enforcement{
		Number: in.Number, Reported: c.Now, Formats: strings.Join(in.Formats, ","), Program: in.Program,
		Fail: in.Fail, Until: in.Until, Problem: in.Problem, Version: in.Version, Failing: failing,
	})
	return wire.RelayAnswer{Time: c.Now}, err
}

// failures reads those of a report, one for each device.
func failures(in wire.RelayReport, newest int64) (all []record.Failure, err error) {
	named := map[string]bool{}
	for _, f := range in.Failing {
		if f.Device == "" || len(f.Device) > wire.MaxRelayText || named[f.Device] || f.Change < 1 || f.Change > newest || f.Times < 1 || f.Since.IsZero() {
			return nil, gate.Invalid("", "what fails is a device, named once, a change up to %d, a time and a number", newest)
		}
		named[f.Device] = true
		all = append(all, record.Failure(f))
	}
	if len(all) > wire.MaxRelayFailing {
		return nil, gate.Invalid("", "at most %d devices fail", wire.MaxRelayFailing)
	}
	return all, nil
}
