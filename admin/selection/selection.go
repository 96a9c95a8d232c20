// Package selection finds the devices that a person means, by name or by expression.
package selection

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/selector"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// Store is what finding asks of the record.
type Store interface {
	Device(ctx context.Context, id string) (record.Device, error)
	DevicesNamed(ctx context.Context, model, serial string) ([]record.Device, error)
}

// One finds the one device that a person means by MODEL:SERIAL, ID or SERIAL. A full
// name comes first: serial numbers may hold colons, and there must be a name for every
// device that means no other. An ID, which we gave, comes before a serial number, which the
// device may have chosen.
func One(ctx context.Context, s Store, text string) (record.Device, error) {
	var found []record.Device
	var err error
	if model, serial, ok := strings.Cut(text, ":"); ok && model != "" {
		found, err = s.DevicesNamed(ctx, model, serial)
	}
	if err == nil && len(found) == 0 {
		d, absent := s.Device(ctx, text)
		if !errors.Is(absent, record.ErrNotFound) {
			return d, absent
		}
		found, err = s.DevicesNamed(ctx, "", text)
	}
	if err != nil {
		return record.Device{}, err
	}
	if len(found) == 0 {
		return record.Device{}, gate.Refuse(http.StatusNotFound, wire.CodeNotFound, "hallmark device list shows those there are", "there is no device %q", text)
	}
	if len(found) > 1 {
		names := make([]string, len(found))
		for i, d := range found {
			names[i] = d.Name()
		}
		slices.Sort(names)
		return record.Device{}, gate.Refuse(http.StatusConflict, wire.CodeAmbiguous, "write MODEL:SERIAL",
			"%q is the serial number of %d devices: %s", text, len(found), strings.Join(names[:min(len(names), 20)], ", "))
	}
	return found[0], nil
}

// Of reads a selection. A device that is named twice is meant once; nothing named means
// all that the expression selects.
func Of(ctx context.Context, s Store, in jobs.Selection) (record.Selection, error) {
	if len(in.Devices) == 0 {
		where, err := selector.Parse(in.Where, record.DeviceFields)
		return record.Selection{Where: where}, err
	}
	switch {
	case in.Where != "":
		return record.Selection{}, gate.Invalid("", "devices are named or selected by an expression, not both")
	case len(in.Devices) > jobs.MaxNamed:
		return record.Selection{}, gate.Invalid("select them by an expression, on a label perhaps", "%d devices are named; at most %d may be", len(in.Devices), jobs.MaxNamed)
	}
	out := record.Selection{Devices: make([]string, len(in.Devices))}
	for i, text := range in.Devices {
		d, err := One(ctx, s, text)
		if err != nil {
			return record.Selection{}, err
		}
		out.Devices[i] = d.ID
	}
	slices.Sort(out.Devices)
	out.Devices = slices.Compact(out.Devices)
	return out, nil
}
