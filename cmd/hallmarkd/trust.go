package main

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/rollover"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/server"
	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/record"
)

func trustCommand() *cobra.Command {
	return noun(&cobra.Command{Use: "trust", Short: "What devices and relying parties are told to trust",
		Long: `Devices follow numbered trust bundles: roots, time keys, servers. Each is signed by
keys that the one before names and by keys that it names itself, and these are not
on the server.

add-root, retire-root and propose change a proposal, DIR/trust/proposal.json, from
which show tells what it changes. It is carried to where the keys are and signed
there, by one after the other or each on a copy; publish then makes it the bundle
that devices are given. activate puts an added CA to use.`,
		Example: `  hallmarkd trust show --config /srv/hallmark
  hallmarkd trust add-root operational --config /srv/hallmark --root-out /media/safe
  hallmarkd trust sign --key file:/media/safe/infrastructure-root.key /srv/hallmark/trust/proposal.json
  hallmarkd trust publish --config /srv/hallmark`},
		trustShowCommand(), addRootCommand(), retireRootCommand(), proposeCommand(), newKeyCommand(), signCommand(),
		publishCommand(), withdrawCommand(), activateCommand())
}

func trustShowCommand() *cobra.Command {
	var path string
	var asJSON bool
	c := &cobra.Command{
		Use: "show [PROPOSAL]", Short: "Show the trust bundle in use and what is proposed", Args: atMostOne,
		Long: `Show prints the trust bundle in use, with the issuers behind its roots, and what the
proposal would change and who has still to sign it. With the file of a proposal it
needs no installation.`,
		Example: "  hallmarkd trust show --config /srv/hallmark\n  hallmarkd trust show proposal.json",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				p, err := rollover.ReadFile(args[0])
				if err != nil {
					return err
				}
				return tell(c.OutOrStdout(), asJSON, rollover.DescribeProposal(p))
			}
			in, err := installation.Read(path)
			if err != nil {
				return err
			}
			shown, err := rollover.Describe(in)
			if err != nil {
				return err
			}
			return tell(c.OutOrStdout(), asJSON, shown)
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return c
}

// tell prints what can be told to people as well as to programs.
func tell(out io.Writer, asJSON bool, what fmt.Stringer) error {
	if !asJSON {
		_, err := io.WriteString(out, what.String())
		return err
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(what)
}

func atMostOne(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return noArguments(c, args[1:])
	}
	return nil
}

func exactlyOne(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage(c, fmt.Errorf("%s is needed", what))
		}
		return atMostOne(c, args)
	}
}

