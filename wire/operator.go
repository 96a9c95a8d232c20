package wire

import (
	"encoding/json"
	"time"
)

// Paths of the operator protocol: JSON over mutual TLS 1.3 on the operators' own listener. The
// comments say what may be appended to a path. Only PathTrust and PathAccept answer without an
// operator's certificate.
const (
	PathWhoami    = "/v1/whoami"           // GET: Whoami
	PathModels    = "/v1/models"           // GET: List[Model]; POST NewModel: Model; GET /NAME: Model; POST /NAME/set ModelRules: Model
	PathLots      = "/v1/lots"             // GET: List[Lot]; POST NewLot: Lot; GET /NAME: Lot; POST /NAME/close: Lot
	PathTickets   = "/v1/tickets"          // POST NewTickets: Tickets
	PathDevices   = "/v1/devices"          // GET ?filter=&limit=&after=: List[Device]; GET /SERIAL: Device; POST /SERIAL/suspend, restore, revoke of StatusRequest: StatusChange; POST /SERIAL/grant of renewal.NewGrant: renewal.Grant
	PathCerts     = "/v1/certificates"     // GET ?filter=&limit=&after=: List[Certificate]; GET /SERIALNUMBER: Certificate
	PathOperators = "/v1/operators"        // GET: List[Operator]; POST NewOperator: Invitation; POST /NAME/disable: Operator
	PathAccept    = "/v1/operators/accept" // POST KeyRequest: OperatorChain
	PathRenewal   = "/v1/operators/renew"  // POST KeyRequest: OperatorChain
	PathAudit     = "/v1/audit"            // GET ?limit=: List[Event], newest first; ?after=SEQUENCE&limit=: oldest first
)

// Labels of the bindings over which an operator's new key signs; see Binding.
const (
	LabelAccept   = "operator-accept"
	LabelOperator = "operator-renew"
)

// Bounds of the operator protocol, enforced by the server.
const (
	MaxPage        = 1000    // rows of one listing
	MaxTickets     = 1000    // tickets of one request
	MaxListed      = 100_000 // EK Names of one lot
	MaxAuthorities = 500     // certificates of one import

	MaxTicketTTL     = 90 * 24 * time.Hour
	DefaultTicketTTL = 15 * time.Minute
	MaxInvitation    = 7 * 24 * time.Hour
	DefaultInvite    = 48 * time.Hour
)

// Codes of problems that only operators see.
const (
	CodeFilter       = "filter-invalid"     // 400: Detail shows the expression and the place
	CodeAmbiguous    = "ambiguous"          // 409: Detail lists what it could be
	CodeLastOperator = "last-operator"      // 409: there would be none left
	CodeInvitation   = "invitation-invalid" // 403: unknown, used or expired, or a wrong MAC
)

// List is one page of a listing. After requests the next page; it is empty at the end.
type List[T any] struct {
	Items []T    `json:"items"`
	After string `json:"after,omitempty"`
}

// Whoami says which installation this is and who the caller is.
type Whoami struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Operator string `json:"operator"`
	// Certificate is the serial number of the caller's certificate, Expires its end.
	Certificate string    `json:"certificate"`
	Expires     time.Time `json:"expires"`
	Time        time.Time `json:"time"`
}

// Model is a product type and its rules.
type Model struct {
	Name      string `json:"name"`
	Assurance string `json:"assurance"`
	// LDevIDLifetime is the life of working certificates in seconds; 0 means the
	// installation's default.
	LDevIDLifetime int64 `json:"ldevid_lifetime,omitempty"`
	// Poll is how often its devices ask when to renew, in seconds; 0 means the
	// installation's default, -1 never.
	Poll int64 `json:"poll,omitempty"`
	// Grace is for how long after the end of its last working certificate a device may still
	// return by itself, in seconds; 0 means for ever.
	Grace int64 `json:"grace,omitempty"`
	// Subject is the template of the commonName in its working certificates, containing {serial};
	// empty means MODEL:SERIAL. It can be set only once.
	Subject string `json:"subject,omitempty"`
	// ServeNames are templates, with {serial}, of the DNS names of devices' web pages, separated
	// by commas.
	ServeNames string    `json:"serve_names,omitempty"`
	Created    time.Time `json:"created"`
}

