package tpm2

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
)

// This file holds our reader against go-tpm, which knows every structure of Part 2 and
// reads by reflection. What is accepted must be the same, and mean the same.

// canonical is go-tpm's reading. It ignores trailing bytes and tolerates some encodings
// that it would not write, so what was read must come out as the same bytes.
func canonical[T gotpm.Marshallable, P interface {
	*T
	gotpm.Unmarshallable
}](raw []byte) (*T, bool) {
	v, err := gotpm.Unmarshal[T, P](raw)
	return v, err == nil && len(raw) <= maxStructure && bytes.Equal(gotpm.Marshal(P(v)), raw)
}

var errReference = errors.New("not acceptable")

// reference is what go-tpm and crypto/x509 make of a public area in a role.
type reference struct {
	name         []byte
	key          crypto.PublicKey
	scheme, hash gotpm.TPMAlgID
	aes          uint16
}

func readReference(r role, area *gotpm.TPMTPublic, raw []byte) (ref reference, err error) {
	o := area.ObjectAttributes
	storage, attests := r.name == roleEK.name, r.name == roleAK.name
	if !o.FixedTPM || !o.FixedParent || !o.SensitiveDataOrigin || o.Decrypt != storage || o.SignEncrypt == storage ||
		o.Restricted != (storage || attests) || o.STClear || o.EncryptedDuplication || o.FirmwareLimited || o.X509Sign {
		return ref, errReference
	}
	if raw[4]|raw[5]&0xF0|raw[6]&0xF2|raw[7]&0x09 != 0 { // reserved, TPM 2.0 Part 2 §8.3
		return ref, errReference
	}
	if !slices.Contains([]gotpm.TPMAlgID{gotpm.TPMAlgSHA256, gotpm.TPMAlgSHA384, gotpm.TPMAlgSHA512}, area.NameAlg) {
		return ref, errReference
	}
	name, err := gotpm.ObjectName(area)
	if err != nil {
		return ref, err
	}
	ref.name, ref.hash = name.Buffer, gotpm.TPMAlgNull
	switch area.Type {
	case gotpm.TPMAlgECC:
		err = ref.readECC(area, storage, attests)
	case gotpm.TPMAlgRSA:
		err = ref.readRSA(area, storage, attests)
	default:
		err = errReference
	}
	return ref, err
}

func (ref *reference) readECC(area *gotpm.TPMTPublic, storage, restricted bool) error {
	parms, err := area.Parameters.ECCDetail()
	if err != nil {
		return err
	}
	if ref.scheme = parms.Scheme.Scheme; ref.scheme == gotpm.TPMAlgECDSA {
		s, err := parms.Scheme.Details.ECDSA()
		if err != nil {
			return err
		}
		ref.hash = s.HashAlg
	} else if ref.scheme != gotpm.TPMAlgNull {
		return errReference
	}
	if parms.KDF.Scheme != gotpm.TPMAlgNull {
		return errReference
	}
	if err := ref.readUse(&parms.Symmetric, storage, restricted); err != nil {
		return err
	}
	curve := map[gotpm.TPMECCCurve]elliptic.Curve{gotpm.TPMECCNistP256: elliptic.P256(), gotpm.TPMECCNistP384: elliptic.P384()}[parms.CurveID]
	point, err := area.Unique.ECC()
	if curve == nil || err != nil {
		return errReference
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(point.X.Buffer) > size || len(point.Y.Buffer) > size {
		return errReference
	}
	x, y := new(big.Int).SetBytes(point.X.Buffer), new(big.Int).SetBytes(point.Y.Buffer)
	ref.key, err = ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x.FillBytes(make([]byte, size)), y.FillBytes(make([]byte, size))))
	return err
}

func (ref *reference) readRSA(area *gotpm.TPMTPublic, storage, restricted bool) error {
	parms, err := area.Parameters.RSADetail()
	if err != nil {
		return err
	}
	switch ref.scheme = parms.Scheme.Scheme; ref.scheme {
	case gotpm.TPMAlgNull:
	case gotpm.TPMAlgRSASSA:
		s, err := parms.Scheme.Details.RSASSA()
		if err != nil {
			return err
		}
		ref.hash = s.HashAlg
	case gotpm.TPMAlgRSAPSS:
		s, err := parms.Scheme.Details.RSAPSS()
		if err != nil {
			return err
		}
		ref.hash = s.HashAlg
	default:
		return errReference
	}
	if err := ref.readUse(&parms.Symmetric, storage, restricted); err != nil {
		return err
	}
	modulus, err := area.Unique.RSA()
	if err != nil {
		return err
	}
	n := new(big.Int).SetBytes(modulus.Buffer)
	if !slices.Contains([]gotpm.TPMKeyBits{2048, 3072, 4096}, parms.KeyBits) || n.BitLen() != int(parms.KeyBits) || len(modulus.Buffer)*8 != n.BitLen() ||
		n.Bit(0) == 0 || (parms.Exponent != 0 && parms.Exponent != 65537) || vendorca.ROCA(n) {
		return errReference
	}
	ref.key = &rsa.PublicKey{N: n, E: 65537}
	return nil
}

