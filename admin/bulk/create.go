package bulk

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/consent"
	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/selection"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

const maxStages = 20

// create makes a job of a selection. What it needs is judged on the devices that it is
// about, in the transaction that fixes them.
func (s *Service) create(ctx context.Context, c *gate.Call) (any, error) {
	var in jobs.New
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	reason, err := check(in)
	if err != nil {
		return nil, err
	}
	of, err := selection.Of(ctx, s.Store, in.Selection)
	if err != nil {
		return nil, err
	}
	var made record.Job
	judge := func(left int64, release func()) (err error) {
		made, err = s.Store.CreateJob(ctx, of, c.Now, func(v record.JobView) (p record.JobPlan, err error) {
			j := record.Job{Kind: in.Kind, Operator: c.Caller.Name, Expression: in.Where, Reason: reason, Why: in.Why, State: record.JobRunning, Created: c.Now}
			if j.Stages, err = stages(in.Stages, v.Total); err != nil {
				return p, err
			}
			if err := counted(in, v); err != nil {
				return p, err
			}
			if p = plan(c, j, in, v, left); p.Approval != nil {
				release()
			}
			return p, nil
		})
		return err
	}
	if j := (record.Job{Kind: in.Kind}); j.Target() == record.StateRevoked {
		err = s.Watch.Revoking(ctx, c.Caller.Name, c.Now, judge)
	} else {
		err = judge(math.MaxInt64, func() {})
	}
	repeated := errors.Is(err, record.ErrExists)
	if err != nil && !repeated {
		return nil, err
	}
	s.Wake()
	out, err := s.shown(ctx, made, c.Now)
	out.Repeated = repeated
	return out, err
}

// check judges what was written, before any device is looked at, and reads the CRLReason.
func check(in jobs.New) (reason int, err error) {
	if _, known := view.Verbs[in.Kind]; !known {
		return 0, gate.Invalid("", "kind %q: one of %s, %s, %s, %s", in.Kind, jobs.Suspend, jobs.Restore, jobs.Retire, jobs.Revoke)
	}
	reason, err = view.ReadReason(in.Kind, in.Reason, in.Why)
	switch {
	case err != nil:
		return 0, gate.Invalid("", "%v", err)
	case in.Why == "" && in.Reason == "":
		return 0, gate.Invalid("", "an act on many devices needs a reason; say why in words")
	case len(in.BreakGlass) > view.MaxWhy:
		return 0, gate.Invalid("", "the reason of a break-glass: at most %d bytes", view.MaxWhy)
	}
	return reason, nil
}

// counted refuses what selects nothing, and everything unless the number was typed back.
func counted(in jobs.New, v record.JobView) error {
	switch {
	case v.Total == 0:
		return gate.Refuse(http.StatusNotFound, wire.CodeNotFound, "hallmark device list EXPR shows what an expression selects", "no device is selected")
	case in.Count != 0 && in.Count != v.Total:
		return gate.Refuse(http.StatusConflict, wire.CodeCount, "look again with --dry-run", "%d devices are selected, not %d", v.Total, in.Count)
	case v.Everything && len(in.Devices) == 0 && in.Count == 0:
		return gate.Refuse(http.StatusConflict, wire.CodeCount, "if that is what you want, type the number back: --count "+strconv.FormatInt(v.Total, 10),
			"this selects every device that there is to %s: %d", in.Kind, v.Total)
	}
	return nil
}

// plan lets a job run or wait. A revocation needs a second operator if it is of more than
// left devices, or of a whole lot; everybody else hears of any job.
func plan(c *gate.Call, j record.Job, in jobs.New, v record.JobView, left int64) record.JobPlan {
	e := c.Event("job.created", "")
	e.Reason, e.Alert = j.Why, true
	e.Detail["kind"], e.Detail["devices"] = j.Kind, strconv.FormatInt(v.Total, 10)
	if j.Expression != "" {
		e.Detail["where"] = j.Expression
	}
	if in.Reason != "" {
		e.Detail["reason"] = in.Reason
	}
	p := record.JobPlan{Job: j, Event: e}
	destroys := j.Target() == record.StateRevoked
	if !destroys || v.Total <= left && len(v.WholeLots) == 0 || consent.Alone(v.Able, j.Operator) {
		return p
	}
	consent.Ask(&p, cmp.Or(j.Why, in.Reason), in.BreakGlass, c.Now)
	return p
}

// stages turns "1%" and numbers into numbers of devices. Stages that a small job does not
// tell apart are one, and the last stage, of all devices, is no pause.
func stages(texts []string, total int64) (out []int64, err error) {
	if len(texts) > maxStages {
		return nil, gate.Invalid("", "at most %d stages", maxStages)
	}
	before := 0.0
	for _, text := range texts {
		number, percent := strings.CutSuffix(text, "%")
		n, err := strconv.ParseFloat(number, 64)
		if err == nil && percent {
			n = n / 100 * float64(total)
		}
		if err != nil || !(n > before) || percent && n > float64(total) || n > 1e9 || !percent && n != math.Trunc(n) {
			return nil, gate.Invalid("write 1%,10% or 10,1000", "stage %q: a percentage or a number of devices, each greater than the one before", text)
		}
		before = n
		end := int64(math.Ceil(n))
		if end < total && (len(out) == 0 || end > out[len(out)-1]) {
			out = append(out, end)
		}
	}
	return out, nil
}