// NewModel makes a model. Asking again for the same returns the existing one.
type NewModel struct {
	Name      string `json:"name"`
	Assurance string `json:"assurance,omitempty"` // empty means "certified"
	ModelRules
}

// ModelRules changes rules of a model. nil keeps a rule; 0 and empty mean the same as in Model.
type ModelRules struct {
	LDevIDLifetime *int64  `json:"ldevid_lifetime,omitempty"`
	Poll           *int64  `json:"poll,omitempty"`
	Grace          *int64  `json:"grace,omitempty"`
	Subject        string  `json:"subject,omitempty"` // empty: keeps its value
	ServeNames     *string `json:"serve_names,omitempty"`
}

// Lot is a production batch.
type Lot struct {
	Name  string `json:"name"`
	Model string `json:"model"`
	// Quota is how many devices may ever be made in it; 0 means no limit.
	Quota   int64     `json:"quota"`
	Used    int64     `json:"used"`
	Listed  bool      `json:"listed"`
	Created time.Time `json:"created"`
	Closed  time.Time `json:"closed,omitzero"`
}

// NewLot makes a lot. Asking again for the same returns the existing one, unless it has a list:
// lists are not compared.
type NewLot struct {
	Name  string `json:"name"`
	Model string `json:"model,omitempty"` // empty means "default"
	Quota int64  `json:"quota"`
	// EKNames (hex, nameAlg ‖ digest) are the only TPMs allowed in the lot; empty means any.
	EKNames []string `json:"ek_names,omitempty"`
}

// NewTickets makes tickets: Count unbound ones, or one for each of For.
type NewTickets struct {
	Lot string `json:"lot,omitempty"` // empty means "default"
	// TTL is how long they are valid, in seconds; 0 means DefaultTicketTTL.
	TTL   int64       `json:"ttl,omitempty"`
	Count int         `json:"count,omitempty"`
	For   []TicketFor `json:"for,omitempty"`
}

// TicketFor binds a ticket to a serial number, to a TPM by its EK Name (hex), or both.
type TicketFor struct {
	Serial string `json:"serial,omitempty"`
	EKName string `json:"ek_name,omitempty"`
}

// Tickets are the text forms of Permissions, in the order in which they were requested.
type Tickets struct {
	Tickets []string  `json:"tickets"`
	Expires time.Time `json:"expires"`
}