func (ref *reference) readUse(c *gotpm.TPMTSymDefObject, storage, restricted bool) error {
	if !storage {
		scheme := ref.scheme != gotpm.TPMAlgNull
		if c.Algorithm != gotpm.TPMAlgNull || !scheme && restricted || scheme && hashes[ref.hash] == 0 {
			return errReference
		}
		return nil
	}
	if c.Algorithm != gotpm.TPMAlgAES || ref.scheme != gotpm.TPMAlgNull {
		return errReference
	}
	bits, err1 := c.KeyBits.AES()
	mode, err2 := c.Mode.AES()
	if err1 != nil || err2 != nil || (*bits != 128 && *bits != 256) || *mode != gotpm.TPMAlgCFB {
		return errReference
	}
	ref.aes = uint16(*bits)
	return nil
}

// agreePublic reports how many roles accept raw, and fails if ours and go-tpm's reading differ.
func agreePublic(t *testing.T, raw []byte) (accepted int) {
	t.Helper()
	area, ok := canonical[gotpm.TPMTPublic](raw)
	for _, r := range []role{roleEK, roleAK, roleKey} {
		p, err := readPublic(r, raw)
		ref, refErr := reference{}, errReference
		if ok {
			ref, refErr = readReference(r, area, raw)
		}
		if (err == nil) != (refErr == nil) {
			t.Fatalf("%s: ours says %v, go-tpm %v: %x", r.name, err, refErr, raw)
		}
		if err != nil {
			mustRefuse(t, err)
			var refusal *attest.Refusal
			if ok && errors.As(err, &refusal) && refusal.Code == r.malformed {
				t.Fatalf("%s: called malformed: %x", r.name, raw)
			}
			continue
		}
		accepted++
		spki, err := x509.MarshalPKIXPublicKey(ref.key)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.name, ref.name) || !bytes.Equal(p.spki, spki) || !p.key.(interface{ Equal(crypto.PublicKey) bool }).Equal(ref.key) ||
			p.scheme != ref.scheme || p.hash != ref.hash || p.cipher.bits != ref.aes || !bytes.Equal(p.raw, raw) {
			t.Fatalf("%s: read as %+v, by go-tpm as %+v: %x", r.name, p, ref, raw)
		}
	}
	return accepted
}

func agreeStatement(t *testing.T, raw []byte) (accepted bool) {
	t.Helper()
	s, err := readStatement(raw)
	a, ok := canonical[gotpm.TPMSAttest](raw)
	var c *gotpm.TPMSCertifyInfo
	if ok {
		c, _ = a.Attested.Certify()
		ok = a.Magic == gotpm.TPMGeneratedValue && a.Type == gotpm.TPMSTAttestCertify
	}
	if (err == nil) != ok {
		t.Fatalf("ours says %v, go-tpm accepts: %v: %x", err, ok, raw)
	}
	if err != nil {
		mustRefuse(t, err)
		return false
	}
	if !bytes.Equal(s.signer, a.QualifiedSigner.Buffer) || !bytes.Equal(s.extraData, a.ExtraData.Buffer) || !bytes.Equal(s.name, c.Name.Buffer) || s.firmware != a.FirmwareVersion {
		t.Fatalf("read as %+v, by go-tpm as %+v: %x", s, a, raw)
	}
	return true
}

