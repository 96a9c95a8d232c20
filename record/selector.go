package record

import "time"

// Selector is a parsed condition over devices or certificates: a tree of And, Or and
// Not over comparisons. It is made by admin/selector from what a person typed and
// turned by each store into its own query, values always passed as parameters.
//
// Text compares byte by byte, a device's "serial" case-folded on both sides. A device
// has as many values of "ek.issuer" as EKs: one that fits is enough, and "!=" is the
// opposite of "=". A time that has not come equals none and is neither before nor
// after any. "status" takes "=" and "!=" and the values of StatusOf. A store refuses
// an unknown field or operator, a value of the wrong type, more than eight "*" in one
// pattern and more than 500 parts.
type Selector struct {
	// Op is one of the Op constants.
	Op string
	// Args are the parts of OpAnd and OpOr (two or more) and OpNot (one).
	Args []*Selector
	// Field is one of Fields for a comparison.
	Field string
	// Value is a string or a time.Time, as the field's kind says. For OpHas it is a
	// string in which "*" stands for any run of characters.
	Value any
}

// Operators of a Selector.
const (
	OpAnd          = "and"
	OpOr           = "or"
	OpNot          = "not"
	OpEqual        = "="
	OpNotEqual     = "!="
	OpLess         = "<"
	OpLessEqual    = "<="
	OpGreater      = ">"
	OpGreaterEqual = ">="
	OpHas          = ":"
)

// FieldKind says how a field's values compare.
type FieldKind int

// Kinds of fields.
const (
	Text FieldKind = iota
	Time
)

// DeviceFields and CertificateFields are what a Selector may name, with their kinds.
var (
	DeviceFields = map[string]FieldKind{
		"model": Text, "lot": Text, "serial": Text, "state": Text, "assurance": Text,
		"tpm.maker": Text, "tpm.model": Text, "tpm.firmware": Text, "ek.issuer": Text, "key.alg": Text,
		"enrolled": Time, "renewed": Time, "expires": Time, "seen": Time, LabelField: Text,
	}
	CertificateFields = map[string]FieldKind{
		"issuer": Text, "serial": Text, "profile": Text, "subject": Text, "device": Text, "key.alg": Text,
		"status": Text, "issued": Time, "expires": Time, "revoked": Time,
	}
)

// LabelField stands for all fields that begin so: "labels.site" is the label "site". A
// device without the label has no value there, which equals none and fits no pattern.
const LabelField = "labels."

// StatusOf is the value of a certificate's "status" field: "intended", "good",
// "hold", "revoked" or "expired" (which yields to hold and revoked).
func StatusOf(c Certificate, now time.Time) string {
	switch {
	case !c.Revoked.IsZero() && c.Reason == ReasonHold:
		return "hold"
	case !c.Revoked.IsZero():
		return "revoked"
	case c.DER == nil && c.Issued.IsZero():
		return "intended"
	case now.After(c.NotAfter):
		return "expired"
	}
	return "good"
}
