package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// maxList bounds a file that is read as a list, in bytes.
const maxList = 64 << 20

func (a *app) modelCommand() *cobra.Command {
	return terminal.Group("model", "Product types and their rules", "  hallmark model create sensor --assurance certified",
		a.modelCreate(), a.modelSet(), a.modelList(), a.modelShow())
}

func (a *app) modelCreate() *cobra.Command {
	var in wire.NewModel
	var rules modelRules
	c := &cobra.Command{
		Use: "create MODEL", Short: "Make a model",
		Long: `Make a model: a product type and the least that its devices must prove.

  certified   the TPM has a certificate of a maker that you imported (hallmark vendorca)
  registered  the TPM is on the lot's list, or on the ticket
  first-use   there is a TPM; which one is not known beforehand
  software    no hardware is needed

Making the same model again changes nothing.`,
		Example: "  hallmark model create sensor\n  hallmark model create gateway --assurance registered --ldevid-lifetime 7d",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: terminal.Nothing,
	}
	asJSON := terminal.JSONFlag(c)
	c.Flags().StringVar(&in.Assurance, "assurance", "certified", "certified, registered, first-use or software")
	rules.flags(c)
	c.RegisterFlagCompletionFunc("assurance", terminal.Words("certified", "registered", "first-use", "software"))
	c.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		in.Name, in.ModelRules = args[0], rules.changed(c)
		m, err := cl.CreateModel(c.Context(), in)
		if err != nil {
			return err
		}
		return showModel(c, *asJSON, m)
	})
	return c
}

// modelRules are the rules of a model that may change while it has devices.
type modelRules struct {
	life        terminal.Days
	poll, grace span
	// subject is empty where it stays as it is
	subject string
	names   []string
}

// changed are the rules whose flags were given.
func (r *modelRules) changed(c *cobra.Command) wire.ModelRules {
	rules := wire.ModelRules{Subject: r.subject}
	given := c.Flags().Changed
	if given("ldevid-lifetime") {
		seconds := r.life.Seconds()
		rules.LDevIDLifetime = &seconds
	}
	if given("poll") {
		rules.Poll = &r.poll.seconds
	}
	if given("grace") {
		rules.Grace = &r.grace.seconds
	}
	if given("serve-names") {
		names := strings.Join(r.names, ",")
		if names == "none" {
			names = ""
		}
		rules.ServeNames = &names
	}
	return rules
}

func (r *modelRules) flags(c *cobra.Command) {
	r.poll.words, r.grace.words = map[string]int64{"default": 0, "never": -1}, map[string]int64{"forever": 0}
	c.Flags().Var(&r.life, "ldevid-lifetime", "life of working certificates (default the installation's)")
	c.Flags().Var(&r.poll, "poll", "how often devices ask when to renew: 6h, 1d, never (default 6h)")
	c.Flags().StringVar(&r.subject, "subject", "", "commonName in working certificates, like acme-{serial}; set once (default MODEL:SERIAL)")
	c.Flags().StringSliceVar(&r.names, "serve-names", nil, "DNS names of a device's own web page, like {serial}.local, for which it then gets a certificate; none takes them away (default none)")
	c.RegisterFlagCompletionFunc("serve-names", terminal.Words("{serial}.local", "none"))
	c.RegisterFlagCompletionFunc("subject", terminal.Words("{serial}"))
	c.Flags().Var(&r.grace, "grace", "how long after its last working certificate ended a device still comes back by itself: 90d, forever (default forever)")
	c.RegisterFlagCompletionFunc("grace", terminal.Words("30d", "90d", "365d", "forever"))
	c.RegisterFlagCompletionFunc("poll", terminal.Words("1h", "6h", "1d", "never", "default"))
}

// span is a flag that takes durations, and words that stand for a number of seconds.
type span struct {
	seconds int64
	words   map[string]int64
}

func (s *span) String() string { return spell(s.seconds, "") }
func (s *span) Type() string   { return "duration" }

func (s *span) Set(text string) (err error) {
	seconds, ok := s.words[text]
	if !ok {
		var d terminal.Days
		err = d.Set(text)
		seconds = d.Seconds()
	}
	s.seconds = seconds
	return err
}

// spell writes seconds as a span takes them, and none for 0.
func spell(seconds int64, none string) string {
	switch seconds {
	case 0:
		return none
	case -1:
		return "never"
	}
	d := terminal.Days(time.Duration(seconds) * time.Second)
	return d.String()
}

