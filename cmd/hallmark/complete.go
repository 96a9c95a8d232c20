package main

import (
	"context"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/makers"
)

var (
	modelNames    = terminal.Listed((*client.Client).Models, func(m wire.Model) string { return m.Name + "\t" + m.Assurance })
	lotNames      = terminal.Listed((*client.Client).Lots, func(l wire.Lot) string { return l.Name + "\t" + l.Model })
	operatorNames = terminal.Listed((*client.Client).Operators, func(o wire.Operator) string { return o.Name + "\t" + o.State })
	fingerprints  = terminal.Listed((*client.Client).Authorities, func(v makers.Authority) string { return short(v.Fingerprint) + "\t" + v.Subject })
)

// openLots are those in which something can be made.
var openLots = terminal.Listed((*client.Client).Lots, func(l wire.Lot) string {
	if !l.Closed.IsZero() {
		return ""
	}
	return l.Name + "\t" + l.Model
})

// serials asks for the first devices whose serial number begins like this.
func serials(ctx context.Context, cl *client.Client, begun string) ([]string, error) {
	if strings.Trim(begun, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return nil, nil // no serial number, or a full name
	}
	got, err := cl.Devices(ctx, client.Query{Filter: "serial:" + begun + "*", Limit: 50})
	var names []string
	for _, d := range got.Items {
		names = append(names, d.Serial+"\t"+d.Model+", "+d.State)
	}
	return names, err
}
