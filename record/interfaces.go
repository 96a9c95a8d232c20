package record

import (
	"context"
	"time"
)

// Query says which rows an admission is about. Zero fields are not looked up.
type Query struct {
	// Session is the id of the challenge session being redeemed.
	Session string
	// Ticket is the id of a ticket or, if there is none of that id, of a grant.
	Ticket string
	// Serial is looked up, case-folded, in the model of View.Lot; if it is empty, the
	// ticket's is.
	Serial string
	// EK is the endorsement key's fingerprint, EKName its Name, AK the attestation key's Name.
	EK     [32]byte
	EKName []byte
	AK     []byte
	// Chip is the make and model of a certified TPM (Maker and Model); nil is not looked up.
	Chip *EKType
	// Key is the SHA-256 of the IDevID key's SubjectPublicKeyInfo. Of several devices with it, it
	// finds the one without hardware, which is known by it.
	Key [32]byte
	// Device is a device's ID.
	Device string
	// Issuer and CertificateSerial name the certificate that authenticated a renewal.
	Issuer            string
	CertificateSerial string
}

// View is everything that an admission is judged by, as of one moment. A pointer is nil if there is
// no such row.
type View struct {
	// SessionRedeemed: the session was used before.
	SessionRedeemed bool
	Ticket          *Ticket
	// Grant is the one that Query.Ticket names, whose device is then in ByID, or else the
	// newest of the device that was found by any key but its serial number.
	Grant *Grant
	// Lost is the grant by which that device's key was declared lost (Grant.NewKey): neither it
	// nor a later one was made use of. Nil if there is none.
	Lost *Grant
	// Lot and Model are the ticket's, or else those of the device found by ID, EK, AK or Key.
	Lot   *Lot
	Model *Model
	// OnList: the lot has a list and EKName is on it.
	OnList bool
	// EKTypes are those recorded for Query.Chip; none before the first such chip.
	EKTypes []string
	// ByEK, BySerial, ByAK, ByKey and ByID are the devices found by each key.
	ByEK, BySerial, ByAK, ByKey, ByID *Device
	// Presented is the certificate of Query.CertificateSerial, whose device is then in
	// ByID; Newest the newest issued LDevID of the device that Grant would be of.
	Presented, Newest *Certificate
	// Tombstones are those that cover the queried EK, AK or serial.
	Tombstones []Tombstone
}

// Admission is what a judge decided to write.
type Admission struct {
	// Device is the device as it shall stand. With an ID that is not in the record it
	// is added, active, and counted in its lot; otherwise it replaces the recorded one,
	// whose Model, Lot, Serial, State and Enrolled it must repeat and whose EKs it must
	// contain.
	Device Device
	// Session (until Expires) and Ticket are redeemed by it; empty means none.
	Session string
	Expires time.Time
	Ticket  string
	// EKType is recorded for the Device's TPMMaker and TPMModel, if it is not there yet;
	// empty records none.
	EKType string
	// Grant notes, at Event.Time if it is the first time, that a grant was made use of;
	// empty means none.
	Grant string
	// Used marks the certificate Query.CertificateSerial as having authenticated its
	// holder, at Event.Time if it is the first time.
	Used bool
	// Event is written with it.
	Event Event
}

// Judge decides on a View. It is pure and quick: a store may call it more than once
// and holds its write lock meanwhile.
type Judge func(View) (Admission, error)

// Admissions is how devices come in and come back.
type Admissions interface {
	// Look gives the View without changing anything.
	Look(ctx context.Context, q Query) (View, error)
	// Holder gives the device that a certificate is of, as of the last commit; ErrNotFound
	// if there is no such certificate of a device. It is a small part of Look.
	Holder(ctx context.Context, issuer, serial string) (Device, error)
	// Admit lets judge decide on the View and writes its decision, all in one
	// serialisable transaction: two admissions never both see the last place of a
	// quota, an unused ticket, an unredeemed session or a free serial. An error of
	// judge comes back unchanged and nothing is written. Beyond what judge decides the
	// store itself refuses (ErrConflict) a second redemption of a session or ticket, a
	// quota overrun, a closed lot, and a second device with the same EK, AK, serial or,
	// of those without hardware, key. A panic of judge goes on in the caller and nothing is written.
	Admit(ctx context.Context, q Query, judge Judge) (Device, error)
	// Seen notes that a certificate authenticated its holder here: Certificate.Used, if
	// it was not set, and its Device.Seen. ErrNotFound if there is no such certificate of
	// a device.
	Seen(ctx context.Context, issuer, serial string, at time.Time) error
}

