package denylist

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"sort"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Serial is a certificate's serial number, big-endian.
type Serial [wire.SerialSize]byte

// ParseSerial reads 32 hex digits.
func ParseSerial(text string) (s Serial, err error) {
	if len(text) == 2*wire.SerialSize && text == strings.ToLower(text) {
		if _, err = hex.Decode(s[:], []byte(text)); err == nil {
			return s, nil
		}
	}
	return s, fmt.Errorf("%q is not a serial number of %d lower-case hex digits", text, 2*wire.SerialSize)
}

// SerialOf is a certificate's serial number; false if it is longer than ours.
func SerialOf(c *x509.Certificate) (s Serial, ok bool) {
	if n := c.SerialNumber; n == nil || n.Sign() < 0 || n.BitLen() > 8*wire.SerialSize {
		return s, false
	}
	c.SerialNumber.FillBytes(s[:])
	return s, true
}

func (s Serial) String() string { return hex.EncodeToString(s[:]) }

// Denial is a certificate that must be refused.
type Denial struct {
	Serial Serial
	// Since is when it was revoked or put on hold, to the second.
	Since time.Time
	// Reason is the CRLReason (RFC 5280 §5.3.1).
	Reason int
}

// denialSize is the length of an entry: serial, 4 bytes of seconds since 1970, reason.
const denialSize = wire.SerialSize + 4 + 1

// List is the certificates of an issuer that were revoked or on hold, and not expired, when it
// was made. The zero value denies nothing.
type List struct {
	Document
	authority
	entries []byte
}

// SealList signs a list. Denials must be in ascending order of serial numbers.
func SealList(s Seal, d Document, denials iter.Seq[Denial]) ([]byte, error) {
	var body []byte
	for x := range denials {
		body = append(body, x.Serial[:]...)
		body = binary.BigEndian.AppendUint32(body, uint32(x.Since.Unix()))
		body = append(body, byte(x.Reason))
	}
	if err := checkEntries(body); err != nil {
		return nil, err
	}
	return s.seal(listContext, d, body)
}

// OpenList verifies a list, which then refers to data. The caller must decide by Number and
// NextUpdate whether it is recent enough.
func OpenList(data []byte, roots *x509.CertPool, at time.Time) (*List, error) {
	d, by, body, err := open(listContext, data, roots, at)
	if err == nil {
		err = checkEntries(body)
	}
	if err != nil {
		return nil, fmt.Errorf("deny-list: %w", err)
	}
	return &List{d, by, body}, nil
}

// checkEntries checks that each serial number appears once, in order, with a valid reason.
func checkEntries(body []byte) error {
	if len(body)%denialSize != 0 {
		return fmt.Errorf("%w: half an entry", ErrNotDocument)
	}
	for i := 0; i < len(body); i += denialSize {
		if i > 0 && bytes.Compare(body[i-denialSize:][:wire.SerialSize], body[i:][:wire.SerialSize]) >= 0 {
			return fmt.Errorf("%w: entries out of order", ErrNotDocument)
		}
		if reason := int(body[i+denialSize-1]); reason != 0 && wire.ReasonWord(reason) == wire.ReasonWord(0) {
			return fmt.Errorf("%w: reason %d", ErrNotDocument, reason)
		}
	}
	return nil
}

// Len is how many certificates it denies.
func (l *List) Len() int { return len(l.entries) / denialSize }

// Lookup finds a certificate among the denied ones. It allocates nothing.
func (l *List) Lookup(s Serial) (Denial, bool) {
	i := sort.Search(l.Len(), func(i int) bool { return bytes.Compare(l.entries[i*denialSize:][:wire.SerialSize], s[:]) >= 0 })
	if i == l.Len() {
		return Denial{}, false
	}
	d := l.entry(i)
	return d, d.Serial == s
}

// All iterates over the denied certificates in order of their serial numbers.
func (l *List) All() iter.Seq[Denial] {
	return func(yield func(Denial) bool) {
		for i := range l.Len() {
			if !yield(l.entry(i)) {
				return
			}
		}
	}
}

func (l *List) entry(i int) Denial {
	e := l.entries[i*denialSize:][:denialSize]
	return Denial{Serial(e), time.Unix(int64(binary.BigEndian.Uint32(e[wire.SerialSize:])), 0).UTC(), int(e[denialSize-1])}
}
