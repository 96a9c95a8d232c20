package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/job"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// filterHelp explains EXPR; the fields are named by the server's error as well.
const filterHelp = `EXPR compares fields (AIP-160): = != and, with * as a wildcard, the colon for text;
= != < <= > >= for times, which are dates or RFC 3339. AND may be left out, OR binds
more tightly than AND, NOT negates, brackets group.`

func (a *app) deviceCommand() *cobra.Command {
	return terminal.Group("device", "Devices: find, label, suspend, restore, retire, revoke, let come back", "  hallmark device show SN-0001",
		a.deviceList(), a.deviceShow(), a.deviceGrant(),
		job.Act{Kind: jobs.Suspend, Done: "suspended", One: (*client.Client).Suspend, Short: "Put devices and their certificates on hold",
			Long: "Put devices and their certificates on hold, at once and without asking anybody: CRLs and\nOCSP say so when the command returns. \"hallmark device restore\" lifts it.",
			Example: `  hallmark device suspend SN-0001 --why "reported stolen"
  hallmark device suspend --where 'tpm.firmware = 7.2.1.0' --dry-run
  hallmark device suspend --where 'tpm.firmware = 7.2.1.0' --why "firmware 7.2.1.0 leaks keys"`}.Command(&a.App, a.Arguments(serials)),
		job.Act{Kind: jobs.Restore, Done: "restored", One: (*client.Client).Restore, Short: "Lift a suspension",
			Long:    "Lift a suspension. A revoked device cannot come back by it.",
			Example: "  hallmark device restore SN-0001 --why \"found again\"\n  hallmark device restore --where 'state = suspended AND lot = w47' --why \"mended\""}.Command(&a.App, a.Arguments(serials)),
		job.Act{Kind: jobs.Retire, Done: "retired", One: (*client.Client).Retire, Short: "End devices that have served their time",
			Long:    "End devices that have served their time: what revoke does, with the reason \"cessation\".",
			Example: "  hallmark device retire SN-0001 --why \"replaced\"\n  hallmark device retire --where 'seen < 2024-01-01' --dry-run"}.Command(&a.App, a.Arguments(serials)),
		job.Act{Kind: jobs.Revoke, Done: "revoked", One: (*client.Client).Revoke, Short: "End devices for good",
			Long: "End devices for good: all their certificates, the ones they would renew included, and their\nTPMs and serial numbers never enrol again. CRLs and OCSP say so when the command returns.",
			Example: `  hallmark device revoke SN-0001 --reason key-compromise --why "key extracted in the lab"
  hallmark device revoke --where 'lot = w47' --reason key-compromise --stage 1%,10%`}.Command(&a.App, a.Arguments(serials)),
		job.Lift(&a.App, a.Arguments(serials)), job.Label(&a.App, a.Arguments(serials)))
}

func (a *app) deviceList() *cobra.Command {
	c := &cobra.Command{
		Use: "list [EXPR]", Short: "List devices",
		Long: "List devices in the order of their enrolment.\n\n" + filterHelp + `

Fields: model, lot, serial, state (active, suspended, revoked), assurance, labels.KEY,
tpm.maker, tpm.model, tpm.firmware, ek.issuer, key.alg (ecdsa-p256, rsa-2048, ...); times:
enrolled, renewed, expires (of the working certificate), seen.`,
		Example: "  hallmark device list\n  hallmark device list 'lot = W47 AND seen < 2026-11-01'\n  hallmark device list 'serial:SN-10* NOT state = active' --json",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: terminal.Nothing,
	}
	asJSON, limit := terminal.ListFlags(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, args []string) error {
		return terminal.List(c, *asJSON, *limit, "DEVICE\tSTATE\tASSURANCE\tLOT\tTPM\tENROLLED\tSEEN", func(d wire.Device) []string {
			return []string{d.Name, d.State, d.Assurance, d.Lot, tpmName(d.TPM), terminal.When(d.Enrolled), terminal.When(d.Seen)}
		}, func(limit int, after string) (wire.List[wire.Device], error) {
			return cl.Devices(c.Context(), client.Query{Filter: strings.Join(args, ""), Limit: limit, After: after})
		})
	})
	return c
}

// tpmName describes a chip; only an EK certificate tells maker and model.
func tpmName(t wire.TPM) string {
	if t.Firmware == "" { // it has none
		return strings.TrimSpace(t.Maker + " " + t.Model)
	}
	return strings.TrimSpace(strings.TrimSpace(t.Maker+" "+t.Model) + " firmware " + t.Firmware)
}

func (a *app) deviceShow() *cobra.Command {
	c := &cobra.Command{Use: "show SERIAL", Short: "Show a device and its certificates",
		Long:    "Show a device and its certificates. Where two models use the serial number, write\nMODEL:SERIAL.",
		Example: "  hallmark device show SN-0001\n  hallmark device show sensor:SN-0001 --json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(serials)}
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, args []string) error {
		d, err := cl.Device(c.Context(), args[0])
		if err != nil {
			return err
		}
		return showDevice(c, *asJSON, d)
	})
	return c
}