// Issuance is the CA's log: what may have been signed.
type Issuance interface {
	// ReserveShard reserves up to want places in the issuer's open shard (want ≥ 1) and
	// returns the shard and how many were given (≥ 1). A shard that has given capacity
	// places is closed and the next number opened. A reservation lost in a crash leaves
	// the shard with fewer certificates, never with more.
	ReserveShard(ctx context.Context, issuer string, want, capacity int64) (shard, given int64, err error)
	// Intend records certificates about to be signed: TBS set, DER nil. All or none.
	// ErrExists if a serial number is taken; ErrNotFound if the device or operator that
	// one is for does not exist, ErrConflict if the device is not active: one that was once revoked
	// is never signed for; ErrDisabled if the operator is disabled. ErrConflict also if an operator or relying party without
	// a good certificate was invited, and it was not this key that accepted: it was that of an
	// invitation before, or a renewal of what was revoked meanwhile; and if the device has lost its key
	// (View.Lost), or has another since: what was admitted before that is of the lost one.
	//
	// A lost answer is given again: stands, unless it is nil, is shown for each intent the
	// newest good (not revoked or held), completed certificate of its device (or, if it has
	// none, of its operator) with its profile and key; nil if there is none. Intents of which
	// it says that the earlier one stands are not recorded. It runs in the transaction, and
	// again if that is repeated, so it must wait for nothing.
	Intend(ctx context.Context, intents []Certificate, stands func(earlier []*Certificate) []bool) error
	// Complete records the signed certificates of recorded intents (Issuer, Serial, Profile,
	// DER and Issued are read). All or none; ErrConflict if one is no intent or has its
	// certificate already.
	//
	// An intent that was revoked, held or voided meanwhile gets its certificate recorded
	// all the same, for it exists, and is born revoked or on hold. Complete has then
	// recorded everything, the event too, and returns ErrConflict nevertheless, so that
	// no caller hands the certificate out.
	Complete(ctx context.Context, signed []Certificate, e Event) error
	// Void revokes an intent without certificate, open or on hold, which may or may not
	// have been signed; its shard must be published afterwards. ErrConflict otherwise.
	Void(ctx context.Context, issuer, serial string, at time.Time, e Event) error
	// OpenIntents lists what was intended and neither completed nor revoked for good,
	// oldest first; intents on hold are among them.
	OpenIntents(ctx context.Context) ([]Certificate, error)
}

// Revocations is how identities end, and how CRL and OCSP know.
type Revocations interface {
	// Revoke ends a device: in one transaction its state, all its certificates (open
	// intents too; those on hold keep their date) and a tombstone on all its EKs, its AK
	// and its serial. It returns the shards that changed, but for those where only expired
	// certificates did (so do the verbs below). Revoking a revoked device changes nothing
	// and returns the shards of its certificates: the call before may have failed to
	// publish them, or not have come to it yet. A reason that does not end (6, 8) is an error.
	Revoke(ctx context.Context, device string, at time.Time, reason int, why string, e Event) ([]Shard, error)
	// Suspend puts an active device, its good certificates and its open intents on hold;
	// ErrConflict if it is revoked; if it is suspended, as Revoke of a revoked one.
	Suspend(ctx context.Context, device string, at time.Time, e Event) ([]Shard, error)
	// Restore lifts a suspension; ErrConflict if the device is revoked; if it is active,
	// as Revoke of a revoked one.
	Restore(ctx context.Context, device string, at time.Time, e Event) ([]Shard, error)
	// RevokePrincipal ends all certificates of an operator's or relying party's name, and returns
	// their shards, also if they were ended before.
	RevokePrincipal(ctx context.Context, name string, at time.Time, reason int, e Event) ([]Shard, error)
	// Status finds a certificate, or ErrNotFound if it was never intended.
	Status(ctx context.Context, issuer, serial string) (Certificate, error)
	// RevokedIn lists a shard's revoked and held certificates that have not been
	// expired for more than keep, ordered by serial number, with the number of the last
	// change that this shows (Changes.LastChange).
	RevokedIn(ctx context.Context, s Shard, now time.Time, keep time.Duration) (list []Revoked, shows int64, err error)
	// Shards lists the shards of an issuer, in order, but for those whose certificates
	// (a day's grace each) had all ended at the given time: nobody asks for their lists.
	// The newest is among them in any case.
	Shards(ctx context.Context, issuer string, endedBy time.Time) ([]Shard, error)
	// PublishCRL stores a list as its shard's newest; ErrConflict unless Sequence is
	// greater than the stored one's and Shows not less.
	PublishCRL(ctx context.Context, crl CRL) error
	// NewestCRL is the newest list of a shard; ErrNotFound before the first.
	NewestCRL(ctx context.Context, s Shard) (CRL, error)
}