func (a *app) modelSet() *cobra.Command {
	var rules modelRules
	c := &cobra.Command{
		Use: "set MODEL", Short: "Change rules of a model",
		Long: `Change rules of a model; those whose flag is left out stay. Its devices follow when they
next renew (--ldevid-lifetime, --subject, --serve-names), ask (--poll) or come back (--grace).`,
		Example: "  hallmark model set sensor --poll 1d\n  hallmark model set sensor --grace 90d\n  hallmark model set lamp --serve-names '{serial}.local'",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(modelNames),
	}
	asJSON := terminal.JSONFlag(c)
	rules.flags(c)
	c.MarkFlagsOneRequired("ldevid-lifetime", "poll", "grace", "subject", "serve-names")
	c.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		m, err := cl.SetModel(c.Context(), args[0], rules.changed(c))
		if err != nil {
			return err
		}
		return showModel(c, *asJSON, m)
	})
	return c
}

func (a *app) modelList() *cobra.Command {
	return terminal.Table(&a.App, &cobra.Command{Use: "list", Short: "List the models", Example: "  hallmark model list"},
		"MODEL\tASSURANCE\tLDEVID LIFETIME\tCREATED", (*client.Client).Models, func(m wire.Model) []string {
			return []string{m.Name, m.Assurance, spell(m.LDevIDLifetime, "default"), terminal.When(m.Created)}
		})
}

func (a *app) modelShow() *cobra.Command {
	c := &cobra.Command{Use: "show MODEL", Short: "Show a model", Example: "  hallmark model show sensor",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(modelNames)}
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, args []string) error {
		m, err := cl.Model(c.Context(), args[0])
		if err != nil {
			return err
		}
		return showModel(c, *asJSON, m)
	})
	return c
}

func showModel(c *cobra.Command, asJSON bool, m wire.Model) error {
	return terminal.Show(c, asJSON, m, [2]string{"Model", m.Name}, [2]string{"Assurance", m.Assurance},
		[2]string{"LDevID lifetime", spell(m.LDevIDLifetime, "default")}, [2]string{"Devices ask every", spell(m.Poll, "default")},
		[2]string{"Come back", spell(m.Grace, "forever")}, [2]string{"Subject", cmp.Or(m.Subject, "MODEL:SERIAL")}, [2]string{"Serve names", cmp.Or(m.ServeNames, "none")}, [2]string{"Created", terminal.Exactly(m.Created)})
}

func (a *app) lotCommand() *cobra.Command {
	return terminal.Group("lot", "Production batches and their quotas", "  hallmark lot create W47 --model sensor --quota 500",
		a.lotCreate(), a.lotList(), a.lotShow(), a.lotClose())
}

func (a *app) lotCreate() *cobra.Command {
	var in wire.NewLot
	var listFile string
	c := &cobra.Command{
		Use: "create LOT", Short: "Make a lot",
		Long: `Make a lot: a batch of one model in which at most --quota devices can ever be made.

With --ek-list only the TPMs on that list can fill it: a file with one EK Name a line
(hex of the hash algorithm and the digest, 000b…), as the TPMs' maker or your own
incoming inspection recorded them. Empty lines and lines that begin with # are skipped.`,
		Example: "  hallmark lot create W47 --model sensor --quota 500\n  hallmark lot create W48 --model sensor --quota 500 --ek-list w48.txt",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: terminal.Nothing,
	}
	asJSON := terminal.JSONFlag(c)
	c.Flags().StringVar(&in.Model, "model", "default", "the model that is made")
	c.Flags().Int64Var(&in.Quota, "quota", 0, "how many devices may ever be made")
	c.Flags().StringVar(&listFile, "ek-list", "", "file of the only EK Names that may fill the lot")
	c.MarkFlagRequired("quota")
	c.RegisterFlagCompletionFunc("model", a.Names(modelNames))
	c.RunE = terminal.Run(func(c *cobra.Command, args []string) error {
		in.Name = args[0]
		if listFile != "" {
			var err error
			if in.EKNames, err = readFile(listFile, readEKList); err != nil {
				return err
			}
		}
		cl, err := a.Change(c)
		if err != nil {
			return err
		}
		l, err := cl.CreateLot(c.Context(), in)
		if err != nil {
			return err
		}
		return showLot(c, *asJSON, l)
	})
	return c
}

func (a *app) lotList() *cobra.Command {
	return terminal.Table(&a.App, &cobra.Command{Use: "list", Short: "List the lots", Example: "  hallmark lot list"},
		"LOT\tMODEL\tMADE\tQUOTA\tEK LIST\tCREATED\tCLOSED", (*client.Client).Lots, func(l wire.Lot) []string {
			return []string{l.Name, l.Model, strconv.FormatInt(l.Used, 10), quota(l), yes(l.Listed), terminal.When(l.Created), terminal.When(l.Closed)}
		})
}

