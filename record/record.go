// Package record is what Hallmark remembers: models, lots, tickets, devices,
// certificates, revocations and events, and the verbs by which they change.
//
// Each interface here is one capability with its guarantees; a store (record/sqlite,
// …) satisfies them all and passes the exam of record/recordtest. When a verb that
// changes something returns nil, the change is durable: it survives a power cut. A
// verb that returns an error has changed nothing (Issuance.Complete names the one
// exception). Every change takes the Event that is written in the same transaction,
// so none is unaudited, but for the CA's own steps on the way to one (ReserveShard,
// Intend), its lists, and sightings (Seen); a verb that finds nothing to change writes
// no event. Times are kept to the microsecond and come back in UTC.
package record

import (
	"errors"
	"strings"
	"time"
)

// Errors that every store returns, possibly wrapped.
var (
	// ErrNotFound: there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrExists: there is such a thing already.
	ErrExists = errors.New("exists already")
	// ErrConflict: the thing is not, or no longer, in the state that the verb needs.
	ErrConflict = errors.New("not in the state that this needs")
	// ErrBadCursor: Page.After is not a cursor that this listing has given.
	ErrBadCursor = errors.New("not a cursor of this listing")
	// ErrDisabled: whoever wants this was disabled meanwhile (Event.By).
	ErrDisabled = errors.New("disabled meanwhile")
	// ErrSpent: the approval that this needs has ended (Event.Spends).
	ErrSpent = errors.New("its approval has ended")
	// ErrUnavailable: the store cannot be written now (full, read-only, locked, gone).
	ErrUnavailable = errors.New("the database cannot be written")
)

// Names that exist from the start, for the maker who needs no other.
const (
	DefaultModel = "default"
	DefaultLot   = "default"
)

// ProfileLDevID is the profile of working certificates, of which View.Newest speaks.
const ProfileLDevID = "ldevid"

// Fold is the form in which serial numbers are compared: without case.
func Fold(serial string) string { return strings.ToLower(serial) }

// Assurance is what is known of where a device's key lives: two facts, and whether
// there is hardware at all.
type Assurance struct {
	// Certified: the EK certificate chains to a TPM maker the installation trusts.
	Certified bool
	// Registered: the EK's Name was on the lot's list, or on the ticket, before first contact.
	Registered bool
	// Hardware: a TPM activated a credential. Without it the key is software.
	Hardware bool
}

// Levels that a model may ask for, and that Assurance.String gives.
const (
	LevelCertified  = "certified"
	LevelRegistered = "registered"
	LevelFirstUse   = "first-use"
	LevelSoftware   = "software"
)

// String names the facts: "certified", "registered", "certified+registered",
// "first-use" or "software".
func (a Assurance) String() string {
	switch {
	case a.Certified && a.Registered:
		return LevelCertified + "+" + LevelRegistered
	case a.Certified:
		return LevelCertified
	case a.Registered:
		return LevelRegistered
	case a.Hardware:
		return LevelFirstUse
	}
	return LevelSoftware
}

// Meets reports whether the facts are enough for a model that asks for level; an
// unknown level is met by nothing.
func (a Assurance) Meets(level string) bool {
	switch level {
	case LevelCertified:
		return a.Certified
	case LevelRegistered:
		return a.Registered
	case LevelFirstUse:
		return a.Hardware
	case LevelSoftware:
		return true
	}
	return false
}

// Model is a product type and its rules.
type Model struct {
	Name string
	// Assurance is the least level a device of this model must reach.
	Assurance string
	// LDevIDLifetime is the life of a working certificate; zero means the installation's default.
	LDevIDLifetime time.Duration
	// Poll is how often its devices ask when to renew; zero means the installation's
	// default, less than zero that they need not ask.
	Poll time.Duration
	// Subject is the template of the commonName in working certificates (CheckSubject);
	// empty means MODEL:SERIAL.
	Subject string
	// Grace is for how long after the end of its last working certificate a device may
	// still come back by itself; zero means for ever.
	Grace time.Duration
	// ServeNames are templates of the DNS names under which a device serves a web page of
	// its own, separated by commas (CheckServeNames); empty means that it gets no
	// certificate for that.
	ServeNames string
	Created    time.Time
}

