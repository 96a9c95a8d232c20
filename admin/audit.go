package admin

import (
	"context"
	"strconv"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
)

func (s *Service) audit(ctx context.Context, c *gate.Call) (any, error) {
	page, filter, err := c.Page()
	if err != nil {
		return nil, err
	}
	if filter != "" {
		return nil, gate.Invalid("", "the audit has no filter")
	}
	if page.After == "" {
		events, err := s.Store.LastEvents(ctx, page.Limit)
		return view.List(events, "", view.Event), err
	}
	after, err := strconv.ParseInt(page.After, 10, 64)
	if err != nil || after < 0 {
		return nil, gate.Invalid("", "after %q: a sequence number", page.After)
	}
	events, err := s.Store.Events(ctx, after, page.Limit)
	next := ""
	if len(events) == page.Limit {
		next = strconv.FormatInt(events[len(events)-1].Sequence, 10)
	}
	return view.List(events, next, view.Event), err
}
