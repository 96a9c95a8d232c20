package archtest

import (
	"fmt"
	"slices"
	"strings"
)

const module = "github.com/hallmark-pki/hallmark"

// A row says what a package may import from this module. In package and may, KIND
// stands for one path element, the same in both; "/..." at the end for the package and
// everything below it; "*" for one element, any. The first row that fits a package is
// the one that counts.
type row struct {
	packages string // separated by blanks
	may      string
	because  string
}

var rows = []row{
	{"wire", "",
		"both ends of the network meet here and nowhere else, so either can be rewritten and the device stays small"},
	{"wire/jobs wire/makers wire/steps", "wire",
		"both ends of the network meet here and nowhere else, so either can be rewritten and the device stays small"},
	{"wire/renewal wire/issuers", "wire wire/jobs wire/renewal",
		"both ends of the network meet here and nowhere else, so either can be rewritten and the device stays small"},
	{"wire/denylist", "wire",
		"a signed document is read in places that never talk to a server, and by readers in other languages"},
	{"config record attest/internal/seal internal/swtpm internal/archtest internal/build internal/ports internal/durable internal/powercut internal/sdnotify internal/program internal/plain internal/origin internal/ration internal/crl", "",
		"a leaf can be understood, and trusted, by itself"},

	{"attest", "attest/internal/seal",
		"proof is a type: whoever reads attest must see all that can make claims"},
	{"attest/KIND/collect", "attest attest/KIND attest/trouble",
		"the device half shares formats with the verifier and nothing else"},
	{"attest/KIND", "attest attest/internal/seal attest/KIND/vendorca",
		"verification has no network, files or clock, and no opinion on who may have a certificate"},
	{"attest/KIND/*", "attest attest/internal/seal attest/KIND attest/KIND/vendorca",
		"verification has no network, files or clock, and no opinion on who may have a certificate"},

	{"record/KIND/internal/engine", "record",
		"an engine runs a database file; it does not know what the tables mean"},
	{"record/KIND/internal/*", "record record/KIND/internal/*",
		"a store is cut into one package for each capability, so that it can grow"},
	{"record/KIND/populate", "",
		"a measurement knows the tables, and nothing else may"},
	{"record/KIND/journal", "record/KIND/internal/*",
		"a restore works on files that no store has open"},
	{"record/KIND", "record record/KIND/internal/*",
		"a store implements the record's verbs; it decides nothing"},

	{"device device/* cmd/hallmark-device cmd/hallmark-device/internal/*", "wire attest attest/* attest/KIND/collect attest/*/collect device device/* cmd/hallmark-device/internal/* cmd/internal/help",
		"the agent does not link the CA: it must fit a small device and hold no server's secret"},

	{"ca/trust", "record wire ca/profile",
		"the bundle is what crosses the network, so its words are wire's (docs/decisions)"},
	{"ca/status/ocsp ca/status/crl", "",
		"a wire format knows nothing of who may ask or what the answer is"},
	{"ca/status/reply", "",
		"how bytes are given out does not depend on what they are"},
	{"ca/status/feed", "ca/status/reply record wire wire/denylist",
		"the feed is what crosses the network; what happened it reads in the record, and of lists it knows who publishes them"},
	{"ca/status", "record ca/profile ca/status/ocsp ca/status/crl ca/status/reply",
		"the CA is the last check before a key is used; it does not know who asks"},
	{"ca/*", "record ca/profile",
		"the CA is the last check before a key is used; it does not know who asks"},
	{"ca", "record ca/profile ca/keys ca/cas",
		"the CA is the last check before a key is used; it does not know who asks"},

	{"provisioner/identity provisioner/session", "attest record",
		"identity and decision are judged from claims and record alone, so that they can be read and tested without a protocol"},
	{"provisioner/decide", "provisioner/identity attest record",
		"identity and decision are judged from claims and record alone, so that they can be read and tested without a protocol"},
	{"provisioner/factory", "attest record wire",
		"tickets are spoken in wire's words; the rest of the factory is the record's"},
	{"provisioner/*", "provisioner provisioner/decide attest internal/origin record wire",
		"a protocol moves bytes and maps errors to a status (decide and record are there for their errors); it reaches neither store nor key"},
	{"provisioner", "provisioner/identity provisioner/decide provisioner/session provisioner/factory attest ca ca/profile internal/ration record",
		"the pipeline reads top to bottom and knows no protocol"},

	{"relay relay/*", "wire wire/denylist wire/steps relay/*", "it runs beside relying parties and needs the feed only"},
	{"admin/client", "wire wire/issuers wire/jobs wire/makers wire/renewal wire/steps", "the operator's half is a client like any other"},
	{"admin/selector", "record", "it turns what a person typed into the record's condition"},
	{"admin/gate", "admin/selector ca/status internal/ration record wire wire/jobs",
		"who calls is recognised and what went wrong is worded in one place, for every API with callers of its own"},
	{"admin/selection", "admin/gate admin/selector record wire wire/jobs",
		"which devices a person means is found by the same lines for every act"},
	{"admin/view", "record wire", "what the record holds is worded in one place, for every room of operators"},
	{"admin/consent", "admin/gate record wire wire/jobs",
		"what takes two operators is judged in one place, whatever it is"},
	{"admin/job", "admin/view record",
		"jobs run without anybody who asks: of the outside they know who publishes"},
	{"admin/bulk", "admin/consent admin/gate admin/selection admin/selector admin/view record wire wire/jobs",
		"acts on many devices are recorded here and done elsewhere (admin/job), so that a crash loses nothing"},
	{"admin/credential", "admin/gate ca/profile record wire",
		"operators and relays are recognised by the same lines, pinned to different profiles"},
	{"admin/party", "admin/gate admin/credential admin/view ca/profile record wire",
		"relays speak on the machines' listener; what they may do is seen in one place, and it reaches no key"},
	{"admin/renewal", "admin/gate admin/selection admin/view record wire wire/jobs wire/renewal",
		"a plan is a job that devices carry out; what tells them is the pipeline"},
	{"admin/issuing", "admin/consent admin/gate admin/renewal admin/view ca/profile record wire wire/issuers wire/renewal",
		"an issuer ends by a job and a plan; the keys are reached through one verb, for one kind of certificate"},
	{"admin", "admin/consent admin/credential admin/gate admin/selection admin/selector admin/view provisioner provisioner/factory ca/status ca/trust ca/profile record wire wire/makers wire/renewal",
		"operators see and change the record through its verbs; they never reach a key"},

	{"cmd/hallmark cmd/hallmark/internal/*", "admin/client attest/tpm2/vendorca relay wire wire/issuers wire/jobs wire/makers wire/renewal cmd/hallmark/internal/* cmd/internal/help",
		"the operator's command is a client: everything it can do passes the server's roles and audit"},
	{"cmd/hallmarkd cmd/hallmarkd/...", "...", "wiring reaches everything, in plain sight"},
	{"internal/demo internal/bench internal/e2e internal/premises internal/simdevice", "...", "demonstrations and measurements drive the whole house"},
}

