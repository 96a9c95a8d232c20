package bulk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// report signs what the record says of a job.
func (s *Service) report(ctx context.Context, c *gate.Call) (any, error) {
	id := c.Request.PathValue("id")
	j, err := s.Store.Job(ctx, id)
	if err != nil {
		return nil, worded(err, id)
	}
	r := jobs.Report{Installation: s.Name, Made: c.Now.UTC(), Approvals: []jobs.Approval{}}
	if r.Job, err = s.shown(ctx, j, c.Now); err != nil {
		return nil, err
	}
	about, err := s.about(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, a := range about {
		shown, err := s.showApproval(ctx, a)
		if err != nil {
			return nil, err
		}
		shown.Job = nil
		r.Approvals = append(r.Approvals, shown)
	}
	if r.Enforcement, err = s.enforcement(ctx, j); err != nil {
		return nil, err
	}
	shards, err := s.Store.JobShards(ctx, id, c.Now)
	if err != nil {
		return nil, err
	}
	r.Shards = view.Each(shards, shard)
	if err := s.reportDevices(ctx, j, &r); err != nil {
		return nil, err
	}
	chain, key, err := s.Seal(ctx)
	if err != nil {
		return nil, err
	}
	return jobs.SignReport(r, chain, key)
}

func (s *Service) reportDevices(ctx context.Context, j record.Job, r *jobs.Report) error {
	sum := sha256.New()
	for page := (record.Page{Limit: wire.MaxPage}); ; {
		rows, after, err := s.Store.JobDevices(ctx, j.ID, "", page)
		if err != nil {
			return err
		}
		for _, row := range rows {
			d := showDevice(row)
			sum.Write([]byte(d.Line()))
			if j.Total <= jobs.MaxReported {
				r.Devices = append(r.Devices, d)
			}
		}
		if page.After = after; after == "" {
			r.DevicesSHA256 = hex.EncodeToString(sum.Sum(nil))
			return nil
		}
	}
}
