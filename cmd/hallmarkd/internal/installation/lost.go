package installation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// Loss is something that the record knows of and the installation's files do not have: CAs,
// bundles and the roots' lists are in no journal, so files from before a change of them can
// come to stand beside a record from after it.
type Loss struct {
	// Subject is an issuer, a root, or "trust bundle".
	Subject string
	// Grave: others are misled, or refuse what is good.
	Grave bool
	// Detail says what is missing and what that means, Hint what to do.
	Detail, Hint string
}

// Tells is what the record must tell of what was lost.
type Tells interface {
	record.Inventory
	TrustEvents(ctx context.Context, limit int) ([]record.Event, error)
	Status(ctx context.Context, issuer, serial string) (record.Certificate, error)
}

// told bounds the events that are looked at: more bundles than an installation ever makes.
const told = 10_000

// Losses says what is missing, by the record. With whole it also looks for certificates of an
// issuer that had the name of one that is here, and reads all that have not expired for that.
func (in *Installation) Losses(ctx context.Context, store Tells, now time.Time, whole bool) (all []Loss, err error) {
	events, err := store.TrustEvents(ctx, told)
	if err != nil {
		return nil, err
	}
	slices.Reverse(events)
	all = append(in.lostBundle(events), in.lostLists(events)...)
	gone, err := in.lostIssuers(ctx, store, events, now, whole)
	return append(all, gone...), err
}

// lostBundle finds a bundle that others were given and that is not here. They go by its roots, and
// follow none whose number is not greater.
func (in *Installation) lostBundle(events []record.Event) []Loss {
	newest, number := in.Trust.Newest()
	var given record.Event
	var highest int64
	for _, e := range events {
		var n int64
		if _, err := fmt.Sscanf(e.Object, "bundle %d", &n); err != nil || e.Verb != record.VerbPublished || n < highest {
			continue
		}
		// Of two of one number somebody may have either: the one that is not here is told.
		if sum := given.Detail["sha256"]; n > highest || sum == "" || sum == digest(newest.Bundle) {
			given, highest = e, n
		}
	}
	l := Loss{Subject: "trust bundle", Grave: true,
		Hint: fmt.Sprintf("bring back the whole of %s, from the old machine or a backup of after then; if it is lost, propose and publish until the number here is greater", in.trustDir())}
	sum := given.Detail["sha256"]
	switch {
	case highest > number:
		l.Detail = fmt.Sprintf("number %d is here, and number %d was published on %s: devices and relays that followed it trust its roots alone, and take no bundle from here before a greater number (trust-rollback)", number, highest, day(given.Time))
	case highest == number && sum != "" && sum != digest(newest.Bundle):
		l.Detail = fmt.Sprintf("number %d is here, and another of this number was published on %s: devices and relays that followed that one take no bundle from here before a greater number", number, day(given.Time))
	default:
		return nil
	}
	return []Loss{l}
}

// lostLists finds roots' CRLs that say less than those before them.
func (in *Installation) lostLists(events []record.Event) (all []Loss) {
	lost := map[string]string{}
	for _, e := range events {
		root := e.Object
		if e.Verb == record.VerbListed {
			root = profile.RootOf(e.Object)
		}
		at := slices.IndexFunc(in.Issuers, func(i Issuer) bool { return profile.RootOf(i.Name) == root })
		if at < 0 {
			continue
		}
		list, err := x509.ParseRevocationList(in.Roots[at].CRL)
		if err != nil {
			continue // the server does not start with it, and check says so
		}
		number, numbered := new(big.Int).SetString(e.Detail["number"], 10)
		_, listed := ca.Listed(list, in.Issuers[at].Certificate)
		switch {
		case e.Verb == record.VerbListed && !listed:
			lost[root] = fmt.Sprintf("its CRL, number %v, does not name %s, which one of %s did", list.Number, e.Object, day(e.Time))
		case e.Verb == record.VerbImported && numbered && number.Cmp(list.Number) > 0 && lost[root] == "":
			lost[root] = fmt.Sprintf("its CRL is number %v, and number %v was imported on %s", list.Number, number, day(e.Time))
		}
	}
	for _, root := range in.Roots {
		if lost[root.Name] != "" {
			all = append(all, Loss{root.Name, true, lost[root.Name] + ": relying parties that fetch it are told less than before",
				"hallmarkd issuer import-list FILE, with the list from the old machine, a backup of after then, or whoever fetched it"})
		}
	}
	return all
}