func agreeSignature(t *testing.T, raw []byte) (accepted bool) {
	t.Helper()
	s, err := readSignature(raw)
	g, ok := canonical[gotpm.TPMTSignature](raw)
	var want signature
	if ok {
		want.scheme = g.SigAlg
		switch g.SigAlg {
		case gotpm.TPMAlgECDSA:
			v, err := g.Signature.ECDSA()
			if err != nil {
				t.Fatal(err)
			}
			want.hash, want.value, want.s = v.Hash, v.SignatureR.Buffer, v.SignatureS.Buffer
		case gotpm.TPMAlgRSASSA, gotpm.TPMAlgRSAPSS:
			v, err := g.Signature.RSASSA()
			if g.SigAlg == gotpm.TPMAlgRSAPSS {
				v, err = g.Signature.RSAPSS()
			}
			if err != nil {
				t.Fatal(err)
			}
			want.hash, want.value = v.Hash, v.Sig.Buffer
		default:
			ok = false
		}
	}
	if (err == nil) != ok {
		t.Fatalf("ours says %v, go-tpm accepts: %v: %x", err, ok, raw)
	}
	if ok && (s.scheme != want.scheme || s.hash != want.hash || !bytes.Equal(s.value, want.value) || !bytes.Equal(s.s, want.s)) {
		t.Fatalf("read as %+v, by go-tpm as %+v: %x", s, want, raw)
	}
	return ok
}

// areas are public areas of every combination of choices, the right ones and others.
func areas(t testing.TB) (all [][]byte) {
	t.Helper()
	null := gotpm.TPMTSymDefObject{Algorithm: gotpm.TPMAlgNull}
	cbc := aesCFB(128)
	cbc.Mode = gotpm.NewTPMUSymMode(gotpm.TPMAlgAES, gotpm.TPMAlgCBC)
	ciphers := []gotpm.TPMTSymDefObject{null, aesCFB(128), aesCFB(192), aesCFB(256), cbc}
	digests := []gotpm.TPMAlgID{gotpm.TPMAlgSHA1, gotpm.TPMAlgSHA256, gotpm.TPMAlgSHA384, gotpm.TPMAlgSHA512, gotpm.TPMAlgSHA3256, gotpm.TPMAlgNull}
	kdf := gotpm.TPMTKDFScheme{Scheme: gotpm.TPMAlgKDF2, Details: gotpm.NewTPMUKDFScheme(gotpm.TPMAlgKDF2, &gotpm.TPMSKDFSchemeKDF2{HashAlg: gotpm.TPMAlgSHA256})}
	var ecc []gotpm.TPMTECCScheme
	var rsas []gotpm.TPMTRSAScheme
	for _, h := range digests {
		for alg, details := range map[gotpm.TPMAlgID]gotpm.TPMUAsymScheme{
			gotpm.TPMAlgECDSA: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDSA, &gotpm.TPMSSigSchemeECDSA{HashAlg: h}),
			gotpm.TPMAlgECDAA: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDAA, &gotpm.TPMSSchemeECDAA{HashAlg: h}),
			gotpm.TPMAlgECDH:  gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDH, &gotpm.TPMSKeySchemeECDH{HashAlg: h}),
		} {
			ecc = append(ecc, gotpm.TPMTECCScheme{Scheme: alg, Details: details})
		}
		for alg, details := range map[gotpm.TPMAlgID]gotpm.TPMUAsymScheme{
			gotpm.TPMAlgRSASSA: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSASSA, &gotpm.TPMSSigSchemeRSASSA{HashAlg: h}),
			gotpm.TPMAlgRSAPSS: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSAPSS, &gotpm.TPMSSigSchemeRSAPSS{HashAlg: h}),
			gotpm.TPMAlgOAEP:   gotpm.NewTPMUAsymScheme(gotpm.TPMAlgOAEP, &gotpm.TPMSEncSchemeOAEP{HashAlg: h}),
		} {
			rsas = append(rsas, gotpm.TPMTRSAScheme{Scheme: alg, Details: details})
		}
	}
	ecc = append(ecc, gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgNull})
	rsas = append(rsas, gotpm.TPMTRSAScheme{Scheme: gotpm.TPMAlgNull},
		gotpm.TPMTRSAScheme{Scheme: gotpm.TPMAlgRSAES, Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSAES, &gotpm.TPMSEncSchemeRSAES{})})
	points := map[gotpm.TPMECCCurve]*gotpm.TPMSECCPoint{}
	for id, c := range map[gotpm.TPMECCCurve]elliptic.Curve{gotpm.TPMECCNistP256: elliptic.P256(), gotpm.TPMECCNistP384: elliptic.P384(), gotpm.TPMECCNistP521: elliptic.P521()} {
		points[id] = &gotpm.TPMSECCPoint{X: gotpm.TPM2BECCParameter{Buffer: c.Params().Gx.Bytes()}, Y: gotpm.TPM2BECCParameter{Buffer: c.Params().Gy.Bytes()}}
	}
	add := func(base gotpm.TPMTPublic, alg gotpm.TPMAlgID, parms gotpm.TPMUPublicParms, unique gotpm.TPMUPublicID) {
		base.Type, base.Parameters, base.Unique = alg, parms, unique
		all = append(all, gotpm.Marshal(base))
	}
	p256 := gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, points[gotpm.TPMECCNistP256])
	for _, base := range []gotpm.TPMTPublic{EKTemplates()[0].Public, AKTemplate(), IDevIDTemplate()} {
		for _, c := range ciphers {
			for _, s := range ecc {
				for id, point := range points {
					add(base, gotpm.TPMAlgECC, gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{Symmetric: c, Scheme: s, CurveID: id}), gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, point))
				}
			}
			for _, s := range rsas {
				for _, bits := range []gotpm.TPMKeyBits{1024, 2048, 2560} {
					n := bytes.Repeat([]byte{0xA7}, int(bits)/8)
					add(base, gotpm.TPMAlgRSA, gotpm.NewTPMUPublicParms(gotpm.TPMAlgRSA, &gotpm.TPMSRSAParms{Symmetric: c, Scheme: s, KeyBits: bits}),
						gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: n}))
				}
			}
		}
		for _, alg := range []gotpm.TPMAlgID{gotpm.TPMAlgSHA1, gotpm.TPMAlgSHA384, gotpm.TPMAlgSHA512, gotpm.TPMAlgNull} {
			named := base
			named.NameAlg = alg
			add(named, gotpm.TPMAlgECC, base.Parameters, p256)
		}
		add(base, gotpm.TPMAlgECC, gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{Symmetric: null, KDF: kdf, CurveID: gotpm.TPMECCNistP256}), p256)
		for _, bits := range []gotpm.TPMKeyBits{3072, 4096} {
			for _, exponent := range []uint32{0, 3, 65537} {
				add(base, gotpm.TPMAlgRSA, gotpm.NewTPMUPublicParms(gotpm.TPMAlgRSA, &gotpm.TPMSRSAParms{Symmetric: aesCFB(256), KeyBits: bits, Exponent: exponent}),
					gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{0xA7}, int(bits)/8)}))
			}
		}
	}
	return all
}

