package terminal

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// Completion is what the shell asks for: names that may stand here.
type Completion = func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// Words completes from a fixed list.
func Words(list ...string) Completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// Nothing completes nothing: not even file names.
var Nothing = Words()

// Fetch asks the server for names; behind a tab, each may say something of what it names.
type Fetch = func(ctx context.Context, cl *client.Client, begun string) ([]string, error)

// Listed fetches a name for each thing that a verb of the client lists, but for those whose
// name is empty.
func Listed[T any](list func(*client.Client, context.Context) (wire.List[T], error), name func(T) string) Fetch {
	return func(ctx context.Context, cl *client.Client, _ string) (names []string, err error) {
		got, err := list(cl, ctx)
		for _, item := range got.Items {
			if text := name(item); text != "" {
				names = append(names, text)
			}
		}
		return names, err
	}
}

// Arguments completes arguments with names, as many as the command takes.
func (a *App) Arguments(fetch Fetch) Completion {
	ask := a.Names(fetch)
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && c.Args != nil && c.ValidateArgs(append(args, begun)) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return ask(c, args, begun)
	}
}

// Names completes a flag with names that the server knows. It is quick
// and silent: a shell waits for it at every tab.
func (a *App) Names(fetch Fetch) Completion {
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		path, err := a.Settings()
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
		return plainly(found), cobra.ShellCompDirectiveNoFileComp
	}
}

// maxCompletion bounds a name, and what is said of it, in bytes.
const maxCompletion = 500

// plainly leaves out what would steer the terminal or the shell, which shows what begins with
// cobra's mark for help as it is, and takes each line for a name.
func plainly(names []string) (kept []string) {
	for _, line := range names {
		name, about, described := strings.Cut(line, "\t")
		if len(name) > maxCompletion || plain.Line(name) != name || strings.HasPrefix(name, "_activeHelp_") {
			continue
		}
		if described { // as with an expression of several lines
			name += "\t" + plain.Line(strings.ToValidUTF8(about[:min(len(about), maxCompletion)], ""))
		}
		kept = append(kept, name)
	}
	return kept
}