// A door says which packages may import a third party, or a standard package that
// stands for a capability.
type door struct {
	imports string // a path, itself and below
	from    string // patterns as in row
	only    string // where set, the only sub-packages that may be imported at all
	because string
}

var doors = []door{
	{"github.com/smallstep/certificates", "ca/cas", "cas/apiv1 cas/softcas",
		"its authority, db and ca packages bring dozens of modules and a store that cannot be queried"},
	{"go.step.sm/crypto/kms", "ca/keys", "", "keys are opened in one place"},
	{"github.com/google/go-tpm", "attest/tpm2 attest/tpm2/... internal/swtpm", "", "TPM formats are parsed in one place, strictly"},
	{"database/sql", "record/...", "", "SQL stays within its engine's folder"},
	{"modernc.org/sqlite", "record/sqlite/...", "", "only a store imports its driver"},
	{"zombiezen.com/go/sqlite", "record/sqlite/internal/engine", "", "statements and connections are the engine's"},
	{"github.com/pressly/goose", "record/...", "", "only a store migrates its database"},
	{"github.com/zmap/zlint", "ca", "", "linting is a step of issuance"},
	{"go.einride.tech/aip", "admin/selector", "", "one grammar, one reader of it"},
	{"github.com/spf13/cobra", "cmd/...", "", "commands are the edge"},
	{"github.com/prometheus/client_golang", "cmd/hallmarkd/...", "", "rooms say what happened in return values; the server counts"},
	{"net", "wire config device device/... attest/*/collect ca ca/... provisioner provisioner/... relay relay/* admin admin/... cmd/... internal/*", "",
		"the record and the verifiers have no network"},
	{"net/http", "device device/client device/page device/proxy ca/status ca/status/feed ca/status/reply ca/trust provisioner/* relay relay/* admin admin/gate admin/selection admin/consent admin/bulk admin/renewal admin/issuing admin/credential admin/party admin/client cmd/... internal/*", "",
		"serving and asking are the business of a few rooms; the rest can be tested without a connection"},
	{"os", "config record/... device device/... attest/*/collect ca/keys ca/trust relay relay/* admin/client cmd/... internal/*", "",
		"what has no files cannot leak into them: verifiers and judges have none"},
	{module + "/internal/durable", "config record/... device device/... attest/*/collect ca/keys ca/trust relay relay/* admin/client cmd/... internal/*", "",
		"who may have files puts them in place in one way"},
	{module + "/internal/sdnotify", "device/agent relay cmd/...", "", "only what runs for long has a service manager"},
	{module + "/internal/program", "device device/agent device/serial attest/*/collect relay cmd/hallmark-device/internal/settings cmd/hallmark/internal/relying", "",
		"what others wrote is run, and ended, in one way"},
	{module + "/internal/crl", "relay/crls device/page", "", "whose a list is shows before it is parsed, in one way"},
	{module + "/internal/plain", "cmd/hallmark cmd/hallmark/internal/* cmd/hallmark-device device/agent ca/trust", "", "what others wrote is shown to people in one way"},
	{"testing", "record/recordtest", "", "test code does not belong in the product"},
	{"unsafe", "", "", "memory safety is a promise of the product"},
}

