package audit

import (
	"context"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// Access is what one operator may do and has done, for the person who must say every
// quarter that all of them still need it.
type Access struct {
	Operator string    `json:"operator"`
	State    string    `json:"state"`
	Created  time.Time `json:"created"`
	// InvitedBy is who let the operator in; empty if that was before the period.
	InvitedBy string    `json:"invited_by,omitempty"`
	Disabled  time.Time `json:"disabled,omitzero"`
	// Certificates are those still good, by serial number, and Until the latest end.
	Certificates []string  `json:"certificates"`
	Until        time.Time `json:"until,omitzero"`
	// Acts counts the operator's events in the period, refused ones apart.
	Acts      int       `json:"acts"`
	Refused   int       `json:"refused"`
	LastActed time.Time `json:"last_acted,omitzero"`
}

func review(a *terminal.App) *cobra.Command {
	since := terminal.Days(90 * 24 * time.Hour)
	c := &cobra.Command{Use: "review", Short: "Export who may administer and what they did, for an access review",
		Long: `Export who may administer, since when, invited by whom, with which certificates, and how
often each of them acted: what the person needs who must say regularly that everybody
still needs the access they have.`,
		Example: "  hallmark audit review\n  hallmark audit review --since 365d --csv > access-2026.csv", Args: cobra.NoArgs, ValidArgsFunction: terminal.Nothing}
	asJSON := terminal.JSONFlag(c)
	asCSV := c.Flags().Bool("csv", false, "print CSV")
	c.Flags().Var(&since, "since", "how far back acts are counted")
	c.MarkFlagsMutuallyExclusive("json", "csv")
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, _ []string) error {
		all, err := accesses(c.Context(), cl, time.Now().Add(-time.Duration(since)))
		if err != nil {
			return err
		}
		if *asCSV {
			return writeCSV(c, all)
		}
		return terminal.List(c, *asJSON, 0, "OPERATOR\tSTATE\tCREATED\tINVITED BY\tCERTIFICATES\tUNTIL\tACTS\tREFUSED\tLAST ACTED", func(v Access) []string {
			return []string{v.Operator, v.State, terminal.When(v.Created), v.InvitedBy, strconv.Itoa(len(v.Certificates)), terminal.When(v.Until),
				strconv.Itoa(v.Acts), strconv.Itoa(v.Refused), terminal.When(v.LastActed)}
		}, func(int, string) (wire.List[Access], error) { return wire.List[Access]{Items: all}, nil })
	})
	return c
}

func accesses(ctx context.Context, cl *client.Client, since time.Time) ([]Access, error) {
	operators, err := cl.Operators(ctx)
	if err != nil {
		return nil, err
	}
	all, at := make([]Access, len(operators.Items)), map[string]int{}
	for i, o := range operators.Items {
		all[i], at[o.Name] = Access{Operator: o.Name, State: o.State, Created: o.Created, Disabled: o.Disabled, Certificates: []string{}}, i
	}
	certificates := 0
	err = terminal.EachPage(func(after string) (string, error) {
		got, err := cl.Certificates(ctx, client.Query{Filter: "profile = operator AND status = good", Limit: wire.MaxPage, After: after})
		for _, v := range got.Items {
			if i, ok := at[v.Operator]; ok {
				all[i].Certificates = append(all[i].Certificates, v.Serial)
				if v.NotAfter.After(all[i].Until) {
					all[i].Until = v.NotAfter
				}
			}
		}
		if certificates += len(got.Items); certificates > wire.MaxListed { // kept until the end
			return "", fmt.Errorf("the server names more than %d certificates of operators", wire.MaxListed)
		}
		return got.After, err
	})
	if err != nil {
		return nil, err
	}
	return all, terminal.EachPage(func(after string) (string, error) {
		sequence, _ := strconv.ParseInt(after, 10, 64) // the server's own number, or empty at the beginning
		got, err := cl.EventsAfter(ctx, sequence, wire.MaxPage)
		for _, e := range got.Items {
			count(all, at, e, since)
		}
		return got.After, err
	})
}

// count adds an event to what its actor has done.
func count(all []Access, at map[string]int, e wire.Event, since time.Time) {
	name, ok := strings.CutPrefix(e.Actor, "operator:")
	if i, known := at[e.Object]; known && e.Verb == "operator.invited" {
		all[i].InvitedBy = name
	}
	i, known := at[name]
	if !ok || !known || e.Time.Before(since) {
		return
	}
	if strings.HasSuffix(e.Verb, ".refused") {
		all[i].Refused++
	} else {
		all[i].Acts++
	}
	all[i].LastActed = e.Time
}

func writeCSV(c *cobra.Command, all []Access) error {
	w := csv.NewWriter(c.OutOrStdout())
	w.Write([]string{"operator", "state", "created", "invited_by", "disabled", "certificates", "until", "acts", "refused", "last_acted"})
	for _, v := range all {
		w.Write([]string{cell(v.Operator), cell(v.State), stamp(v.Created), cell(v.InvitedBy), stamp(v.Disabled), cell(strings.Join(v.Certificates, " ")), stamp(v.Until),
			fmt.Sprint(v.Acts), fmt.Sprint(v.Refused), stamp(v.LastActed)})
	}
	w.Flush()
	return w.Error()
}

// cell is a text that is no formula to a spreadsheet, whatever the server says.
func cell(text string) string {
	if strings.IndexAny(text, "=+-@") == 0 {
		text = "'" + text
	}
	return plain.Line(text)
}

// stamp is a time in a review: a date that sorts, or nothing.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
