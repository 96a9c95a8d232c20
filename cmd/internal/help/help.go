// Package help has --help show switches as people type them: "--json", for which pflag writes
// "--json[=true|false]".
package help

import (
	"bytes"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

const marker = "[=true|false]"

// Switches has the help of a command, and of those below it, show switches without pflag's marker.
func Switches(root *cobra.Command) {
	show := root.HelpFunc()
	root.SetHelpFunc(func(c *cobra.Command, args []string) {
		out := c.OutOrStdout()
		var page bytes.Buffer
		c.SetOut(&page)
		show(c, args)
		c.SetOut(out)
		io.WriteString(out, strings.ReplaceAll(page.String(), marker, strings.Repeat(" ", len(marker)))) // keeps the columns
	})
}
