package tpm2

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of Names
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"slices"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
)

// Attribute bits of TPMA_OBJECT (TPM 2.0 Part 2 §8.3).
const (
	fixedTPM            = 1 << 1
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	userWithAuth        = 1 << 6
	adminWithPolicy     = 1 << 7
	noDA                = 1 << 10
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18
)

var attributeNames = map[uint32]string{
	fixedTPM: "fixedTPM", 1 << 2: "stClear", fixedParent: "fixedParent", sensitiveDataOrigin: "sensitiveDataOrigin",
	userWithAuth: "userWithAuth", adminWithPolicy: "adminWithPolicy", 1 << 8: "firmwareLimited", 1 << 9: "svnLimited",
	noDA: "noDA", 1 << 11: "encryptedDuplication", restricted: "restricted", decrypt: "decrypt", sign: "sign", 1 << 19: "x509sign",
}

// born are the attributes that every key must have: made in this chip, never to leave it.
const born = fixedTPM | fixedParent | sensitiveDataOrigin

// free are the attributes that a key may have or not: its owner decides how its use is
// authorised.
const free = userWithAuth | adminWithPolicy | noDA

// role is what is required of one of the three keys in evidence.
type role struct {
	name string
	// attributes must be set; besides them only free ones may be.
	attributes uint32
	// The codes of refusals: for a structure that cannot be read, for attributes, for the
	// attribute restricted, for an algorithm that is not accepted, for a key that can be broken.
	malformed, wrong, restriction, algorithm, weak string
}

var (
	roleEK = role{"endorsement key", born | restricted | decrypt,
		CodeEKMalformed, CodeEKAttributes, CodeEKAttributes, CodeEKAlgorithm, CodeEKWeak}
	roleAK = role{"attestation key", born | restricted | sign,
		CodeAKMalformed, CodeAKAttributes, CodeAKRestricted, CodeAKAlgorithm, CodeAKWeak}
	roleKey = role{"device key", born | sign,
		CodeKeyMalformed, CodeKeyAttributes, CodeKeyRestricted, CodeKeyAlgorithm, CodeKeyWeak}
)

// public is a TPMT_PUBLIC that is acceptable in its role.
type public struct {
	role
	area
	raw []byte
	// name is nameAlg ‖ H(raw) (TPM 2.0 Part 1 §16).
	name []byte
	// key is *ecdsa.PublicKey or *rsa.PublicKey; spki its SubjectPublicKeyInfo.
	key  crypto.PublicKey
	spki []byte
}

// typeName is the key's algorithm and size as people write them.
func (p *public) typeName() string {
	switch k := p.key.(type) {
	case *ecdsa.PublicKey:
		return k.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", k.N.BitLen())
	}
	return ""
}