// Tombstones is how a revocation that was a mistake ends.
type Tombstones interface {
	// Lift takes away the tombstones of a revoked device, which is active then and may come
	// back: its certificates stay revoked. ErrConflict if it is not revoked.
	Lift(ctx context.Context, device string, e Event) error
}

// Page bounds a listing: at most Limit rows (1 to 1000) after the cursor.
type Page struct {
	Limit int
	// After is the cursor that the last page returned; empty for the first page. Anything
	// else is ErrBadCursor.
	After string
}

// Factory is who may make what, and how many.
type Factory interface {
	// CreateModel refuses with ErrConflict a Subject that could collide with another model's.
	CreateModel(ctx context.Context, m Model, e Event) error
	// SetModel lets change alter a model's rules as they are, and writes its event with them, all
	// in one transaction: of two changes at once neither undoes the other. An error of change
	// comes back unchanged and nothing is written; it may be called more than once. ErrNotFound
	// if there is no model of that name; ErrConflict if Name, Assurance, Created or a Subject that was
	// set differ then, which its devices were made by, or if a Subject could collide with another
	// model's.
	SetModel(ctx context.Context, name string, change func(*Model) (Event, error)) error
	Models(ctx context.Context) ([]Model, error)
	Model(ctx context.Context, name string) (Model, error)
	// CreateLot also records the list of EK Names, if there is one. Used and Closed are
	// not read. ErrNotFound if the model does not exist.
	CreateLot(ctx context.Context, l Lot, ekNames [][]byte, e Event) error
	Lots(ctx context.Context) ([]Lot, error)
	Lot(ctx context.Context, name string) (Lot, error)
	// CloseLot ends a lot; closing a closed one changes nothing.
	CloseLot(ctx context.Context, name string, at time.Time, e Event) error
	// CreateTickets records tickets, all or none; ErrNotFound if a lot does not exist,
	// ErrConflict if it is closed.
	CreateTickets(ctx context.Context, ts []Ticket, e Event) error
	Ticket(ctx context.Context, id string) (Ticket, error)
}

// Inventory is how people look at the fleet. A nil selector selects everything.
type Inventory interface {
	// Devices lists devices in order of enrolment with the cursor of the next page,
	// empty at the end.
	Devices(ctx context.Context, where *Selector, p Page) ([]Device, string, error)
	// Device finds by ID.
	Device(ctx context.Context, id string) (Device, error)
	// DevicesNamed finds by serial number (case-folded), in one model or, if model is
	// empty, in all; no error if there is none.
	DevicesNamed(ctx context.Context, model, serial string) ([]Device, error)
	// Certificates lists certificates, newest first, without their DER.
	Certificates(ctx context.Context, where *Selector, p Page) ([]Certificate, string, error)
	// CertificatesNumbered finds by serial number in every issuer.
	CertificatesNumbered(ctx context.Context, serial string) ([]Certificate, error)
	// Issuers names every issuer that a place in a shard was ever reserved for, in order.
	Issuers(ctx context.Context) ([]string, error)
	// Outstanding counts what an issuer has signed for devices, operators and relying parties
	// and that has not expired before the given time. Unless key is nil, what bears these bytes as its
	// issuer's key identifier (RFC 5280 §4.2.1.1) does not count: the rest is of another
	// issuer that had the name.
	Outstanding(ctx context.Context, issuer string, key []byte, at time.Time) (Outstanding, error)
}

// AbleAfterDisabling is how long an operator counts, where consent is needed, after being
// disabled, or after the revocation of the last good certificate: nobody becomes the only
// operator by disabling the other, or by ending the issuer behind the other.
const AbleAfterDisabling = 24 * time.Hour

