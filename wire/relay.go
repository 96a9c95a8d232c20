package wire

import "time"

// Paths of relays, on the devices' listener. PathRelayAccept answers without a relay's
// certificate; all others, and the feed itself (feed.go), require one.
const (
	PathRelayAccept  = "/v1/relay/accept" // POST KeyRequest: OperatorChain
	PathRelayRenewal = "/v1/relay/renew"  // POST KeyRequest: OperatorChain
	PathRelayTrust   = "/v1/relay/trust"  // GET: RelayTrust
	PathRelayReport  = "/v1/relay/report" // POST RelayReport: RelayAnswer
)

// PathRelyingParties is for operators. GET: List[RelyingParty]; POST NewRelyingParty:
// Invitation; POST /NAME/disable: RelyingParty.
const PathRelyingParties = "/v1/relying-parties"

// Labels of the bindings over which a relay's new key signs; see Binding.
const (
	LabelRelayAccept = "relay-accept"
	LabelRelay       = "relay-renew"
)

// What a relay does when its lists expire while Hallmark is unreachable.
const (
	// FailClosed lets the files expire: good devices are refused as well.
	FailClosed = "closed"
	// FailOpen keeps using them: certificates revoked from then on are accepted.
	FailOpen = "open"
)

// Formats in which a relay writes what it enforces.
const (
	FormatCRL      = "crl"       // CRLs, PEM, for nginx, mosquitto, OpenSSL
	FormatSerials  = "serials"   // serial numbers of denied certificates, one a line
	FormatMap      = "nginx-map" // the same as a map of nginx: "SERIAL 1;"
	FormatDenylist = "denylist"  // the signed snapshot, for package relay/guard
	FormatFilter   = "filter"    // the signed filter, for the same
	FormatRoots    = "roots"     // the roots that relying parties trust, PEM
	FormatEach     = "each"      // no file: a command for each change
)

// Bounds of what a relay reports.
const (
	MaxRelayFormats = 7
	MaxRelayText    = 500 // bytes of a text
	MaxRelayFailing = 100 // devices
)

// RelayTrust is what a relay starts with.
type RelayTrust struct {
	// Bundle says which operational roots to trust.
	Bundle SignedBundle `json:"bundle"`
	// Steps are the bundles that lead to it, in order, for a relay whose roots did not sign it.
	Steps []SignedBundle `json:"steps,omitempty"`
	// Issuers are the names, in URLs, of the issuers whose certificates are to be accepted and
	// which the feed covers; the first is the oldest.
	Issuers []string `json:"issuers"`
}

// MaxFollowed bounds RelayTrust.Issuers.
const MaxFollowed = 32

// RelayReport says what a relying party enforces, after a successful reload.
type RelayReport struct {
	// Number is the change of the feed up to which everything is enforced; -1 if nothing is yet.
	Number int64 `json:"number"`
	// Formats are those that the relay writes, Program what it writes them for.
	Formats []string `json:"formats"`
	Program string   `json:"program,omitempty"`
	// Fail is FailOpen or FailClosed.
	Fail string `json:"fail"`
	// Until is when the first of its lists expires; zero if none does.
	Until time.Time `json:"until,omitzero"`
	// Problem says why newer changes are not enforced; empty if there is no problem.
	Problem string `json:"problem,omitempty"`
	// Version is the relay's.
	Version string `json:"version,omitempty"`
	// Failing are the devices for which the command for each change fails: their changes from
	// Change on are not enforced.
	Failing []RelayFailure `json:"failing,omitempty"`
}

// RelayFailure is a device for which a relay's command fails.
type RelayFailure struct {
	Device string    `json:"device"` // MODEL:SERIAL
	Change int64     `json:"change"` // the first that the command was not run for
	Since  time.Time `json:"since"`  // when it first failed
	Times  int64     `json:"times"`  // how often it has
}

// RelayAnswer is the answer to a report.
type RelayAnswer struct {
	// Time is the server's.
	Time time.Time `json:"time"`
}

// RelyingParty is a party that accepts LDevIDs and has a relay. State is "active", "invited" or
// "disabled".
type RelyingParty struct {
	Name         string    `json:"name"`
	State        string    `json:"state"`
	Created      time.Time `json:"created"`
	InvitedUntil time.Time `json:"invited_until,omitzero"`
	Disabled     time.Time `json:"disabled,omitzero"`
	// Reported is when the last report came, zero if none has; the rest is from that report.
	Reported time.Time `json:"reported,omitzero"`
	// Number is the newest change that is enforced, Behind how many newer ones there are, and
	// Since when Number was first reported.
	Number  int64          `json:"number"`
	Behind  int64          `json:"behind"`
	Since   time.Time      `json:"since,omitzero"`
	Formats []string       `json:"formats,omitempty"`
	Program string         `json:"program,omitempty"`
	Fail    string         `json:"fail,omitempty"`
	Until   time.Time      `json:"until,omitzero"`
	Problem string         `json:"problem,omitempty"`
	Version string         `json:"version,omitempty"`
	Failing []RelayFailure `json:"failing,omitempty"`
}

// NewRelyingParty invites the relay of a relying party. TTL is in seconds; 0 means DefaultInvite.
// Inviting again replaces an invitation and re-enables a disabled one.
type NewRelyingParty struct {
	Name string `json:"name"`
	TTL  int64  `json:"ttl,omitempty"`
}
