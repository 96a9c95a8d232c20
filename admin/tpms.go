package admin

import (
	"context"
	"errors"
	"net/http"
	"regexp"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/makers"
)

// What an EK certificate may say of its chip (TCG EK Credential Profile §3.2.9), and what
// attest/tpm2 calls the type of its key.
var (
	chipName = regexp.MustCompile(`^[ -~]{0,64}$`)
	typeName = regexp.MustCompile(`^(P-256|P-384|RSA-[234][0-9]{3})$`)
)

func (s *Service) ekTypes(ctx context.Context, _ *gate.Call) (any, error) {
	all, err := s.Store.EKTypes(ctx)
	return view.List(all, "", showEKType), err
}

func (s *Service) allowEKType(ctx context.Context, c *gate.Call) (any, error) {
	var in makers.NewEKType
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	switch {
	case !chipName.MatchString(in.Maker) || !chipName.MatchString(in.Model):
		return nil, gate.Invalid("hallmark device show SERIAL shows both", "maker %q, model %q: at most 64 printable characters", in.Maker, in.Model)
	case !typeName.MatchString(in.Type):
		return nil, gate.Invalid("the refusal names it: hallmark audit list", "type %q: P-256, P-384 or RSA-2048", in.Type)
	}
	t := record.EKType{Maker: in.Maker, Model: in.Model, Type: in.Type, Since: c.Now, AllowedBy: c.Caller.Name}
	e := c.Event("tpm.allowed", in.Type)
	e.Detail["maker"], e.Detail["model"] = in.Maker, in.Model
	err := s.Store.AllowEKType(ctx, t, e)
	if errors.Is(err, record.ErrExists) {
		err = gate.Refuse(http.StatusConflict, wire.CodeConflict, "hallmark tpm list shows them", "the %s key of %s %s counts already", in.Type, in.Maker, in.Model)
	}
	return showEKType(t), err
}

func showEKType(t record.EKType) makers.EKType { return makers.EKType(t) }
