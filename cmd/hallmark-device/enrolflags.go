package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmark-device/internal/settings"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/serial"
	"github.com/hallmark-pki/hallmark/device/state"
)

// enrolFlags are the flags of an enrolment.
type enrolFlags struct {
	url, roots, serial, serialFrom string
	found                          *settings.Found
}

func (f *enrolFlags) flags(c *cobra.Command, o *commonFlags) {
	settings.Add(c, &f.url, "server", "")
	settings.Add(c, &f.roots, "roots", "")
	settings.Add(c, &f.serial, "serial", "")
	settings.Add(c, &f.serialFrom, "serial-from", "")
	settings.Add(c, &o.key, "key", "")
	settings.Add(c, &o.proxy, "proxy", "")
	c.MarkFlagsMutuallyExclusive("serial", "serial-from")
	c.RegisterFlagCompletionFunc("key", cobra.FixedCompletions([]string{"tpm", "file", "file:", "external:"}, cobra.ShellCompDirectiveNoSpace))
	c.RegisterFlagCompletionFunc("serial-from", cobra.FixedCompletions([]string{"dmi", "devicetree", "file:", "cmd:"}, cobra.ShellCompDirectiveNoSpace))
	f.found = &o.found
	o.resolved = func() {
		if c.Flags().Changed("serial-from") {
			f.serial = "" // it is from the file; a flag takes precedence
		}
	}
}

// server is the servers to contact and the roots to trust. A ticket says both, and only flags
// take precedence over it.
func (f *enrolFlags) server(c *cobra.Command, o *commonFlags, ticket bool) (urls []string, roots [][]byte, err error) {
	path := f.roots
	if path == "" {
		path = filepath.Join(o.state, state.AnchorsFile)
	}
	if !ticket || c.Flags().Changed("server") {
		urls = settings.List(f.url)
	}
	if ticket && !c.Flags().Changed("roots") {
		return urls, nil, nil
	}
	roots, err = device.ReadRoots(path)
	if f.roots == "" && errors.Is(err, os.ErrNotExist) {
		return urls, nil, nil
	}
	if err != nil {
		return nil, nil, advised{err, "--roots takes the file trust/infrastructure.pem of the server's folder"}
	}
	return urls, roots, nil
}

// serialNumber is the product's serial number; empty if no setting gives it.
func (f *enrolFlags) serialNumber(ctx context.Context) (string, error) {
	if f.serial != "" || f.serialFrom == "" {
		return f.serial, nil
	}
	if strings.HasPrefix(f.serialFrom, "cmd:") {
		if err := f.found.Guarded("serial-from"); err != nil {
			return "", err
		}
	}
	number, err := serial.Read(ctx, f.serialFrom)
	if err != nil {
		return "", fmt.Errorf("reading the serial number: %w", err)
	}
	return number, nil
}