// lostIssuers finds issuers that have signed or were put to use, and are not here.
func (in *Installation) lostIssuers(ctx context.Context, store Tells, events []record.Event, now time.Time, whole bool) (all []Loss, err error) {
	names, err := store.Issuers(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]record.Event{} // of a line, the newest
	for _, e := range events {
		if e.Verb == record.VerbActivated {
			used[profile.LineOf(e.Object)] = e
			names = append(names, e.Object)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		at, err := in.Find(name)
		here, key := err == nil, []byte(nil)
		if here {
			if key = in.Issuers[at].Certificate.SubjectKeyId; !whole || len(key) == 0 {
				continue
			}
		}
		o, err := store.Outstanding(ctx, name, key, now)
		if err != nil {
			return nil, err
		}
		l, err := in.gone(ctx, store, name, o, here)
		if err != nil {
			return nil, err
		}
		all = append(all, l...)
	}
	for _, line := range profile.Issuers() {
		e, name := used[line], in.Issuer(line).Name
		at, err := in.Find(e.Object)
		if err != nil || e.Object == name {
			continue
		}
		l := Loss{e.Object, false, fmt.Sprintf("it was put to use on %s, and %s issues here", day(e.Time), name), "hallmarkd trust activate " + e.Object}
		if !in.Lists(in.Issuers[at]) { // the files are of after it was made and before it was trusted
			l.Detail += "; the trust bundle does not list its root, so this server does not accept what it issued"
			l.Hint = "publish a trust bundle that lists its root, then " + l.Hint
		}
		all = append(all, l)
	}
	return all, nil
}

// meaning is what it is to have a certificate of a line whose issuer is gone.
var meaning = map[string]string{
	profile.Manufacturing:  "This server does not accept them; devices with them renew with their working certificates while these last, and get other birth certificates",
	profile.Operational:    "No list and no OCSP answer can be signed for them, so relying parties go by the last until it ends, within seven days of being signed, and learn of no revocation; devices renew with their birth certificates",
	profile.Infrastructure: "This server does not accept them: operators and relays with them are locked out",
}

// helps is what to do if nothing can be brought back.
var helps = map[string]string{
	profile.Manufacturing:  "devices move on by themselves; for those that cannot: hallmark device grant",
	profile.Operational:    "see that relying parties trust its root no more; devices move on when they next renew",
	profile.Infrastructure: "hallmarkd operator recover, and for each relay hallmark relying-party disable and invite",
}

// gone tells of an issuer of which somebody still has something. Revoked birth certificates
// trouble nobody: whether they count is judged here, by the record. Here says that another
// has its name.
func (in *Installation) gone(ctx context.Context, store Tells, name string, o record.Outstanding, here bool) ([]Loss, error) {
	line := profile.LineOf(name)
	if o.Good+o.Denied == 0 || o.Good == 0 && line == profile.Manufacturing {
		return nil, nil
	}
	newest, err := store.Status(ctx, name, o.Newest)
	if err != nil {
		return nil, err
	}
	what, hint := "neither its certificate nor its key is here", fmt.Sprintf("bring back %s and the whole of %s, from the old machine or a backup of after it was made; if that is lost, %s", in.filesOf(name), in.trustDir(), helps[line])
	if here {
		what, hint = "the one here is another that has its name", helps[line]
	}
	if c, err := x509.ParseCertificate(newest.DER); err == nil {
		what += fmt.Sprintf(" (%s)", c.Issuer.CommonName)
	}
	return []Loss{{name, o.Good > 0, fmt.Sprintf("%s, and others hold certificates of it: %d good, %d revoked or on hold, the last until %s.\n%s", what, o.Good, o.Denied, day(o.Until), meaning[line]), hint}}, nil
}

// trustDir and filesOf are as they are called in the installation's folder: a restore has another
// name for it while it works.
func (in *Installation) trustDir() string {
	dir := filepath.Dir(in.Config.Trust.Bundle)
	if relative, inside := in.Config.Inside(dir); inside {
		dir = relative
	}
	return dir
}

func (in *Installation) filesOf(issuer string) string {
	files := filepath.Join("issuers", issuer+".pem")
	key, ok := in.Config.KeyFile(Keys{URI: in.Config.IssuerKeys, Dir: in.Config.Dir}.Of(issuer))
	if !ok {
		return files // the key is in a token
	}
	if relative, inside := in.Config.Inside(key); inside {
		key = relative
	}
	return files + ", " + key
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
