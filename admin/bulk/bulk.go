// Package bulk is acts on many devices: an operator selects them, sees what would happen,
// and makes a job of it, which runs at once, or waits for another operator.
package bulk

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/consent"
	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/selection"
	"github.com/hallmark-pki/hallmark/admin/selector"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// Store is what these requests ask of the record.
type Store interface {
	record.Jobs
	record.Labels
	record.Approvals
	record.Alerts
	record.Settings
	selection.Store
	Issuers(ctx context.Context) ([]string, error)
	RelyingParties(ctx context.Context) ([]record.RelyingParty, error)
	TakenUp(ctx context.Context, number int64, job string) ([]record.Taken, error)
}

// Config is what a Service is made of; every field is needed.
type Config struct {
	Store Store
	Watch *consent.Watch
	// Unsigned is status.Service.Unsigned.
	Unsigned func(shards []record.Shard) map[string]string
	// Wake tells the job runner that there may be work.
	Wake func()
	// Name is the installation's name, for reports. Seal gives the certificates, leaf first
	// and without the root, and the key (ECDSA P-256) that sign them.
	Name string
	Seal func(ctx context.Context) (chain []*x509.Certificate, key crypto.Signer, err error)
}

// Service answers operators.
type Service struct{ Config }

// New checks that nothing is missing.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Watch == nil || c.Unsigned == nil || c.Wake == nil || c.Name == "" || c.Seal == nil {
		return nil, errors.New("bulk: a part is missing")
	}
	return &Service{c}, nil
}

// maxSelection bounds a body with a selection, in bytes.
const maxSelection = 256 << 10

// Routes are for operators.
func (s *Service) Routes() []gate.Route {
	return []gate.Route{
		{Pattern: "POST " + jobs.PathSurvey, Handle: s.survey, Limit: maxSelection},
		{Pattern: "POST " + jobs.PathLabels, Handle: s.label, Limit: maxSelection},
		{Pattern: "GET " + jobs.PathJobs, Handle: s.list},
		{Pattern: "POST " + jobs.PathJobs, Handle: s.create, Limit: maxSelection},
		{Pattern: "GET " + jobs.PathJobs + "/{id}", Handle: s.show},
		{Pattern: "GET " + jobs.PathJobs + "/{id}/devices", Handle: s.devices},
		{Pattern: "GET " + jobs.PathJobs + "/{id}/report", Handle: s.report},
		{Pattern: "POST " + jobs.PathJobs + "/{id}/pause", Handle: s.pause},
		{Pattern: "POST " + jobs.PathJobs + "/{id}/resume", Handle: s.resume},
		{Pattern: "POST " + jobs.PathJobs + "/{id}/cancel", Handle: s.cancel},
		{Pattern: "GET " + jobs.PathApprovals, Handle: s.approvals},
		{Pattern: "POST " + jobs.PathApprovals + "/{id}", Handle: s.approve},
		{Pattern: "GET " + jobs.PathAlerts, Handle: s.alerts},
		{Pattern: "POST " + jobs.PathAlerts, Handle: s.seen},
		{Pattern: "GET " + jobs.PathSettings, Handle: s.settings},
		{Pattern: "POST " + jobs.PathSettings + "/{name}", Handle: s.set},
	}
}

func (s *Service) survey(ctx context.Context, c *gate.Call) (any, error) {
	var in jobs.Selection
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	of, err := selection.Of(ctx, s.Store, in)
	if err != nil {
		return nil, err
	}
	v, err := s.Store.Survey(ctx, of, c.Now)
	return jobs.Survey{Devices: v.Devices, Fleet: v.Fleet,
		States: view.Each(v.States, tally), Models: view.Each(v.Models, tally), Lots: view.Each(v.Lots, tally), Contact: view.Each(v.Contact, tally),
		Sample: view.Each(v.Sample, view.Device), Certificates: v.Certificates, Shards: view.Each(v.Shards, shard), Unsigned: s.Unsigned(v.Shards)}, err
}

func tally(t record.Tally) jobs.Tally { return jobs.Tally{Name: t.Name, Count: t.Count} }
func shard(s record.Shard) jobs.Shard { return jobs.Shard{Issuer: s.Issuer, Number: s.Number} }

// Bounds of labels.
const (
	maxLabels = 20
	maxValue  = 256 // bytes
)

func (s *Service) label(ctx context.Context, c *gate.Call) (any, error) {
	var in jobs.NewLabels
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	if n := len(in.Set) + len(in.Remove); n == 0 || n > maxLabels {
		return nil, gate.Invalid("write KEY=VALUE to set a label and KEY- to remove it", "1 to %d labels may change at once, not %d", maxLabels, n)
	}
	e := c.Event("device.labelled", in.Where)
	for key, value := range in.Set {
		if len(value) > maxValue || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, gate.Invalid("", "the value of label %q: at most %d bytes of text", key, maxValue)
		}
		e.Detail["set."+key] = value
	}
	for _, key := range in.Remove {
		if _, both := in.Set[key]; both {
			return nil, gate.Invalid("", "label %q is set and removed", key)
		}
		e.Detail["removed."+key] = ""
	}
	for name := range e.Detail {
		if _, key, _ := strings.Cut(name, "."); !selector.LabelKey.MatchString(key) {
			return nil, gate.Invalid("", "label %q: a letter and up to 62 of a-z, 0-9, _ and -", key)
		}
	}
	if e.Object == "" {
		e.Object = strings.Join(in.Devices[:min(len(in.Devices), 20)], " ")
	}
	of, err := selection.Of(ctx, s.Store, in.Selection)
	if err != nil {
		return nil, err
	}
	n, err := s.Store.LabelDevices(ctx, of, in.Set, in.Remove, e)
	return jobs.Labelled{Devices: n}, err
}

// worded tells the caller what stands in the way, or that there is no such thing.
func worded(err error, id string) error {
	return gate.Absent(gate.Conflict(err, ""), "hallmark job list and hallmark approve list show those there are", "there is no %q", id)
}