// calls that only the named packages may make, by import path and function.
var calls = []struct{ path, function, from, because string }{
	{module + "/attest", "OpenPending", "provisioner/session", "whoever opens sealed evidence vouches for it; one place does"},
	{"time", "Now", "record/... device device/... attest/*/collect cmd/... internal/* relay relay/* admin/client", "time is an argument, so that expiry is an ordinary test input"},
}

// judgeImport returns why package pkg (relative to the module) may not import path; nil if it may.
func judgeImport(pkg, path string) error {
	for _, d := range doors {
		if !below(path, d.imports) {
			continue
		}
		// A standard package is judged by its own row, not by its parent's.
		if !strings.Contains(d.imports, ".") && path != d.imports {
			continue
		}
		if !fits(pkg, d.from) {
			return fmt.Errorf("%s may not import %s: %s; it enters through %q", pkg, path, d.because, d.from)
		}
		sub := strings.TrimPrefix(strings.TrimPrefix(path, d.imports), "/")
		if d.only != "" && !fits(sub, d.only) {
			return fmt.Errorf("%s may import only %s of %s: %s", pkg, d.only, d.imports, d.because)
		}
	}
	if pkg == "wire" && strings.Contains(strings.Split(path, "/")[0], ".") {
		return fmt.Errorf("wire imports the standard library alone, not %s", path)
	}
	own, ok := strings.CutPrefix(path, module+"/")
	if !ok || slices.ContainsFunc(doors, func(d door) bool { return d.imports == path }) {
		return nil
	}
	for _, r := range rows {
		kind, ok := match(pkg, r.packages)
		if !ok {
			continue
		}
		if !fits(own, strings.ReplaceAll(r.may, "KIND", kind)) {
			return fmt.Errorf("%s may not import %s: %s; it may import: %q", pkg, own, r.because, r.may)
		}
		return nil
	}
	return fmt.Errorf("%s has no row in the import table: give it one, with the reason", pkg)
}

// match finds the pattern of the list that path fits and what KIND stands for in it.
func match(path, patterns string) (kind string, ok bool) {
	for _, p := range strings.Fields(patterns) {
		if kind, ok = matchOne(path, p); ok {
			return kind, true
		}
	}
	return "", false
}

func fits(path, patterns string) bool {
	_, ok := match(path, patterns)
	return ok
}

func matchOne(path, pattern string) (kind string, ok bool) {
	if pattern == "..." {
		return "", true
	}
	have, want := strings.Split(path, "/"), strings.Split(pattern, "/")
	if want[len(want)-1] == "..." {
		want = want[:len(want)-1]
		if len(have) < len(want) {
			return "", false
		}
		have = have[:len(want)]
	}
	if len(have) != len(want) {
		return "", false
	}
	for i := range want {
		switch want[i] {
		case "KIND":
			kind = have[i]
		case "*", have[i]:
		default:
			return "", false
		}
	}
	return kind, true
}

func below(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}
