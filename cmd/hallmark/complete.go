package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
)

// completion is what the shell asks for: names that may stand here.
type completion = func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// words completes from a fixed list.
func words(list ...string) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// nothing completes nothing: not even file names.
var nothing = words()

// arguments completes arguments with names, as many as the command takes.
func (a *app) arguments(fetch func(ctx context.Context, cl *client.Client, begun string) ([]string, error)) completion {
	ask := a.names(fetch)
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && c.Args != nil && c.ValidateArgs(append(args, begun)) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return ask(c, args, begun)
	}
}

// names completes a flag with names that the server knows. It is quick
// and silent: a shell waits for it at every tab.
func (a *app) names(fetch func(ctx context.Context, cl *client.Client, begun string) ([]string, error)) completion {
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		path, err := a.settings()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		cl, err := client.Load(path, func(string) {})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second)
		defer cancel()
		found, err := fetch(ctx, cl, begun)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

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