// Operators is who administers.
type Operators interface {
	// Invite records an operator with an invitation, or invites a recorded one again, a
	// disabled one too, who is enabled by it. ErrExists if at o.Created the operator has a
	// certificate that is neither expired nor revoked, or an open intent (Issuance), or if a
	// relying party has the name.
	Invite(ctx context.Context, o Operator, e Event) error
	// AcceptInvitation binds an invitation to a key (Operator.Accepted); ErrNotFound if
	// there is none that is valid at that time, or another key has accepted it. The same key
	// may accept it again, for an answer may be lost: nothing changes. The event's Object is
	// whose invitation it was.
	AcceptInvitation(ctx context.Context, id string, key [32]byte, at time.Time, e Event) (Operator, error)
	// DisableOperator bars an operator and withdraws an invitation; disabling a disabled
	// one changes nothing. ErrConflict if nobody else could act (Able). The operator's
	// certificates are ended by RevokePrincipal. What the operator gave out (Event.By) ends with it,
	// on any clock, unless it was used: tickets, grants, and the invitations of others, of operators and
	// relying parties, who are disabled too. The event says how many, and who.
	DisableOperator(ctx context.Context, name string, at time.Time, e Event) error
	// RecoverOperator makes or re-enables an operator, and withdraws an invitation; only the
	// host may. Its event is written in any case.
	RecoverOperator(ctx context.Context, name string, at time.Time, e Event) error
	Operator(ctx context.Context, name string) (Operator, error)
	Operators(ctx context.Context) ([]Operator, error)
	// Able lists the operators who could act at that time: not disabled, and with a
	// certificate that is good and has not expired. It lists as well those who were disabled,
	// or whose certificate was revoked, less than lost before that time.
	Able(ctx context.Context, at time.Time, lost time.Duration) ([]string, error)
}

// Authorities is the set of TPM makers' CA certificates that operators imported.
type Authorities interface {
	// AddAuthorities adds certificates and returns how many were new.
	AddAuthorities(ctx context.Context, as []Authority, e Event) (int, error)
	// RemoveAuthority takes one out again by its fingerprint.
	RemoveAuthority(ctx context.Context, fingerprint string, e Event) error
	Authorities(ctx context.Context) ([]Authority, error)
}

// EKTypes is which endorsement keys count, by make and model of TPM.
type EKTypes interface {
	// EKTypes lists by maker, model and type.
	EKTypes(ctx context.Context) ([]EKType, error)
	// AllowEKType adds a type to those of a make and model (Device is not read);
	// ErrExists if it is there.
	AllowEKType(ctx context.Context, t EKType, e Event) error
}

// Audit is the log of everything that happened.
type Audit interface {
	// Note writes events that change nothing else: refusals, mostly.
	Note(ctx context.Context, es ...Event) error
	// Events lists at most limit (1 to 10,000) events after the given sequence number,
	// oldest first.
	Events(ctx context.Context, after int64, limit int) ([]Event, error)
	// LastEvents lists the newest events, newest first.
	LastEvents(ctx context.Context, limit int) ([]Event, error)
	// TrustEvents lists the newest events of the verbs VerbPublished, VerbActivated, VerbListed
	// and VerbImported, newest first.
	TrustEvents(ctx context.Context, limit int) ([]Event, error)
}

// Keeping is what the host does with a store.
type Keeping interface {
	// Snapshot writes a consistent copy of a running store to a new file; it fails if
	// the file exists.
	Snapshot(ctx context.Context, file string) error
	// Writable says why nothing can be written now (ErrUnavailable): a verb has failed for that
	// reason, and writing for this question, which leaves nothing behind, fails as well. Before a
	// verb has failed it writes nothing.
	Writable(ctx context.Context) error
	// Verify checks the store's own integrity and returns what is wrong.
	Verify(ctx context.Context) error
	// Close waits for writes under way and releases the store.
	Close() error
}

// Store is everything, for wiring and for the exam; consumers name the capability
// they need.
type Store interface {
	Admissions
	Issuance
	Revocations
	Tombstones
	Changes
	Factory
	Inventory
	Operators
	RelyingParties
	Authorities
	EKTypes
	Jobs
	Labels
	Approvals
	Alerts
	Settings
	Audit
	Grants
	Keeping
}
