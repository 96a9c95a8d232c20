package admin

import (
	"context"
	"errors"
	"hash/crc32"
	"net/http"
	"slices"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/selection"
	"github.com/hallmark-pki/hallmark/admin/selector"
	"github.com/hallmark-pki/hallmark/admin/view"
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
	return view.List(rows, after, view.Device), err
}

func (s *Service) device(ctx context.Context, c *gate.Call) (any, error) {
	d, err := selection.One(ctx, s.Store, c.Request.PathValue("device"))
	if err != nil {
		return nil, err
	}
	certificates, err := s.certificatesOf(ctx, d)
	out := view.Device(d)
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

// changing handles what does to one device what a job of that kind does to many.
func (s *Service) changing(kind string) func(context.Context, *gate.Call) (any, error) {
	return func(ctx context.Context, c *gate.Call) (any, error) { return s.change(ctx, c, kind) }
}

// statusIn is the status (record.StatusOf) of the certificates of a device in each state.
var statusIn = map[string]string{record.StateActive: "good", record.StateSuspended: "hold", record.StateRevoked: "revoked"}

func (s *Service) change(ctx context.Context, c *gate.Call, kind string) (any, error) {
	var in wire.StatusRequest
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	reason, err := view.ReadReason(kind, in.Reason, in.Why)
	if err != nil {
		return nil, gate.Invalid("", "%v", err)
	}
	d, err := selection.One(ctx, s.Store, c.Request.PathValue("device"))
	if err != nil {
		return nil, err
	}
	target := record.Job{Kind: kind}.Target()
	e := c.Event(view.Verbs[kind], d.Name())
	e.Reason, e.Alert = in.Why, true // one person's act, of which the others hear (design decision 14)
	if target == record.StateRevoked {
		e.Detail["reason"] = view.Reason(reason)
	}
	out, shards, err := s.act(ctx, c, d.ID, target, reason, e)
	if errors.Is(err, record.ErrConflict) {
		return nil, gate.Refuse(http.StatusConflict, wire.CodeRevoked, "a revocation is final, unless two operators lift it: hallmark device lift", "%s is revoked", d.Name())
	}
	if _, failed := s.Status.PublishChange(ctx, shards, nil); failed != nil {
		return nil, failed
	}
	return out, err
}

// act moves a device to a state, and returns the shards to publish, also if what it did could not be
// counted. Meanwhile nobody else acts on the device: the answer is of this act alone.
func (s *Service) act(ctx context.Context, c *gate.Call, device, target string, reason int, e record.Event) (out wire.StatusChange, shards []record.Shard, err error) {
	mine := &s.acting[crc32.ChecksumIEEE([]byte(device))%uint32(len(s.acting))]
	mine.Lock()
	defer mine.Unlock()
	d, err := s.Store.Device(ctx, device)
	if err != nil {
		return out, nil, err
	}
	write := func() error {
		switch target {
		case record.StateSuspended:
			shards, err = s.Store.Suspend(ctx, d.ID, s.Now(), e)
		case record.StateActive:
			shards, err = s.Store.Restore(ctx, d.ID, s.Now(), e)
		case record.StateRevoked:
			shards, err = s.Store.Revoke(ctx, d.ID, s.Now(), reason, e.Reason, e)
		}
		return err
	}
	if target == record.StateRevoked && d.State != target {
		err = s.Watch.RevokeOne(ctx, c, d, write)
	} else {
		err = write()
	}
	if err != nil {
		return out, nil, err
	}
	out = wire.StatusChange{Device: d.Name(), State: target, Changed: d.State != target, Unsigned: s.Status.Unsigned(shards)}
	if !out.Changed {
		return out, shards, nil // they are published once more
	}
	for _, sh := range shards {
		if s.Status.Signs(sh.Issuer) {
			out.Shards++
		}
	}
	rows, err := s.certificatesOf(ctx, d)
	for _, row := range rows {
		if record.StatusOf(row, c.Now) == statusIn[target] && slices.Contains(shards, record.Shard{Issuer: row.Issuer, Number: row.Shard}) {
			out.Certificates++
		}
	}
	return out, shards, err
}

// lift lets a revoked device come back, as two operators want.
func (s *Service) lift(ctx context.Context, c *gate.Call) (any, error) {
	var in wire.StatusRequest
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	d, err := selection.One(ctx, s.Store, c.Request.PathValue("device"))
	if err != nil {
		return nil, err
	}
	switch {
	case in.Reason != "" || in.Why == "" || len(in.Why) > view.MaxWhy:
		return nil, gate.Invalid("", "say why in words, in at most %d bytes", view.MaxWhy)
	case d.State != record.StateRevoked:
		return wire.StatusChange{Device: d.Name(), State: d.State}, nil
	}
	e := c.Event("device.lifted", d.Name())
	e.Reason, e.Alert = in.Why, true
	if err := s.Watch.Need(ctx, c, &e, record.ApproveTombstone, d.ID, d.Name()); err != nil {
		return nil, err
	}
	err = s.Store.Lift(ctx, d.ID, e)
	return wire.StatusChange{Device: d.Name(), State: record.StateActive, Changed: true}, err
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
	return view.List(rows, after, func(row record.Certificate) wire.Certificate { return showCertificate(row, c.Now) }), err
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
