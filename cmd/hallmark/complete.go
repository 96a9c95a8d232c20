package main

import (
	"context"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/client"
)

func modelNames(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	got, err := cl.Models(ctx)
	var names []string
	for _, m := range got.Items {
		names = append(names, m.Name+"\t"+m.Assurance)
	}
	return names, err
}

// openLots are those in which something can be made.
func openLots(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	got, err := cl.Lots(ctx)
	var names []string
	for _, l := range got.Items {
		if l.Closed.IsZero() {
			names = append(names, l.Name+"\t"+l.Model)
		}
	}
	return names, err
}

func lotNames(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	got, err := cl.Lots(ctx)
	var names []string
	for _, l := range got.Items {
		names = append(names, l.Name+"\t"+l.Model)
	}
	return names, err
}

func operatorNames(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	got, err := cl.Operators(ctx)
	var names []string
	for _, o := range got.Items {
		names = append(names, o.Name+"\t"+o.State)
	}
	return names, err
}

func fingerprints(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	got, err := cl.Authorities(ctx)
	var names []string
	for _, v := range got.Items {
		names = append(names, short(v.Fingerprint)+"\t"+v.Subject)
	}
	return names, err
}

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