// Lot is a production batch of one model with a quota.
type Lot struct {
	Name  string
	Model string
	// Quota is how many devices may ever be made in the lot; 0 means no limit (the default lot).
	Quota int64
	// Used counts the devices recorded in the lot; it never goes down.
	Used    int64
	Created time.Time
	// Closed is when the lot was closed; zero while it is open.
	Closed time.Time
	// Listed: the lot has a list of EK Names, and a device must be on it.
	Listed bool
}

// Ticket is a single-use permission to enrol one device. The secret is not in the
// record: the server derives it from the id.
type Ticket struct {
	ID  string
	Lot string
	// Serial binds the ticket to a serial number; empty means any.
	Serial string
	// EKName binds it to a TPM (nameAlg ‖ digest), which makes the device registered; nil means any.
	EKName  []byte
	Created time.Time
	Expires time.Time
	// Redeemed is when and Device by whom it was used; zero while unused.
	Redeemed time.Time
	Device   string
}

// States of a device.
const (
	StateActive    = "active"
	StateSuspended = "suspended"
	StateRevoked   = "revoked"
)

// Device is one recorded device.
type Device struct {
	// ID is the record's own key: 26 characters, random. People use Name.
	ID     string
	Model  string
	Lot    string
	Serial string
	State  string
	// Assurance is what enrolment established.
	Assurance Assurance
	// EKs are the endorsement keys known to belong to the chip, the enrolling one first.
	EKs []EK
	// AKName, AKPublic (TPMT_PUBLIC) identify the attestation key. A device without
	// hardware has no AKName, and as AKPublic the SubjectPublicKeyInfo of the key that
	// speaks for it instead, its IDevID key.
	AKName   []byte
	AKPublic []byte
	// Key is the SHA-256 of the IDevID key's SubjectPublicKeyInfo: an IDevID is issued
	// again only to the same key. Of devices without hardware each has its own.
	Key [32]byte
	// TPMMaker, TPMModel and TPMFirmware ("7.2.1.0" style, attested) describe the chip.
	TPMMaker    string
	TPMModel    string
	TPMFirmware string
	// Enrolled, Renewed and Seen are times of first enrolment, last renewal and last
	// authenticated contact; Renewed is zero before the first working certificate.
	Enrolled time.Time
	Renewed  time.Time
	Seen     time.Time
	// Expires is the end and KeyAlgorithm the key's algorithm of the newest working
	// certificate; zero before the first. The store keeps them; an admission's are not read.
	Expires      time.Time
	KeyAlgorithm string
	// Labels are what operators noted on it. Only Inventory gives them.
	Labels map[string]string
}

// Name is the device's name in certificates: MODEL:SERIAL.
func (d Device) Name() string { return d.Model + ":" + d.Serial }

// EK is one endorsement key of a device's chip.
type EK struct {
	// Fingerprint is the SHA-256 of the key's SubjectPublicKeyInfo.
	Fingerprint [32]byte
	// Name is nameAlg ‖ digest of the public area, Public the TPMT_PUBLIC.
	Name   []byte
	Public []byte
	// Certificate is the EK certificate (DER); nil if the chip has none. Issuer is its issuer.
	Certificate []byte
	Issuer      string
}

// EKType says of one make and model of certified TPM which endorsement key counts: of a
// chip's several only one, or it could become several devices.
type EKType struct {
	// Maker and Model are those of Device.TPMMaker and TPMModel.
	Maker, Model string
	// Type is the key's algorithm and size: "P-256", "RSA-2048".
	Type  string
	Since time.Time
	// Device is the ID of the device whose enrolment was the first and so decided; empty
	// if AllowedBy, an operator, did.
	Device, AllowedBy string
}

// Tombstone bars an identity from enrolling again until it is lifted.
type Tombstone struct {
	// Kind is "ek" (hex fingerprint), "ak" (hex Name) or "serial" (MODEL:SERIAL, folded).
	Kind   string
	Value  string
	Device string
	Since  time.Time
	Reason string
}