func labels(all map[string]string) string {
	var texts []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		texts = append(texts, key+"="+all[key])
	}
	return strings.Join(texts, ", ")
}

func showDevice(c *cobra.Command, asJSON bool, d wire.Device) error {
	lines := [][2]string{{"Device", d.Name}, {"State", d.State}, {"Assurance", d.Assurance}, {"Lot", d.Lot},
		{"TPM", tpmName(d.TPM)}, {"AK Name", d.TPM.AKName}}
	for _, ek := range d.TPM.EKs {
		lines = append(lines, [2]string{"EK Name", ek.Name}, [2]string{"EK issuer", ek.Issuer})
	}
	lines = append(lines, [2]string{"Enrolled", terminal.Exactly(d.Enrolled)}, [2]string{"Renewed", terminal.Exactly(d.Renewed)},
		[2]string{"Seen", terminal.Exactly(d.Seen)}, [2]string{"Labels", labels(d.Labels)}, [2]string{"May come back until", terminal.Exactly(d.Granted)}, [2]string{"ID", d.ID})
	if err := terminal.Show(c, asJSON, d, lines...); err != nil || asJSON {
		return err
	}
	fmt.Fprintln(c.OutOrStdout())
	return terminal.List(c, false, 0, certificateHeader, certificateRow, func(int, string) (wire.List[wire.Certificate], error) {
		return wire.List[wire.Certificate]{Items: d.Certificates}, nil
	})
}

func (a *app) certCommand() *cobra.Command {
	return terminal.Group("cert", "Certificates that were issued", "  hallmark cert list 'status = good AND expires < 2026-12-24'",
		a.certList(), a.certShow())
}

const certificateHeader = "SERIAL NUMBER\tPROFILE\tSUBJECT\tSTATUS\tISSUED\tEXPIRES"

func certificateRow(c wire.Certificate) []string {
	end := terminal.When(c.NotAfter)
	if c.NotAfter.Year() == 9999 {
		end = "never"
	}
	return []string{c.Serial, c.Profile, c.Subject, statusOf(c), terminal.When(c.Issued), end}
}

func statusOf(c wire.Certificate) string {
	if c.Status == "revoked" && c.Reason != "unspecified" {
		return "revoked, " + c.Reason
	}
	return c.Status
}

func (a *app) certList() *cobra.Command {
	c := &cobra.Command{
		Use: "list [EXPR]", Short: "List certificates, newest first",
		Long: "List certificates, newest first.\n\n" + filterHelp + `

Fields: issuer, serial, profile (idevid, ak, ldevid, server, operator, relay, ocsp,
proof), subject, device (MODEL:SERIAL), status (intended, good, hold, revoked, expired);
times: issued, expires, revoked.`,
		Example: "  hallmark cert list --limit 20\n  hallmark cert list 'device = sensor:SN-0001 AND profile = ldevid'\n  hallmark cert list 'status = good AND expires < 2026-12-24'",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: terminal.Nothing,
	}
	asJSON, limit := terminal.ListFlags(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, args []string) error {
		return terminal.List(c, *asJSON, *limit, certificateHeader, certificateRow, func(limit int, after string) (wire.List[wire.Certificate], error) {
			return cl.Certificates(c.Context(), client.Query{Filter: strings.Join(args, ""), Limit: limit, After: after})
		})
	})
	return c
}

func (a *app) certShow() *cobra.Command {
	c := &cobra.Command{Use: "show SERIALNUMBER", Short: "Show a certificate and print it as PEM",
		Long:    "Show a certificate by its serial number, as \"hallmark cert list\" or \"openssl x509\n-serial\" prints it, and print it as PEM.",
		Example: "  hallmark cert show 4f1c0a5be2d94e7788aa01c2d3e4f506\n  hallmark cert show 4f1c0a5be2d94e7788aa01c2d3e4f506 | openssl x509 -noout -text",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: terminal.Nothing}
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, args []string) error {
		v, err := cl.Certificate(c.Context(), args[0])
		if err != nil {
			return err
		}
		err = terminal.Show(c, *asJSON, v, [2]string{"Serial number", v.Serial}, [2]string{"Issuer", v.Issuer}, [2]string{"Profile", v.Profile},
			[2]string{"Subject", v.Subject}, [2]string{"Status", statusOf(v)}, [2]string{"Revoked", terminal.Exactly(v.Revoked)},
			[2]string{"Not before", terminal.Exactly(v.NotBefore)}, [2]string{"Not after", terminal.Exactly(v.NotAfter)},
			[2]string{"Issued", terminal.Exactly(v.Issued)}, [2]string{"First used", terminal.Exactly(v.Used)}, [2]string{"Predecessor", v.Predecessor},
			[2]string{"CRL shard", strconv.FormatInt(v.Shard, 10)}, [2]string{"Key SHA-256", v.Key})
		if err != nil || *asJSON {
			return err
		}
		_, err = fmt.Fprint(c.OutOrStdout(), "\n", plain.Text(v.PEM))
		return err
	})
	return c
}