// lotVerb is a command that takes a lot and shows it.
func lotVerb(c *cobra.Command, with func(terminal.Act) func(*cobra.Command, []string) error, do func(*client.Client, context.Context, string) (wire.Lot, error)) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	asJSON := terminal.JSONFlag(c)
	c.RunE = with(func(c *cobra.Command, cl *client.Client, args []string) error {
		l, err := do(cl, c.Context(), args[0])
		if err != nil {
			return err
		}
		return showLot(c, *asJSON, l)
	})
	return c
}

func (a *app) lotShow() *cobra.Command {
	return lotVerb(&cobra.Command{Use: "show LOT", Short: "Show a lot", Example: "  hallmark lot show W47",
		ValidArgsFunction: a.Arguments(lotNames)}, a.Asking, (*client.Client).Lot)
}

func (a *app) lotClose() *cobra.Command {
	return lotVerb(&cobra.Command{Use: "close LOT", Short: "Close a lot for good",
		Long:    "Close a lot for good: nothing more can be made in it, whatever its quota. Its devices are not touched.",
		Example: "  hallmark lot close W47", ValidArgsFunction: a.Arguments(openLots)}, a.Changing, (*client.Client).CloseLot)
}

func showLot(c *cobra.Command, asJSON bool, l wire.Lot) error {
	return terminal.Show(c, asJSON, l, [2]string{"Lot", l.Name}, [2]string{"Model", l.Model}, [2]string{"Quota", quota(l)},
		[2]string{"Made", strconv.FormatInt(l.Used, 10)}, [2]string{"EK list", yes(l.Listed)},
		[2]string{"Created", terminal.Exactly(l.Created)}, [2]string{"Closed", terminal.Exactly(l.Closed)})
}

func quota(l wire.Lot) string {
	if l.Quota == 0 {
		return "none"
	}
	return strconv.FormatInt(l.Quota, 10)
}

func yes(b bool) string { return map[bool]string{true: "yes", false: "no"}[b] }

func (a *app) ticketCommand() *cobra.Command {
	return terminal.Group("ticket", "Single-use permissions to enrol a device", "  hallmark ticket create --serial SN-0001", a.ticketCreate())
}

func (a *app) ticketCreate() *cobra.Command {
	in := wire.NewTickets{}
	ttl := terminal.Days(wire.DefaultTicketTTL)
	var serial, from string
	c := &cobra.Command{
		Use: "create", Short: "Make tickets and print them, one a line",
		Long: `Make tickets and print them, one a line and nothing else. Each lets one device enrol
once. It carries a secret, the server's address and the fingerprint of its root:
"hallmark-device enrol TICKET" needs nothing more.

--from reads a CSV file with the header "serial" or "serial,ek" and prints the tickets
in its order; "ek" is the Name of the TPM's endorsement key (hex), and may be empty.
Semicolons, quotes, blanks and empty rows, as spreadsheets write them, are accepted.`,
		Example: "  hallmark ticket create --serial SN-0001\n  hallmark ticket create --lot W47 --count 100 --ttl 8h > tickets.txt\n" +
			"  hallmark ticket create --lot W47 --from serials.csv --ttl 90d > tickets.txt",
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&in.Lot, "lot", "default", "the lot that the devices will count in")
	c.Flags().StringVar(&serial, "serial", "", "bind the ticket to this serial number")
	c.Flags().IntVar(&in.Count, "count", 1, "how many tickets")
	c.Flags().StringVar(&from, "from", "", "CSV file of the devices to make tickets for")
	c.Flags().Var(&ttl, "ttl", "how long they are valid, at most 90d")
	c.MarkFlagsMutuallyExclusive("serial", "count", "from")
	c.MarkFlagFilename("from", "csv")
	c.RegisterFlagCompletionFunc("lot", a.Names(openLots))
	c.RunE = terminal.Run(func(c *cobra.Command, _ []string) error {
		in.TTL = ttl.Seconds()
		if serial != "" {
			in.Count, in.For = 0, []wire.TicketFor{{Serial: serial}}
		}
		if from != "" {
			var err error
			if in.For, err = readFile(from, readDevices); err != nil {
				return err
			}
			in.Count = 0
		}
		if in.Count+len(in.For) < 1 {
			return terminal.Usage(errors.New("--count must be at least 1"))
		}
		cl, err := a.Change(c)
		if err != nil {
			return err
		}
		return printTickets(c, cl, in)
	})
	return c
}

