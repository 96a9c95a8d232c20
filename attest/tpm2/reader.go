package tpm2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	gotpm "github.com/google/go-tpm/tpm2"
)

// reader parses one structure as a TPM writes it: integers are big-endian, a TPM2B is a 16-bit
// size and that many bytes (TPM 2.0 Part 2 §10.4). It keeps the first error and reads zeros from
// then on, so a structure is read as the list of its fields and checked once, by end.
//
// It knows only the accepted shapes. go-tpm knows them all, at the cost of reflection; tests
// check that both understand the same bytes in the same way.
type reader struct {
	rest []byte
	err  error
}

// maxStructure bounds each TPM structure: a 4096-bit RSA public area has under 700 bytes.
const maxStructure = 1 << 10

func read(raw []byte) *reader {
	r := &reader{rest: raw}
	switch {
	case len(raw) == 0:
		r.err = errors.New("it is missing")
	case len(raw) > maxStructure:
		r.err = fmt.Errorf("%d bytes are too many", len(raw))
	case len(raw) > 2 && int(binary.BigEndian.Uint16(raw)) == len(raw)-2: // as tools write it to files; no accepted structure begins like that
		r.err = errors.New("its size stands in front, as in a TPM2B: leave these two bytes out")
	}
	return r
}

// end returns the first error. Trailing bytes are one: they would be signed or hashed with the
// structure, and another reader might interpret them.
func (r *reader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.err = fmt.Errorf("followed by %d other bytes", len(r.rest))
	}
	return r.err
}

var errShort = errors.New("it ends too early")

func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.rest) {
		r.err = errShort
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// sized reads a TPM2B.
func (r *reader) sized() []byte { return r.take(int(r.uint16())) }

func (r *reader) uint16() (v uint16) {
	if b := r.take(2); b != nil {
		v = binary.BigEndian.Uint16(b)
	}
	return v
}

func (r *reader) uint32() (v uint32) {
	if b := r.take(4); b != nil {
		v = binary.BigEndian.Uint32(b)
	}
	return v
}

func (r *reader) uint64() uint64 { return uint64(r.uint32())<<32 | uint64(r.uint32()) }

func (r *reader) algorithm() gotpm.TPMAlgID { return gotpm.TPMAlgID(r.uint16()) }

// boolean reads a TPMI_YES_NO (Part 2 §9.2).
func (r *reader) boolean() bool {
	b := r.take(1)
	if b != nil && b[0] > 1 {
		r.err = errors.New("neither YES nor NO")
	}
	return b != nil && b[0] == 1
}

// unknown is a union selector that this package does not know: no accepted key has it.
type unknown struct {
	what  string
	value uint16
}

func (u unknown) Error() string { return fmt.Sprintf("%s %#04x", u.what, u.value) }

func (r *reader) unknown(what string, value gotpm.TPMAlgID) {
	if r.err == nil {
		r.err = unknown{what, uint16(value)}
	}
}

// area is the content of a TPMT_PUBLIC (Part 2 §12.2.4), except its authPolicy.
type area struct {
	kind, nameAlg gotpm.TPMAlgID
	attributes    uint32
	cipher        symmetric
	// scheme and hash are fixed by the key's maker; TPMAlgNull if the user chooses.
	scheme, hash gotpm.TPMAlgID
	// bits, exponent and modulus are an RSA key's.
	bits     uint16
	exponent uint32
	modulus  []byte
	// curve, x and y are an ECC key's.
	curve gotpm.TPMECCCurve
	x, y  []byte
}

// symmetric is a TPMT_SYM_DEF_OBJECT (Part 2 §11.1.7).
type symmetric struct {
	algorithm gotpm.TPMAlgID
	bits      uint16
	mode      gotpm.TPMAlgID
}

// readArea reads all fields up to an unknown selector.
func readArea(raw []byte) (a area, err error) {
	r := read(raw)
	a.kind, a.nameAlg, a.attributes = r.algorithm(), r.algorithm(), r.uint32()
	r.sized() // authPolicy
	switch a.kind {
	case gotpm.TPMAlgRSA: // TPMS_RSA_PARMS, TPM2B_PUBLIC_KEY_RSA (§12.2.3.5, §11.2.4.5)
		a.cipher = r.cipher()
		a.scheme, a.hash = r.scheme(gotpm.TPMAlgRSASSA, gotpm.TPMAlgRSAPSS)
		a.bits, a.exponent = r.uint16(), r.uint32()
		a.modulus = r.sized()
	case gotpm.TPMAlgECC: // TPMS_ECC_PARMS, TPMS_ECC_POINT (§12.2.3.6, §11.2.5.2)
		a.cipher = r.cipher()
		a.scheme, a.hash = r.scheme(gotpm.TPMAlgECDSA)
		a.curve = gotpm.TPMECCCurve(r.uint16())
		if kdf := r.algorithm(); kdf != gotpm.TPMAlgNull { // TPMT_KDF_SCHEME (§11.2.3.3)
			r.unknown("key derivation scheme", kdf)
		}
		a.x, a.y = r.sized(), r.sized()
	default:
		r.unknown("type", a.kind)
	}
	return a, r.end()
}

func (r *reader) cipher() symmetric {
	c := symmetric{algorithm: r.algorithm()}
	switch c.algorithm {
	case gotpm.TPMAlgNull:
	case gotpm.TPMAlgAES:
		c.bits, c.mode = r.uint16(), r.algorithm()
	default:
		r.unknown("cipher", c.algorithm)
	}
	return c
}

// scheme reads a TPMT_RSA_SCHEME or TPMT_ECC_SCHEME (Part 2 §11.2.4.2, §11.2.5.6): none,
// or a signature scheme with its hash.
func (r *reader) scheme(signing ...gotpm.TPMAlgID) (scheme, hash gotpm.TPMAlgID) {
	scheme = r.algorithm()
	switch {
	case scheme == gotpm.TPMAlgNull:
		return scheme, gotpm.TPMAlgNull
	case slices.Contains(signing, scheme):
		return scheme, r.algorithm()
	}
	r.unknown("scheme", scheme)
	return scheme, gotpm.TPMAlgNull
}
