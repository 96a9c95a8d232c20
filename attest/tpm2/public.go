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
	"errors"
	"fmt"
	"math/big"
	"math/bits"

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

// born is what every key must be: made in this chip, never to leave it.
const born = fixedTPM | fixedParent | sensitiveDataOrigin

// free is what a key may be or not: how its use is authorised is its owner's matter.
const free = userWithAuth | adminWithPolicy | noDA

// role is what is asked of one of the three keys of evidence.
type role struct {
	name string
	// attributes must be set; beside them only free ones may be.
	attributes uint32
	// The codes of refusals: of a structure that cannot be read, of attributes, of the
	// attribute restricted, of algorithms that are not accepted, of keys that can be broken.
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
	raw []byte
	// name is nameAlg ‖ H(raw) (TPM 2.0 Part 1 §16).
	name []byte
	area *gotpm.TPMTPublic
	// key is *ecdsa.PublicKey or *rsa.PublicKey; spki its SubjectPublicKeyInfo.
	key  crypto.PublicKey
	spki []byte
	// scheme and hash are fixed by the key's maker; TPMAlgNull if the user chooses.
	scheme, hash gotpm.TPMAlgID
}

// maxStructure bounds each TPM structure: a 4096-bit RSA public area has under 700 bytes.
const maxStructure = 1 << 10

// unmarshal reads one structure that fills all of raw. go-tpm ignores trailing bytes and
// tolerates some encodings that it would not write, so what was read is written again
// and must be the same: two readers can then not understand it differently.
func unmarshal[T gotpm.Marshallable, P interface {
	*T
	gotpm.Unmarshallable
}](raw []byte) (*T, error) {
	if len(raw) > maxStructure {
		return nil, fmt.Errorf("%d bytes are too many", len(raw))
	}
	v, err := gotpm.Unmarshal[T, P](raw)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(gotpm.Marshal(P(v)), raw) {
		return nil, errors.New("not in canonical form, or followed by other bytes")
	}
	return v, nil
}

// readPublic parses a public area and holds it against its role.
func readPublic(r role, raw []byte) (*public, error) {
	area, err := unmarshal[gotpm.TPMTPublic](raw)
	if err != nil {
		return nil, refuse(r.malformed, "", "the %s's public area is malformed: %v", r.name, err)
	}
	if err := r.checkAttributes(binary.BigEndian.Uint32(raw[4:])); err != nil {
		return nil, err
	}
	p := &public{role: r, raw: raw, area: area, scheme: gotpm.TPMAlgNull, hash: gotpm.TPMAlgNull}
	if p.name, err = name(area.NameAlg, raw); err != nil {
		return nil, refuse(r.algorithm, "", "the %s's Name: %v", r.name, err)
	}
	switch area.Type {
	case gotpm.TPMAlgECC:
		err = p.readECC()
	case gotpm.TPMAlgRSA:
		err = p.readRSA()
	default:
		err = p.unacceptable("type %#04x", uint16(area.Type))
	}
	if err != nil {
		return nil, err
	}
	if p.spki, err = x509.MarshalPKIXPublicKey(p.key); err != nil {
		return nil, refuse(r.malformed, "", "the %s: %v", r.name, err)
	}
	return p, nil
}

// checkAttributes reports the lowest bit that is not as it must be. Bits without a
// name are refused: we do not know what they allow.
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

var curves = map[gotpm.TPMECCCurve]elliptic.Curve{
	gotpm.TPMECCNistP256: elliptic.P256(),
	gotpm.TPMECCNistP384: elliptic.P384(),
}

func (p *public) readECC() error {
	parms, err := p.area.Parameters.ECCDetail()
	if err != nil {
		return refuse(p.malformed, "", "the %s's parameters: %v", p.role.name, err)
	}
	point, err := p.area.Unique.ECC()
	if err != nil {
		return refuse(p.malformed, "", "the %s's point: %v", p.role.name, err)
	}
	curve, ok := curves[parms.CurveID]
	if !ok {
		return p.unacceptable("curve %#04x", uint16(parms.CurveID))
	}
	if parms.KDF.Scheme != gotpm.TPMAlgNull {
		return p.unacceptable("key derivation scheme %#04x", uint16(parms.KDF.Scheme))
	}
	if err := p.readParameters(&parms.Symmetric, parms.Scheme.Scheme, &parms.Scheme.Details); err != nil {
		return err
	}
	size := (curve.Params().BitSize + 7) / 8
	uncompressed := make([]byte, 1+2*size)
	uncompressed[0] = 4 // SEC 1 §2.3.3
	if len(point.X.Buffer) > size || len(point.Y.Buffer) > size {
		return p.broken("has coordinates longer than its curve's")
	}
	// Some TPMs leave out leading zeros.
	copy(uncompressed[1+size-len(point.X.Buffer):], point.X.Buffer)
	copy(uncompressed[1+2*size-len(point.Y.Buffer):], point.Y.Buffer)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, uncompressed)
	if err != nil {
		return p.broken("is not a point of its curve")
	}
	p.key = key
	return nil
}