// readPublic parses a public area and checks it against its role.
func readPublic(r role, raw []byte) (*public, error) {
	a, err := readArea(raw)
	choice, shaped := err.(unknown)
	if err != nil && !shaped {
		return nil, refuse(r.malformed, "", "the %s's public area is malformed: %v", r.name, err)
	}
	if err := r.checkAttributes(a.attributes); err != nil {
		return nil, err
	}
	p := &public{role: r, area: a, raw: raw}
	if p.name, err = name(a.nameAlg, raw); err != nil {
		return nil, refuse(r.algorithm, "", "the %s's Name: %v", r.name, err)
	}
	switch {
	case shaped:
		err = p.unacceptable("%v", choice)
	case a.kind == gotpm.TPMAlgECC:
		err = p.readECC()
	default:
		err = p.readRSA()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// checkAttributes reports the lowest wrong bit. Bits without a name are refused, since it is not
// known what they allow.
func (r role) checkAttributes(got uint32) error {
	wrong := (got ^ r.attributes) &^ free
	if wrong == 0 {
		return nil
	}
	code, bit := r.wrong, uint32(1)<<bits.TrailingZeros32(wrong)
	if wrong&restricted != 0 {
		code, bit = r.restriction, restricted
	}
	name := attributeNames[bit]
	if name == "" {
		name = fmt.Sprintf("reserved (bit %d)", bits.TrailingZeros32(bit))
	}
	state := "not set"
	if got&bit != 0 {
		state = "set"
	}
	return refuse(code, "make the key from Hallmark's template", "the %s's attribute %s is %s", r.name, name, state)
}

// name computes nameAlg ‖ H(area). SHA-1 is not among the accepted hashes.
func name(alg gotpm.TPMIAlgHash, area []byte) ([]byte, error) {
	h, ok := hashes[alg]
	if !ok {
		return nil, fmt.Errorf("hash %#04x is not accepted", uint16(alg))
	}
	d := h.New()
	d.Write(area)
	return d.Sum(binary.BigEndian.AppendUint16(nil, uint16(alg))), nil
}

var hashes = map[gotpm.TPMIAlgHash]crypto.Hash{
	gotpm.TPMAlgSHA256: crypto.SHA256,
	gotpm.TPMAlgSHA384: crypto.SHA384,
	gotpm.TPMAlgSHA512: crypto.SHA512,
}

func (p *public) unacceptable(format string, a ...any) error {
	return refuse(p.algorithm, "accepted are P-256, P-384 and RSA of 2048, 3072 or 4096 bits, with SHA-256, SHA-384 or SHA-512",
		"the %s's %s is not accepted", p.role.name, fmt.Sprintf(format, a...))
}

func (p *public) broken(format string, a ...any) error {
	return refuse(p.weak, "", "the %s %s", p.role.name, fmt.Sprintf(format, a...))
}

// curve is a curve with the part of a SubjectPublicKeyInfo that precedes the point: crypto/x509
// takes longer to write it than checking the point takes.
type curve struct {
	elliptic.Curve
	size int
	spki []byte
}

var curves = map[gotpm.TPMECCCurve]curve{
	gotpm.TPMECCNistP256: newCurve(elliptic.P256()),
	gotpm.TPMECCNistP384: newCurve(elliptic.P384()),
}

func newCurve(c elliptic.Curve) curve {
	size := (c.Params().BitSize + 7) / 8
	generator := uncompressed(size, c.Params().Gx.Bytes(), c.Params().Gy.Bytes())
	key, err := ecdsa.ParseUncompressedPublicKey(c, generator)
	must(err)
	der, err := x509.MarshalPKIXPublicKey(key)
	must(err)
	return curve{c, size, bytes.TrimSuffix(der, generator)}
}

// uncompressed is SEC 1 §2.3.3. Some TPMs leave out leading zeros.
func uncompressed(size int, x, y []byte) []byte {
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	return point
}

func (p *public) readECC() error {
	curve, ok := curves[p.curve]
	if !ok {
		return p.unacceptable("curve %#04x", uint16(p.curve))
	}
	if err := p.checkUse(); err != nil {
		return err
	}
	if len(p.x) > curve.size || len(p.y) > curve.size {
		return p.broken("has coordinates longer than its curve's")
	}
	point := uncompressed(curve.size, p.x, p.y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve.Curve, point)
	if err != nil {
		return p.broken("is not a point of its curve")
	}
	p.key, p.spki = key, slices.Concat(curve.spki, point)
	return nil
}

func (p *public) readRSA() error {
	switch {
	case p.bits < 2048:
		return p.broken("has only %d bits", p.bits)
	case p.bits != 2048 && p.bits != 3072 && p.bits != 4096:
		return p.unacceptable("size of %d bits", p.bits)
	case p.exponent != 0 && p.exponent != 65537: // 0 means 65537, TPM 2.0 Part 2 §12.2.3.5
		return p.unacceptable("exponent %d", p.exponent)
	}
	if err := p.checkUse(); err != nil {
		return err
	}
	n := new(big.Int).SetBytes(p.modulus)
	if len(p.modulus)*8 != int(p.bits) || n.BitLen() != int(p.bits) || n.Bit(0) == 0 {
		return p.broken("does not have the modulus of a %d-bit key", p.bits)
	}
	if vendorca.ROCA(n) {
		return p.broken("was made by Infineon's faulty RSA library and can be factored (ROCA, CVE-2017-15361); the TPM needs new firmware and new keys")
	}
	p.key = &rsa.PublicKey{N: n, E: 65537}
	var err error
	p.spki, err = x509.MarshalPKIXPublicKey(p.key)
	return err
}

// checkUse checks the cipher and the scheme. A storage key has a cipher, that of the TCG
// EK templates, and no scheme; a signing key no cipher, and a scheme if it is restricted
// (TPM 2.0 Part 2 §12.2.3).
func (p *public) checkUse() error {
	if p.role.attributes&decrypt != 0 {
		switch {
		case p.scheme != gotpm.TPMAlgNull:
			return p.unacceptable("scheme %#04x", uint16(p.scheme))
		case p.cipher.algorithm != gotpm.TPMAlgAES:
			return p.unacceptable("cipher %#04x", uint16(p.cipher.algorithm))
		case p.cipher.bits != 128 && p.cipher.bits != 256:
			return p.unacceptable("cipher key size of %d bits", p.cipher.bits)
		case p.cipher.mode != gotpm.TPMAlgCFB:
			return p.unacceptable("cipher mode %#04x", uint16(p.cipher.mode))
		}
		return nil
	}
	if p.cipher.algorithm != gotpm.TPMAlgNull {
		return p.unacceptable("cipher %#04x", uint16(p.cipher.algorithm))
	}
	if p.scheme == gotpm.TPMAlgNull {
		if p.role.attributes&restricted != 0 {
			return p.unacceptable("missing signature scheme")
		}
		return nil
	}
	if _, ok := hashes[p.hash]; !ok {
		return p.unacceptable("signature hash %#04x", uint16(p.hash))
	}
	return nil
}

// signsTLS refuses a scheme that TLS 1.3 does not have for such a key (RFC 8446 §4.2.3): the
// device could never use its IDevID, nor later replace the key.
func (p *public) signsTLS() error {
	if p.scheme == gotpm.TPMAlgRSASSA || p.scheme == gotpm.TPMAlgECDSA && hashes[p.hash].Size() != curves[p.curve].size {
		return refuse(p.algorithm, "make the key without a scheme",
			"the %s cannot be used in TLS 1.3: its scheme is %#04x with hash %#04x", p.role.name, uint16(p.scheme), uint16(p.hash))
	}
	return nil
}
