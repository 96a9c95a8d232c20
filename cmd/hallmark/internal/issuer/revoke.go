package issuer

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/issuers"
)

func revoke(a *terminal.App) *cobra.Command {
	var in issuers.NewRevocation
	within := terminal.Days(issuers.DefaultWithin)
	c := &cobra.Command{
		Use: "revoke ISSUER [--reissue] --reason REASON", Short: "End every certificate that an issuing CA has issued",
		Long: `End every certificate that an issuing CA has issued, by a job. Devices stay what they
are: with --reissue a renewal plan has them get others from its successor within
--within, each by attestation. What has not renewed when its certificate ends is
refused by relying parties until it next asks, and renews then with its birth
certificate; if that is what ended, it attests by its TPM's endorsement key and gets
another.

The successor must issue already ("hallmarkd trust"). It takes a second operator, as
soon as there is one; --break-glass goes ahead for an hour, alerts everybody and is
reviewed. What takes the root's key is said at the end.`,
		Example: "  hallmark issuer revoke operational --reissue --reason key-compromise --why 'the server was stolen'\n" +
			"  hallmark issuer revoke operational --reissue --within 6h --reason superseded",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(names),
	}
	asJSON := terminal.JSONFlag(c)
	c.Flags().BoolVar(&in.Reissue, "reissue", false, "have its devices get certificates of its successor")
	c.Flags().Var(&within, "within", "the time over which they do, evenly spread")
	c.Flags().StringVar(&in.Reason, "reason", "", strings.Join(wire.RevocationReasons, ", "))
	c.Flags().StringVar(&in.Why, "why", "", "why, in words, for the audit")
	c.Flags().StringVar(&in.BreakGlass, "break-glass", "", "why it cannot wait for another operator")
	c.MarkFlagRequired("reason")
	c.RegisterFlagCompletionFunc("reason", terminal.Words(wire.RevocationReasons...))
	c.RegisterFlagCompletionFunc("within", terminal.Words("1h", "6h", "1d", "7d"))
	for _, name := range []string{"why", "break-glass"} {
		c.RegisterFlagCompletionFunc(name, terminal.Nothing)
	}
	c.RunE = terminal.Run(func(c *cobra.Command, args []string) error {
		if in.Reissue {
			in.Within = within.Seconds()
		}
		cl, err := a.Change(c)
		if err != nil {
			return err
		}
		r, err := cl.RevokeIssuer(c.Context(), args[0], in)
		if err != nil || *asJSON {
			err = terminal.Shown(c, r, err)
		} else {
			_, err = io.WriteString(c.OutOrStdout(), plain.Text(said(r, in.Reason)))
		}
		if err == nil && r.State == "waiting" {
			err = terminal.Waiting(fmt.Errorf("job %s, the revocation of %s, waits for another operator", r.Job, r.Issuer), "another operator types: hallmark approve "+r.Approval)
		}
		return err
	})
	return c
}

// said tells what happens, who sees it how, and what is left to do.
func said(r issuers.Revocation, reason string) string {
	var b strings.Builder
	if r.State == "waiting" {
		fmt.Fprintf(&b, "%s will be revoked by job %s once another operator types: hallmark approve %s\n(if nobody can, cancel it and its renewal plan with hallmark job cancel %[2]s, and type this again with --break-glass WHY)\n", r.Issuer, r.Job, r.Approval)
	} else {
		fmt.Fprintf(&b, "%s is being revoked by job %s, with the certificates of %s: hallmark job show %[2]s\n", r.Issuer, r.Job, terminal.Count(int(r.Devices), "device"))
		if r.Approval != "" {
			fmt.Fprintf(&b, "It does not wait for another operator, who must review that however late: hallmark approve %s\n(what is not done after an hour without a review pauses)\n", r.Approval)
		}
	}
	if p := r.Plan; p != nil {
		fmt.Fprintf(&b, "%s issues to %s until %s: hallmark renew show %s\n", r.Successor, terminal.Count(int(p.Total), "device"), p.Due.Local().Format(time.DateTime), p.ID)
	} else if r.Devices > 0 {
		fmt.Fprintf(&b, "No renewal plan was made: each device gets a certificate of %s when it next asks.\n", r.Successor)
	}
	fmt.Fprintf(&b, "\n%s\n", meanwhile(r.Issuer))
	if !r.Listed.IsZero() {
		b.WriteString("Its root's CRL names it, for those who check the whole chain. Left to do, on the server:\n")
	} else {
		fmt.Fprintf(&b, `These lists it signs itself, and whoever has its key can still make certificates that
none names. Left to do, on the server:
  hallmarkd issuer revoke %[1]s --root-key KEY --reason %[2]s
      (with --unsigned FILE in place of the key, to sign where it is kept)
      its root's CRL names it, for those who check the whole chain
`, r.Issuer, reason)
	}
	fmt.Fprintf(&b, "  hallmarkd trust retire-root %s, then sign and publish\n      nobody trusts its root any more, once everybody has the new roots\n", r.Issuer)
	return b.String()
}

// meanwhile is who sees the end of an issuer's certificates, and how.
func meanwhile(issuer string) string {
	switch line, _, _ := strings.Cut(issuer, "-"); line {
	case "operational":
		return "Relying parties find each of its certificates on its CRL shard, in OCSP and in the feed,\nand refuse a device until it has another."
	case "manufacturing":
		return "Birth certificates are shown to Hallmark alone, which refuses them at once; devices work\non with their working certificates, and get another birth certificate by attestation."
	}
	return "Servers, operators and relays with its certificates are refused at once: those that did\nnot renew by themselves before need an invitation, or hallmarkd operator recover."
}