// Device is one device. Certificates and EK certificates are set only when a single device is
// shown.
type Device struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Model     string            `json:"model"`
	Lot       string            `json:"lot"`
	Serial    string            `json:"serial"`
	State     string            `json:"state"`
	Assurance string            `json:"assurance"`
	TPM       TPM               `json:"tpm"`
	Labels    map[string]string `json:"labels,omitempty"`
	Enrolled  time.Time         `json:"enrolled"`
	Renewed   time.Time         `json:"renewed,omitzero"`
	Seen      time.Time         `json:"seen"`
	// Expires is the end and KeyAlgorithm the key's algorithm of the newest working
	// certificate.
	Expires      time.Time     `json:"expires,omitzero"`
	KeyAlgorithm string        `json:"key_algorithm,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	// Granted is until when it may return by an operator's grant; it, too, is set only when a
	// single device is shown.
	Granted time.Time `json:"granted,omitzero"`
}

// TPM is the chip of a device. Names and fingerprints are lower-case hex.
type TPM struct {
	Maker    string `json:"maker"`
	Model    string `json:"model"`
	Firmware string `json:"firmware"`
	AKName   string `json:"ak_name"`
	EKs      []EK   `json:"eks"`
}

// EK is an endorsement key.
type EK struct {
	// Fingerprint is the SHA-256 of its SubjectPublicKeyInfo, Name its TPM Name.
	Fingerprint string `json:"fingerprint"`
	Name        string `json:"name"`
	Issuer      string `json:"issuer,omitempty"`
	Certificate []byte `json:"certificate,omitempty"`
}

// StatusRequest says why a device is suspended, restored or revoked.
type StatusRequest struct {
	// Reason is for revocation alone: one of RevocationReasons.
	Reason string `json:"reason,omitempty"`
	// Why is free text for the audit, at most 1,000 bytes.
	Why string `json:"why,omitempty"`
}

// RevocationReasons are the words for CRLReason (RFC 5280 §5.3.1) that may end a device.
var RevocationReasons = []string{
	"unspecified", "key-compromise", "affiliation-changed", "superseded", "cessation", "privilege-withdrawn",
}

// StatusChange is the result of a change of status, which has been published by then.
type StatusChange struct {
	Device string `json:"device"`
	State  string `json:"state"`
	// Changed is false if the device was in that state already.
	Changed bool `json:"changed"`
	// Certificates is how many certificates it changed, Shards on how many CRLs.
	Certificates int `json:"certificates"`
	Shards       int `json:"shards"`
	// Unsigned are the issuers whose CRLs of it nobody can sign here any more, and what that means.
	Unsigned map[string]string `json:"unsigned,omitempty"`
}

// Certificate is one recorded certificate.
type Certificate struct {
	Issuer  string `json:"issuer"`
	Serial  string `json:"serial"`
	Profile string `json:"profile"`
	// Device is the device's ID, Operator the operator's name; both may be empty.
	Device   string `json:"device,omitempty"`
	Operator string `json:"operator,omitempty"`
	Subject  string `json:"subject"`
	// Status is "intended", "good", "hold", "revoked" or "expired".
	Status string `json:"status"`
	Shard  int64  `json:"shard"`
	// Key is the hex SHA-256 of the certified SubjectPublicKeyInfo.
	Key         string    `json:"key"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Issued      time.Time `json:"issued,omitzero"`
	Used        time.Time `json:"used,omitzero"`
	Predecessor string    `json:"predecessor,omitempty"`
	Revoked     time.Time `json:"revoked,omitzero"`
	Reason      string    `json:"reason,omitempty"`
	// PEM is set only when a single certificate is shown.
	PEM string `json:"pem,omitempty"`
}

// Operator is a person who may administer. State is "active", "invited" or "disabled".
type Operator struct {
	Name         string    `json:"name"`
	State        string    `json:"state"`
	Created      time.Time `json:"created"`
	InvitedUntil time.Time `json:"invited_until,omitzero"`
	Disabled     time.Time `json:"disabled,omitzero"`
	Key          string    `json:"key,omitempty"` // as a Certificate's; of what accepted the invitation
}

// NewOperator invites an operator. TTL is in seconds; 0 means DefaultInvite.
type NewOperator struct {
	Name string `json:"name"`
	TTL  int64  `json:"ttl,omitempty"`
}

// Invitation is the text form of a Permission to get one operator's certificate.
type Invitation struct {
	Invitation string    `json:"invitation"`
	Expires    time.Time `json:"expires"`
}

// KeyRequest asks for an operator's certificate for a new key, with an invitation (PathAccept) or
// over mutual TLS with the current certificate (PathRenewal).
type KeyRequest struct {
	// Message is a NewKey, kept as the exact bytes that were sent: the binding covers them.
	Message json.RawMessage `json:"message"`
	// Signature is by the new key over the binding, ASN.1 ECDSA, to prove possession.
	Signature Bytes `json:"signature"`
	// MAC is by the invitation's secret over the binding; only for PathAccept.
	MAC Bytes `json:"mac,omitempty"`
}

// NewKey is what KeyRequest signs.
type NewKey struct {
	// Invitation is the invitation's id; its secret is never sent.
	Invitation string `json:"invitation,omitempty"`
	// Key is the SubjectPublicKeyInfo (DER) of a P-256 key.
	Key Bytes `json:"key"`
}

// OperatorChain is an operator's certificate, DER, leaf first, without the root.
type OperatorChain struct {
	Operator string   `json:"operator"`
	Chain    [][]byte `json:"chain"`
}

// Event is one entry of the audit log.
type Event struct {
	Sequence int64             `json:"sequence"`
	Time     time.Time         `json:"time"`
	Actor    string            `json:"actor"`
	Verb     string            `json:"verb"`
	Object   string            `json:"object,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	Detail   map[string]string `json:"detail,omitempty"`
}