func (p *public) readRSA() error {
	parms, err := p.area.Parameters.RSADetail()
	if err != nil {
		return refuse(p.malformed, "", "the %s's parameters: %v", p.role.name, err)
	}
	modulus, err := p.area.Unique.RSA()
	if err != nil {
		return refuse(p.malformed, "", "the %s's modulus: %v", p.role.name, err)
	}
	switch {
	case parms.KeyBits < 2048:
		return p.broken("has only %d bits", parms.KeyBits)
	case parms.KeyBits != 2048 && parms.KeyBits != 3072 && parms.KeyBits != 4096:
		return p.unacceptable("size of %d bits", parms.KeyBits)
	case parms.Exponent != 0 && parms.Exponent != 65537: // 0 means 65537, TPM 2.0 Part 2 §12.2.3.5
		return p.unacceptable("exponent %d", parms.Exponent)
	}
	if err := p.readParameters(&parms.Symmetric, parms.Scheme.Scheme, &parms.Scheme.Details); err != nil {
		return err
	}
	n := new(big.Int).SetBytes(modulus.Buffer)
	if len(modulus.Buffer)*8 != int(parms.KeyBits) || n.BitLen() != int(parms.KeyBits) || n.Bit(0) == 0 {
		return p.broken("has not the modulus of a %d-bit key", parms.KeyBits)
	}
	if vendorca.ROCA(n) {
		return p.broken("was made by Infineon's faulty RSA library and can be factored (ROCA, CVE-2017-15361); the TPM needs new firmware and new keys")
	}
	p.key = &rsa.PublicKey{N: n, E: 65537}
	return nil
}

// readParameters checks the cipher and the scheme. A storage key has a cipher and no
// scheme, a signing key no cipher, and a scheme if it is restricted (TPM 2.0 Part 2 §12.2.3).
func (p *public) readParameters(cipher *gotpm.TPMTSymDefObject, scheme gotpm.TPMAlgID, details *gotpm.TPMUAsymScheme) error {
	if p.attributes&decrypt != 0 {
		if scheme != gotpm.TPMAlgNull {
			return p.unacceptable("scheme %#04x", uint16(scheme))
		}
		return p.readCipher(cipher)
	}
	if cipher.Algorithm != gotpm.TPMAlgNull {
		return p.unacceptable("cipher %#04x", uint16(cipher.Algorithm))
	}
	if scheme == gotpm.TPMAlgNull {
		if p.attributes&restricted != 0 {
			return p.unacceptable("missing signature scheme")
		}
		return nil
	}
	p.scheme = scheme
	if err := p.readScheme(details); err != nil {
		return err
	}
	if _, ok := hashes[p.hash]; !ok {
		return p.unacceptable("signature hash %#04x", uint16(p.hash))
	}
	return nil
}

func (p *public) readScheme(details *gotpm.TPMUAsymScheme) error {
	ecc := p.area.Type == gotpm.TPMAlgECC
	switch {
	case ecc && p.scheme == gotpm.TPMAlgECDSA:
		if s, err := details.ECDSA(); err == nil {
			p.hash = s.HashAlg
			return nil
		}
	case !ecc && p.scheme == gotpm.TPMAlgRSASSA:
		if s, err := details.RSASSA(); err == nil {
			p.hash = s.HashAlg
			return nil
		}
	case !ecc && p.scheme == gotpm.TPMAlgRSAPSS:
		if s, err := details.RSAPSS(); err == nil {
			p.hash = s.HashAlg
			return nil
		}
	}
	return p.unacceptable("signature scheme %#04x", uint16(p.scheme))
}

// readCipher accepts the ciphers of the TCG EK templates.
func (p *public) readCipher(c *gotpm.TPMTSymDefObject) error {
	if c.Algorithm != gotpm.TPMAlgAES {
		return p.unacceptable("cipher %#04x", uint16(c.Algorithm))
	}
	size, err := c.KeyBits.AES()
	if err != nil || (*size != 128 && *size != 256) {
		return p.unacceptable("cipher key size")
	}
	if mode, err := c.Mode.AES(); err != nil || *mode != gotpm.TPMAlgCFB {
		return p.unacceptable("cipher mode")
	}
	return nil
}