// Certificate is one certificate, from the intent to sign it on.
type Certificate struct {
	// Issuer is the issuer's name in URLs ("operational"), Serial the serial number in
	// lower-case hex, 32 digits. Together they are the key.
	Issuer string
	Serial string
	// Profile is the certificate shape (ca/profile).
	Profile string
	// Device is the ID of the device it was made for; Principal is the operator's or relying party's
	// name. Both are empty for the installation's own.
	Device    string
	Principal string
	// Subject is the subject as people read it.
	Subject string
	// Shard is the CRL shard named in the certificate.
	Shard int64
	// Key is the SHA-256 of the certified SubjectPublicKeyInfo, KeyAlgorithm what kind of
	// key it is: "ecdsa-p256", "rsa-2048", …
	Key          [32]byte
	KeyAlgorithm string
	NotBefore    time.Time
	NotAfter     time.Time
	// TBS is what was intended to be signed; durable before the key was used. It is nil
	// once there is a DER, which holds it.
	TBS []byte
	// DER is the certificate; nil while only the intent is recorded.
	DER []byte
	// Intended and Issued are when the intent and the result were recorded.
	Intended time.Time
	Issued   time.Time
	// Predecessor is the serial of the certificate that authenticated the request; empty if none did.
	Predecessor string
	// Used is when the certificate first authenticated its holder here; zero if never.
	Used time.Time
	// Revoked is when it was revoked or put on hold; zero while it is good.
	Revoked time.Time
	// Reason is the CRLReason (RFC 5280 §5.3.1); 6 is certificateHold. Meaningless while good.
	Reason int
}

// CRLReason values used here (RFC 5280 §5.3.1).
const (
	ReasonUnspecified   = 0
	ReasonKeyCompromise = 1
	ReasonAffiliation   = 3
	ReasonSuperseded    = 4
	ReasonCessation     = 5
	ReasonHold          = 6
	ReasonPrivilege     = 9
)

// Outstanding is what holders still have of an issuer.
type Outstanding struct {
	// Good counts the good ones whose holder has no newer good one of the profile, Denied
	// those that are revoked or on hold.
	Good, Denied int64
	// Until is the latest end and Newest the serial number of the newest of all these; zero if
	// there are none.
	Until  time.Time
	Newest string
}

// Shard names one CRL of one issuer.
type Shard struct {
	Issuer string
	Number int64
}

// Revoked is one entry of a CRL.
type Revoked struct {
	Serial string
	Since  time.Time
	Reason int
}

// CRL is a published list.
type CRL struct {
	Shard
	// Sequence is the crlNumber, strictly increasing per shard.
	Sequence int64
	// Shows is the number of the last change that it knows, as RevokedIn gave it.
	Shows      int64
	DER        []byte
	ThisUpdate time.Time
	NextUpdate time.Time
}

// Operator is a person who may administer the installation.
type Operator struct {
	Name     string
	Created  time.Time
	Disabled time.Time
	// Invitation is the id of the newest invitation, valid until InvitedUntil; empty if
	// there was none or it was withdrawn.
	Invitation   string
	InvitedUntil time.Time
	// Accepted is the SHA-256 of the key (SubjectPublicKeyInfo) that accepted the
	// invitation; zero while none has.
	Accepted [32]byte
}

// Authority is a TPM maker's CA certificate that an operator imported.
type Authority struct {
	// Fingerprint is the hex SHA-256 of DER.
	Fingerprint string
	DER         []byte
	Added       time.Time
	AddedBy     string
}

// Verbs of the events by which the host changes what others trust. What they tell of is in
// files beside the record: Object is "bundle N", an issuer, an issuer, and a root.
const (
	VerbPublished = "trust.published"
	VerbActivated = "issuer.activated"
	VerbListed    = "issuer.listed"
	VerbImported  = "list.imported"
)

// Event is one line of audit. A store refuses one without Time or Verb.
type Event struct {
	// Sequence orders events; the store assigns it.
	Sequence int64
	Time     time.Time
	// Actor is who acted: "operator:anna", "device:default:SN-1", "ticket:abc…", "host", "server".
	Actor string
	// Verb is what happened: "device.enrolled", "enrolment.refused", "device.revoked", …
	Verb string
	// Object is what it happened to: a device's name, a lot, an operator, …
	Object string
	// Reason is why, in words; for a refusal its code and sentence.
	Reason string
	// Detail holds further facts under lower-case keys; never a secret.
	Detail map[string]string
	// By is the operator or relying party whose act it is: who is disabled by the time that it is
	// written does nothing any more, ErrDisabled. Empty for acts of others, and for what must be
	// written in any case. It is not read back.
	By string
	// Spends is the ID of the approval that the act needed: it is spent when the event is
	// written, and if it cannot be (Approvals.GivenApproval), ErrSpent, nothing is done. Others'
	// requests and approvals of that kind and subject end with it. It is not read back.
	Spends string
	// Alert: the operators who did not cause it must hear of it (Alerts). It is not read back.
	Alert bool
}