// printTickets asks for tickets in portions and prints each as it comes: what was
// made is on paper before the next is asked for.
func printTickets(c *cobra.Command, cl *client.Client, in wire.NewTickets) error {
	total, done := in.Count+len(in.For), 0
	out := bufio.NewWriter(c.OutOrStdout())
	watched := total > wire.MaxTickets && terminal.Interactive(c.ErrOrStderr())
	for done < total {
		part := wire.NewTickets{Lot: in.Lot, TTL: in.TTL}
		if size := min(total-done, wire.MaxTickets); in.Count > 0 {
			part.Count = size
		} else {
			part.For = in.For[done : done+size]
		}
		got, err := cl.CreateTickets(c.Context(), part)
		if err == nil {
			for _, ticket := range got.Tickets {
				fmt.Fprintln(out, plain.Line(ticket))
			}
			if err = out.Flush(); err == nil && len(got.Tickets) != max(part.Count, len(part.For)) {
				err = fmt.Errorf("the server made %d tickets in place of %d", len(got.Tickets), max(part.Count, len(part.For)))
			}
		}
		if watched {
			fmt.Fprintf(c.ErrOrStderr(), "\r%d of %d tickets", done+len(got.Tickets), total)
		}
		if err != nil && done > 0 {
			return fmt.Errorf("after %d of %d tickets, which are printed and valid: %w", done, total, err)
		}
		if err != nil {
			return err
		}
		done += len(got.Tickets)
	}
	if watched {
		fmt.Fprintln(c.ErrOrStderr())
	}
	return nil
}

// readFile reads a list from a file; "-" is standard input.
func readFile[T any](path string, read func(io.Reader) ([]T, error)) ([]T, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	limited := &io.LimitedReader{R: in, N: maxList + 1}
	items, err := read(limited)
	if err == nil && limited.N == 0 {
		err = fmt.Errorf("more than %d bytes", maxList)
	}
	if err == nil && len(items) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return items, nil
}

// readDevices reads CSV with the header serial[,ek]. Every device stands in it once.
func readDevices(r io.Reader) ([]wire.TicketFor, error) {
	in := unmarked(r)
	rows := csv.NewReader(in)
	rows.TrimLeadingSpace = true
	head, _ := in.Peek(len(`"serial";`))
	if bytes.ContainsRune(head, ';') { // spreadsheets write it where the comma is in decimal numbers
		rows.Comma = ';'
	}
	header, err := rows.Read()
	if err != nil && err != io.EOF {
		return nil, err
	}
	trim(header)
	if got := strings.ToLower(strings.Join(header, ",")); got != "serial" && got != "serial,ek" {
		return nil, fmt.Errorf("line 1: the header is %q; it must be serial or serial,ek, separated by commas or semicolons", got)
	}
	var devices []wire.TicketFor
	seen := map[string]int{}
	for {
		row, err := rows.Read() // as many fields as the header, or an error with the line
		if err == io.EOF {
			return devices, nil
		}
		if err != nil {
			return nil, err
		}
		line, _ := rows.FieldPos(0)
		trim(row)
		d := wire.TicketFor{Serial: row[0]}
		if len(row) > 1 {
			d.EKName = strings.ToLower(row[1])
		}
		key := "serial " + strings.ToLower(d.Serial)
		switch {
		case d == wire.TicketFor{}: // a spreadsheet's empty row
			continue
		case d.Serial == "":
			return nil, fmt.Errorf("line %d: no serial number", line)
		case seen[key] != 0:
			return nil, fmt.Errorf("line %d: the serial number %q stands in line %d already", line, d.Serial, seen[key])
		case d.EKName != "" && seen[d.EKName] != 0:
			return nil, fmt.Errorf("line %d: the EK Name %q stands in line %d already", line, d.EKName, seen[d.EKName])
		}
		seen[key], seen[d.EKName] = line, line
		devices = append(devices, d)
	}
}

func trim(row []string) {
	for i := range row {
		row[i] = strings.TrimSpace(row[i])
	}
}

// unmarked skips the byte order mark that spreadsheets and some editors begin a file with.
func unmarked(r io.Reader) *bufio.Reader {
	const mark = "\ufeff"
	in := bufio.NewReader(r)
	if head, _ := in.Peek(len(mark)); string(head) == mark {
		in.Discard(len(mark))
	}
	return in
}

// readEKList reads one EK Name a line. Every TPM stands in it once.
func readEKList(r io.Reader) ([]string, error) {
	var names []string
	seen := map[string]int{}
	lines := bufio.NewScanner(unmarked(r))
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if strings.Trim(text, "0123456789abcdefABCDEF") != "" {
			return nil, fmt.Errorf("line %d: %.40q is not an EK Name in hex", n, text)
		}
		if text = strings.ToLower(text); seen[text] != 0 {
			return nil, fmt.Errorf("line %d: %.140s stands in line %d already", n, text, seen[text])
		}
		names, seen[text] = append(names, text), n
	}
	return names, lines.Err()
}