// neighbours are raw with one bit changed, one byte more or less, and empty.
func neighbours(raw []byte) [][]byte {
	all := [][]byte{nil, raw[:len(raw)-1], append(slices.Clone(raw), 0)}
	for i := range raw {
		if i > 100 && i%16 != 0 {
			continue // the inside of a point or a modulus
		}
		for bit := range 8 {
			b := slices.Clone(raw)
			b[i] ^= 1 << bit
			all = append(all, b, raw[:i])
		}
	}
	return all
}

func TestPublicAgrees(t *testing.T) {
	accepted := 0
	for _, raw := range areas(t) {
		accepted += agreePublic(t, raw)
	}
	// EK: AES-128 or AES-256 on P-256, P-384 and RSA-2048, 6; RSA-3072 and RSA-4096 with two
	// exponents, 4. AK: ECDSA with 3 hashes on 2 curves, RSASSA and RSAPSS with 3, 12. Device
	// key: those, and without a scheme, 15. Two other hashes of the Name for each, 6.
	if want := 6 + 4 + 12 + 15 + 6; accepted != want {
		t.Errorf("%d areas were accepted, not %d", accepted, want)
	}
	for _, template := range []gotpm.TPMTPublic{EKTemplates()[0].Public, EKTemplates()[4].Public, AKTemplate(), LDevIDTemplate(), fuzzRSA()} {
		if template.Type == gotpm.TPMAlgECC {
			parms, err := template.Parameters.ECCDetail()
			if err != nil {
				t.Fatal(err)
			}
			c := curves[parms.CurveID].Params()
			template.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{X: gotpm.TPM2BECCParameter{Buffer: c.Gx.Bytes()}, Y: gotpm.TPM2BECCParameter{Buffer: c.Gy.Bytes()}})
		}
		raw := gotpm.Marshal(template)
		if agreePublic(t, raw) != 1 {
			t.Errorf("not accepted in one role: %x", raw)
		}
		for _, b := range neighbours(raw) {
			agreePublic(t, b)
		}
	}
}

