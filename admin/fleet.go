package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/selection"
	"github.com/hallmark-pki/hallmark/admin/selector"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func (s *Service) devices(ctx context.Context, c *gate.Call) (any, error) {
	page, filter, err := c.Page()
	if err != nil {
		return nil, err
	}
	where, err := selector.Parse(filter, record.DeviceFields)
	if err != nil {
		return nil, err
	}
	rows, after, err := s.Store.Devices(ctx, where, page)
	return list(rows, after, showDevice), err
}

func (s *Service) device(ctx context.Context, c *gate.Call) (any, error) {
	d, err := selection.One(ctx, s.Store, c.Request.PathValue("device"))
	if err != nil {
		return nil, err
	}
	certificates, err := s.certificatesOf(ctx, d)
	out := showDevice(d)
	for i, ek := range d.EKs {
		out.TPM.EKs[i].Certificate = ek.Certificate
	}
	for _, row := range certificates {
		out.Certificates = append(out.Certificates, showCertificate(row, c.Now))
	}
	if err == nil {
		out.Granted, err = s.granted(ctx, d, c.Now)
	}
	return out, err
}

// certificatesOf lists a device's certificates, newest first; past a thousand, the
// newest thousand.
func (s *Service) certificatesOf(ctx context.Context, d record.Device) ([]record.Certificate, error) {
	rows, _, err := s.Store.Certificates(ctx, &record.Selector{Op: record.OpEqual, Field: "device", Value: d.ID}, record.Page{Limit: wire.MaxPage})
	return rows, err
}

// crlReasons are the words for CRLReason (RFC 5280 §5.3.1).
var crlReasons = map[string]int{
	"unspecified": record.ReasonUnspecified, "key-compromise": record.ReasonKeyCompromise,
	"affiliation-changed": record.ReasonAffiliation, "superseded": record.ReasonSuperseded,
	"cessation": record.ReasonCessation, "privilege-withdrawn": record.ReasonPrivilege,
}

const maxWhy = 1000 // bytes of free text

func (s *Service) suspend(ctx context.Context, c *gate.Call) (any, error) {
	return s.change(ctx, c, record.StateSuspended, "hold", func(d record.Device, _ int, e record.Event) ([]record.Shard, error) {
		return s.Status.Suspend(ctx, d.ID, e)
	})
}

func (s *Service) restore(ctx context.Context, c *gate.Call) (any, error) {
	return s.change(ctx, c, record.StateActive, "good", func(d record.Device, _ int, e record.Event) ([]record.Shard, error) {
		return s.Status.Restore(ctx, d.ID, e)
	})
}

func (s *Service) revoke(ctx context.Context, c *gate.Call) (any, error) {
	return s.change(ctx, c, record.StateRevoked, "revoked", func(d record.Device, reason int, e record.Event) ([]record.Shard, error) {
		return s.Status.Revoke(ctx, d.ID, reason, e.Reason, e)
	})
}

// change brings a device into a state, and its certificates to a status.
func (s *Service) change(ctx context.Context, c *gate.Call, state, certificates string, do func(record.Device, int, record.Event) ([]record.Shard, error)) (any, error) {
	var in wire.StatusRequest
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	reason, known := crlReasons[in.Reason]
	switch {
	case state == record.StateRevoked && !known:
		return nil, gate.Invalid("", "reason %q: one of %s", in.Reason, strings.Join(wire.RevocationReasons, ", "))
	case state != record.StateRevoked && in.Reason != "":
		return nil, gate.Invalid("", "only a revocation has a reason; say why in words")
	case len(in.Why) > maxWhy:
		return nil, gate.Invalid("", "why: at most %d bytes", maxWhy)
	}
	d, err := selection.One(ctx, s.Store, c.Request.PathValue("device"))
	if err != nil {
		return nil, err
	}
	verb := map[string]string{record.StateSuspended: "device.suspended", record.StateActive: "device.restored", record.StateRevoked: "device.revoked"}[state]
	e := c.Event(verb, d.Name())
	e.Reason = in.Why
	if known {
		e.Detail["reason"] = in.Reason
	}
	shards, err := do(d, reason, e)
	if errors.Is(err, record.ErrConflict) {
		return nil, gate.Refuse(http.StatusConflict, wire.CodeRevoked, "a revocation is final", "%s is revoked", d.Name())
	}
	if err != nil {
		return nil, err
	}
	if d.State == state {
		shards = nil // published once more, and nothing changed
	}
	rows, err := s.certificatesOf(ctx, d)
	out := wire.StatusChange{Device: d.Name(), State: state, Changed: d.State != state, Shards: len(shards)}
	for _, row := range rows {
		if record.StatusOf(row, c.Now) == certificates && slices.Contains(shards, record.Shard{Issuer: row.Issuer, Number: row.Shard}) {
			out.Certificates++
		}
	}
	return out, err
}

func (s *Service) certificates(ctx context.Context, c *gate.Call) (any, error) {
	page, filter, err := c.Page()
	if err != nil {
		return nil, err
	}
	where, err := selector.Parse(filter, record.CertificateFields)
	if err != nil {
		return nil, err
	}
	if err := s.nameDevices(ctx, where); err != nil {
		return nil, err
	}
	rows, after, err := s.Store.Certificates(ctx, where, page)
	return list(rows, after, func(row record.Certificate) wire.Certificate { return showCertificate(row, c.Now) }), err
}

// nameDevices replaces the names of devices in a selector by the IDs that the record
// knows their certificates by.
func (s *Service) nameDevices(ctx context.Context, where *record.Selector) error {
	if where == nil {
		return nil
	}
	for _, arg := range where.Args {
		if err := s.nameDevices(ctx, arg); err != nil {
			return err
		}
	}
	name, ok := where.Value.(string)
	if where.Field != "device" || where.Op == record.OpHas || !ok || name == "" {
		return nil
	}
	d, err := selection.One(ctx, s.Store, name)
	where.Value = d.ID
	return err
}

func (s *Service) certificate(ctx context.Context, c *gate.Call) (any, error) {
	text := c.Request.PathValue("serial")
	rows, err := s.Store.CertificatesNumbered(ctx, recordedSerial(text))
	switch {
	case err != nil:
		return nil, err
	case len(rows) == 0:
		return nil, gate.Refuse(http.StatusNotFound, wire.CodeNotFound, "write the serial number in hex, as hallmark cert list or openssl x509 -serial shows it",
			"no certificate here has the serial number %q", text)
	case len(rows) > 1:
		return nil, gate.Refuse(http.StatusConflict, wire.CodeAmbiguous, "", "%d issuers have used the serial number %q", len(rows), text)
	}
	out := showCertificate(rows[0], c.Now)
	out.PEM = certificatePEM(rows[0].DER)
	return out, nil
}

// recordedSerial turns a serial number as tools print it (upper case, colons, leading
// zeros dropped) into the record's form.
func recordedSerial(text string) string {
	text = strings.TrimPrefix(strings.ToLower(strings.ReplaceAll(text, ":", "")), "0x")
	return strings.Repeat("0", max(0, 32-len(text))) + text
}