func addRootCommand() *cobra.Command {
	var path, rootOut string
	c := &cobra.Command{
		Use: "add-root LINE", Short: "Make the next root and issuing CA of a line, and propose to trust it", Args: exactlyOne("a line"),
		ValidArgs: profile.Issuers(),
		Long: `Add-root makes a root and an issuing CA under it for one of the lines manufacturing,
operational and infrastructure, and proposes a trust bundle that lists the root beside
the others of the line. The root's key is written to --root-out; the server never
needs it. Nothing is issued by the new CA before activate.`,
		Example: "  hallmarkd trust add-root operational --config /srv/hallmark --root-out /media/safe",
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(profile.Issuers(), args[0]) {
				return usage(c, fmt.Errorf("%q is none of the lines %s", args[0], strings.Join(profile.Issuers(), ", ")))
			}
			if rootOut == "" {
				return usage(c, errors.New("--root-out is needed"))
			}
			in, err := installation.Read(path)
			if err != nil {
				return err
			}
			store, err := in.OpenStore(c.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			made, err := rollover.AddRoot(c.Context(), in, store, args[0], rootOut, time.Now())
			if err != nil {
				return err
			}
			where := "where it was written before"
			if made.RootKey != "" {
				where = made.RootKey
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is made, under %s.\nIts root's key: %s\n\n", made.Issuer, made.Root.Subject.CommonName, where)
			return tellProposed(c.OutOrStdout(), in, made.Proposal)
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&rootOut, "root-out", "", "the folder to write the root's key to, or a key URI with {name} in it")
	c.MarkFlagDirname("root-out")
	return c
}

// tellProposed shows a proposal and what to do with it.
func tellProposed(out io.Writer, in *installation.Installation, p *trust.Proposal) error {
	fmt.Fprint(out, rollover.DescribeProposal(p))
	next := ""
	if len(p.Missing()) > 0 {
		next = fmt.Sprintf("  hallmarkd trust sign --key KEY %s\n", rollover.ProposalFile(in))
	}
	_, err := fmt.Fprintf(out, "\nNext:\n%s  hallmarkd trust publish --config %s\n", next, in.Config.File)
	return err
}

func retireRootCommand() *cobra.Command {
	var path string
	var strand, asJSON bool
	c := &cobra.Command{
		Use: "retire-root ROOT", Short: "Propose to trust a root no more, and say whom that strands", ValidArgsFunction: issuers(&path), Args: exactlyOne("a root"),
		Long: `Retire-root proposes a trust bundle without a root, which is named by its issuer or by
the beginning of its fingerprint. It lists the devices, operators and relays on record
that would be refused and could not help themselves, and proposes nothing then unless
--strand says that this is meant.

Devices follow to new infrastructure roots however long they slept, as long as
trust/earlier is kept. A device whose working certificate the root is behind renews
with its IDevID; one whose IDevID it is behind gets another if its TPM's maker or the
lot's list vouches for it, or while its working certificate is in force if it has any
TPM, and needs "hallmark device grant" otherwise.`,
		Example: "  hallmarkd trust retire-root operational --config /srv/hallmark",
		RunE: func(c *cobra.Command, args []string) error {
			in, err := installation.Read(path)
			if err != nil {
				return err
			}
			store, err := in.OpenStore(c.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			r, err := rollover.Retire(c.Context(), in, store, args[0], time.Now())
			if err != nil {
				return err
			}
			if err := tell(c.OutOrStdout(), asJSON, r); err != nil {
				return err
			}
			if len(r.Stranded) > 0 && !strand {
				return installation.Hint(fmt.Errorf("%d would be stranded; nothing was proposed", len(r.Stranded)), "let the roots overlap until the list is empty, or say --strand")
			}
			p, err := r.Propose(in, time.Now())
			if err != nil || asJSON {
				return err
			}
			return tellProposed(c.OutOrStdout(), in, p)
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&strand, "strand", false, "propose it even if somebody is stranded")
	c.Flags().BoolVar(&asJSON, "json", false, "print who is stranded as JSON")
	return c
}

func proposeCommand() *cobra.Command {
	var path string
	var signers, timeKeys []string
	var w rollover.Wishes
	c := &cobra.Command{
		Use: "propose", Short: "Propose other servers, time keys or keys that sign bundles", Args: noArguments,
		Long: `Propose changes the proposal in what needs no new CA: --from-config takes name,
public.devices and channel_binding from hallmark.yaml; --signer and --threshold say
which keys sign from the next bundle on, and how many of them must (both the keys
before and the new ones sign the bundle that says so); --time-key lists a further key
for signing the time, before time_key in hallmark.yaml names it. --drop takes a signer
or a time key out.

Public keys are PEM files, as new-key writes them.`,
		Example: `  hallmarkd trust propose --config /srv/hallmark --from-config
  hallmarkd trust propose --config /srv/hallmark --signer anna.pub --signer berta.pub --signer carla.pub --threshold 2`,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if w.Signers, err = publicKeys(signers); err != nil {
				return err
			}
			if w.TimeKeys, err = publicKeys(timeKeys); err != nil {
				return err
			}
			in, err := installation.Read(path)
			if err != nil {
				return err
			}
			p, err := rollover.Propose(in, w, time.Now())
			if err != nil {
				return err
			}
			return tellProposed(c.OutOrStdout(), in, p)
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&w.FromConfig, "from-config", false, "name, servers and channel binding as in hallmark.yaml")
	c.Flags().StringArrayVar(&signers, "signer", nil, "the public key (PEM file) of a key that shall sign bundles; repeatable")
	c.Flags().IntVar(&w.Threshold, "threshold", 0, "how many of the signers must sign")
	c.Flags().StringArrayVar(&timeKeys, "time-key", nil, "the public key (PEM file) of a key that may sign the time; repeatable")
	c.Flags().StringArrayVar(&w.Drop, "drop", nil, "the fingerprint, or its beginning, of a signer or time key; repeatable")
	return c
}

// publicKeys reads PEM files as new-key writes them.
func publicKeys(files []string) (all [][]byte, err error) {
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "PUBLIC KEY" || len(strings.TrimSpace(string(rest))) > 0 {
			return nil, installation.Hint(fmt.Errorf("%s does not hold one public key in PEM", name), "hallmarkd trust new-key writes one beside the private key")
		}
		all = append(all, block.Bytes)
	}
	return all, nil
}

func newKeyCommand() *cobra.Command {
	var where string
	c := &cobra.Command{
		Use: "new-key FILE", Short: "Make a key for signing trust bundles, or the time", Args: exactlyOne("a file"),
		Long: `New-key makes a P-256 key in a new file, or where --key says, and writes its public
key, for "hallmarkd trust propose --signer", to FILE.pub. Run it where the key is to
stay; it needs no installation.`,
		Example: `  hallmarkd trust new-key /media/anna/trust.key
  hallmarkd trust new-key anna --key 'pkcs11:token=anna;object=trust?pin-source=/media/anna/pin'`,
		RunE: func(c *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			key, err := keys.Create(cmp.Or(where, "file:"+filepath.Base(path)), filepath.Dir(path))
			if err != nil {
				return err
			}
			spki, err := x509.MarshalPKIXPublicKey(key.Public())
			if err != nil {
				return err
			}
			if err := durable.Replace(path+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "fingerprint %s\n", trust.NameOf(spki))
			return err
		},
	}
	c.Flags().StringVar(&where, "key", "", "a key URI: make the key there, and only FILE.pub here")
	return c
}

func signCommand() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "sign --key KEY PROPOSAL", Short: "Sign a proposal, where the key is", Args: exactlyOne("a proposal's file"),
		Long: `Sign adds the key's signature to a proposal's file and shows what it signed; look before
with "hallmarkd trust show PROPOSAL". It needs neither the installation nor the network,
so it cannot know which bundle is in use: a file that was changed on its way may claim
one that already has what it should not. What is signed is the whole of what is listed.
A date more than a day ahead is refused: devices that followed would never again take a
certificate for one that is in force. The key is a file, or a key URI: the infrastructure
root's, or one made by new-key.`,
		Example: "  hallmarkd trust sign --key /media/anna/trust.key proposal.json",
		RunE: func(c *cobra.Command, args []string) error {
			if key == "" {
				return usage(c, errors.New("--key is needed"))
			}
			p, err := rollover.ReadFile(args[0])
			if err != nil {
				return err
			}
			signer, err := keys.Open(keyURI(key), ".")
			if err != nil {
				return err
			}
			as, err := p.Sign(signer, time.Now())
			if err != nil {
				return err
			}
			if err := rollover.WriteFile(p, args[0]); err != nil {
				return err
			}
			for _, k := range as {
				fmt.Fprintf(c.OutOrStdout(), "signed as %s\n", k)
			}
			_, err = fmt.Fprint(c.OutOrStdout(), rollover.DescribeProposal(p))
			return err
		},
	}
	c.Flags().StringVar(&key, "key", "", "the private key: a PEM file, or a key URI")
	c.MarkFlagFilename("key")
	return c
}

func publishCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "publish [COPY...]", Short: "Give devices the proposed bundle, once enough keys have signed",
		Long: `Publish collects the signatures of the proposal in the installation's folder and of its
copies that were signed elsewhere. If they suffice, the proposal becomes the bundle
that devices are given; trust/relying-parties.pem and trust/infrastructure.pem follow;
the server, if it runs on this machine, reads everything again. Otherwise it says
whose signatures are missing (exit code 1) and keeps those that it has.`,
		Example: "  hallmarkd trust publish --config /srv/hallmark\n  hallmarkd trust publish --config /srv/hallmark /media/anna/proposal.json /media/berta/proposal.json",
		RunE: func(c *cobra.Command, args []string) error {
			return changing(c, path, func(in *installation.Installation, store record.Store) (string, error) {
				p, err := rollover.Publish(c.Context(), in, store, args, time.Now())
				if errors.As(err, new(*rollover.UnsignedError)) {
					return "", installation.Hint(err, "hallmarkd trust sign --key KEY %s", rollover.ProposalFile(in))
				}
				if errors.Is(err, rollover.ErrNoProposal) {
					return "", installation.Hint(err, "hallmarkd trust propose --help, or add-root, or retire-root")
				}
				if err != nil {
					return "", err
				}
				_, next := p.Bundles()
				return fmt.Sprintf("Trust bundle %d is what devices are given now.\nRelying parties trust %s.\n",
					next.Number, installation.TrustFile(in.Config, filepath.Base(installation.RelyingParties))), nil
			})
		},
	}
	configFlag(c, &path)
	return c
}

func withdrawCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "withdraw", Short: "Drop what is proposed", Args: noArguments,
		Long: `Withdraw drops the proposal. A CA that add-root made stays, for the next add-root.

Signatures cannot be taken back: if enough keys have signed, whoever kept a copy can
still lead devices to it that have not followed another bundle of its number yet.`,
		Example: "  hallmarkd trust withdraw --config /srv/hallmark",
		RunE: func(c *cobra.Command, _ []string) error {
			in, err := installation.Read(path)
			if err != nil {
				return err
			}
			p, err := rollover.Pending(in)
			if err != nil && !errors.Is(err, rollover.ErrNoProposal) {
				return err
			}
			if err := rollover.Withdraw(in); err != nil {
				return err
			}
			said := "Nothing is proposed any more."
			if p != nil && len(p.Missing()) == 0 {
				said += " Enough keys had signed it: whoever kept a copy can still lead devices there. If that must not be, publish another."
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), said)
			return err
		},
	}
	configFlag(c, &path)
	return c
}

func activateCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "activate ISSUER", Short: "Issue from now on by another CA of the same line", ValidArgsFunction: issuers(&path), Args: exactlyOne("an issuer"),
		Long: `Activate puts an issuing CA to use whose root the published bundle lists, in the place
of the one before it in its line; the server, if it runs on this machine, does so at
once. Certificates of the one before stay good until its root is retired. Naming the
one before goes back.

Wait with an operational CA until every relying party has the new
trust/relying-parties.pem: it is they who would refuse the new certificates. Devices
follow by themselves.`,
		Example: "  hallmarkd trust activate operational-2 --config /srv/hallmark",
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := installation.Open(path); err != nil {
				return err // the server would not take it
			}
			return changing(c, path, func(in *installation.Installation, store record.Store) (string, error) {
				return args[0] + " issues from now on.\n", rollover.Activate(c.Context(), in, store, args[0], time.Now())
			})
		},
	}
	configFlag(c, &path)
	return c
}

// changing makes a change that the server must notice, and tells it.
func changing(c *cobra.Command, path string, change func(*installation.Installation, record.Store) (string, error)) error {
	in, err := installation.Read(path)
	if err != nil {
		return err
	}
	store, err := in.OpenStore(c.Context())
	if err != nil {
		return err
	}
	defer store.Close()
	said, err := change(in, store)
	if err != nil {
		return err
	}
	pid, err := server.Reload(in.Config.Dir)
	switch {
	case err != nil:
		said += fmt.Sprintf("The server could not be told (%v): restart it.\n", err)
	case pid > 0:
		said += fmt.Sprintf("The server, process %d, was told.\n", pid)
	default:
		said += "No server runs on this machine; it takes the change when it starts.\n"
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%sBack up now: the journal has nothing of this.\n  hallmarkd backup --config %s --to NEWFILE\n", said, in.Config.File)
	return err
}