// Some TPMs leave out a coordinate's leading zeros.
func TestShortCoordinates(t *testing.T) {
	for found := [2]bool{}; found != [2]bool{true, true}; {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes() // 4, X, Y
		if err != nil {
			t.Fatal(err)
		}
		x, y := bytes.TrimLeft(point[1:33], "\x00"), bytes.TrimLeft(point[33:], "\x00")
		if len(x) == 32 && len(y) == 32 {
			continue
		}
		found[0], found[1] = found[0] || len(x) < 32, found[1] || len(y) < 32
		template := LDevIDTemplate()
		template.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{X: gotpm.TPM2BECCParameter{Buffer: x}, Y: gotpm.TPM2BECCParameter{Buffer: y}})
		if raw := gotpm.Marshal(template); agreePublic(t, raw) != 1 {
			t.Errorf("not accepted: %x", raw)
		}
	}
}

func TestStatementAgrees(t *testing.T) {
	for _, safe := range []bool{true, false} {
		raw := gotpm.Marshal(gotpm.TPMSAttest{
			Magic: gotpm.TPMGeneratedValue, Type: gotpm.TPMSTAttestCertify, QualifiedSigner: gotpm.TPM2BName{Buffer: []byte("signer")},
			ExtraData: gotpm.TPM2BData{Buffer: []byte("extra")}, ClockInfo: gotpm.TPMSClockInfo{Clock: 1, ResetCount: 1 << 24, RestartCount: 3, Safe: safe}, FirmwareVersion: 4 << 40,
			Attested: gotpm.NewTPMUAttest(gotpm.TPMSTAttestCertify, &gotpm.TPMSCertifyInfo{Name: gotpm.TPM2BName{Buffer: []byte("name")}, QualifiedName: gotpm.TPM2BName{Buffer: []byte("qualified")}}),
		})
		if !agreeStatement(t, raw) {
			t.Error("not accepted")
		}
		for _, b := range neighbours(raw) {
			agreeStatement(t, b)
		}
	}
}

func TestSignatureAgrees(t *testing.T) {
	ecc := &gotpm.TPMSSignatureECC{Hash: gotpm.TPMAlgSHA384, SignatureR: gotpm.TPM2BECCParameter{Buffer: []byte("r")}, SignatureS: gotpm.TPM2BECCParameter{Buffer: []byte("sss")}}
	value := &gotpm.TPMSSignatureRSA{Hash: gotpm.TPMAlgSHA512, Sig: gotpm.TPM2BPublicKeyRSA{Buffer: []byte("signature")}}
	for scheme, c := range map[gotpm.TPMAlgID]struct {
		signature gotpm.TPMUSignature
		accepted  bool
	}{
		gotpm.TPMAlgECDSA:  {gotpm.NewTPMUSignature(gotpm.TPMAlgECDSA, ecc), true},
		gotpm.TPMAlgRSASSA: {gotpm.NewTPMUSignature(gotpm.TPMAlgRSASSA, value), true},
		gotpm.TPMAlgRSAPSS: {gotpm.NewTPMUSignature(gotpm.TPMAlgRSAPSS, value), true},
		gotpm.TPMAlgECDAA:  {gotpm.NewTPMUSignature(gotpm.TPMAlgECDAA, ecc), false},
	} {
		raw := gotpm.Marshal(gotpm.TPMTSignature{SigAlg: scheme, Signature: c.signature})
		if agreeSignature(t, raw) != c.accepted {
			t.Errorf("%#04x: accepted: %v", uint16(scheme), !c.accepted)
		}
		for _, b := range neighbours(raw) {
			agreeSignature(t, b)
		}
	}
}

// The key derivations are go-tpm's, for every hash and key size that an EK may have.
func TestDerivationAgrees(t *testing.T) {
	b := make([]byte, 48)
	rand.Read(b)
	for _, h := range hashes {
		for _, bits := range []int{128, 256, 8 * h.Size()} {
			if got, want := kdfa(h, b, "STORAGE", b[:34], bits), gotpm.KDFa(h, b, "STORAGE", b[:34], nil, bits); !bytes.Equal(got, want) {
				t.Errorf("KDFa, %v, %d bits: %x, go-tpm %x", h, bits, got, want)
			}
		}
		if got, want := kdfe(h, b, "IDENTITY", b[:32], b[16:]), gotpm.KDFe(h, b, "IDENTITY", b[:32], b[16:], 8*h.Size()); !bytes.Equal(got, want) {
			t.Errorf("KDFe, %v: %x, go-tpm %x", h, got, want)
		}
	}
}
