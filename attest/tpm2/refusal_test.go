package tpm2_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
)

// bad is evidence with one thing wrong.
type bad struct {
	name, code string
	options    simtpm.Options
	// certificate changes the EK certificate before it is signed.
	certificate func(*x509.Certificate)
	// statement changes the statement before it is signed.
	statement func(*gotpm.TPMSAttest)
	// evidence changes what is sent.
	evidence func(*attest.Evidence)
	// says is what the refusal's detail must contain.
	says string
	// unknown: nobody trusts the maker. strict: test makers are not accepted.
	unknown, strict bool
}

// attributes lists what may be wrong with a key's attributes whatever its role.
func attributes(prefix, code string, put func(*bad, func(*gotpm.TPMTPublic))) []bad {
	var cases []bad
	for says, alter := range map[string]func(*gotpm.TPMAObject){
		"fixedTPM is not set":            func(a *gotpm.TPMAObject) { a.FixedTPM = false },
		"fixedParent is not set":         func(a *gotpm.TPMAObject) { a.FixedParent = false },
		"sensitiveDataOrigin is not set": func(a *gotpm.TPMAObject) { a.SensitiveDataOrigin = false },
		"encryptedDuplication is set":    func(a *gotpm.TPMAObject) { a.EncryptedDuplication = true },
		"stClear is set":                 func(a *gotpm.TPMAObject) { a.STClear = true },
		"firmwareLimited is set":         func(a *gotpm.TPMAObject) { a.FirmwareLimited = true },
		"x509sign is set":                func(a *gotpm.TPMAObject) { a.X509Sign = true },
		" is set":                        func(a *gotpm.TPMAObject) { a.SignEncrypt, a.Decrypt = true, true },
		"is not set":                     func(a *gotpm.TPMAObject) { a.SignEncrypt, a.Decrypt = false, false },
	} {
		b := bad{name: prefix + " " + says, code: code, says: says}
		put(&b, func(p *gotpm.TPMTPublic) { alter(&p.ObjectAttributes) })
		cases = append(cases, b)
	}
	return cases
}

func eccParms(p *gotpm.TPMTPublic) *gotpm.TPMSECCParms {
	parms, err := p.Parameters.ECCDetail()
	if err != nil {
		panic(err)
	}
	return parms
}

// parms alters the ECC parameters of a template, which share nothing with other templates.
func parms(alter func(*gotpm.TPMSECCParms)) func(*gotpm.TPMTPublic) {
	return func(p *gotpm.TPMTPublic) { alter(eccParms(p)) }
}

func rsaParms(alter func(*gotpm.TPMSRSAParms)) func(*gotpm.TPMTPublic) {
	return func(p *gotpm.TPMTPublic) {
		parms, err := p.Parameters.RSADetail()
		if err != nil {
			panic(err)
		}
		alter(parms)
	}
}

// resend changes a public area after the key was made.
func resend(field func(*attest.Evidence) *[]byte, alter func(*gotpm.TPMTPublic)) func(*attest.Evidence) {
	return func(e *attest.Evidence) {
		p, err := gotpm.Unmarshal[gotpm.TPMTPublic](*field(e))
		if err != nil {
			panic(err)
		}
		alter(p)
		*field(e) = gotpm.Marshal(p)
	}
}

func ekPublic(e *attest.Evidence) *[]byte  { return &e.EKPublic }
func akPublic(e *attest.Evidence) *[]byte  { return &e.AKPublic }
func key(e *attest.Evidence) *[]byte       { return &e.Key }
func statement(e *attest.Evidence) *[]byte { return &e.Statement }
func signature(e *attest.Evidence) *[]byte { return &e.Signature }

func trailing(field func(*attest.Evidence) *[]byte) func(*attest.Evidence) {
	return func(e *attest.Evidence) { *field(e) = append(slices.Clone(*field(e)), 0) }
}

func truncated(field func(*attest.Evidence) *[]byte) func(*attest.Evidence) {
	return func(e *attest.Evidence) { *field(e) = (*field(e))[:len(*field(e))-1] }
}

func asTPM2B(field func(*attest.Evidence) *[]byte) func(*attest.Evidence) {
	return func(e *attest.Evidence) {
		*field(e) = slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(len(*field(e)))), *field(e))
	}
}

func huge(field func(*attest.Evidence) *[]byte) func(*attest.Evidence) {
	return func(e *attest.Evidence) { *field(e) = append(slices.Clone(*field(e)), make([]byte, 2000)...) }
}

func point(alter func(*gotpm.TPMSECCPoint)) func(*gotpm.TPMTPublic) {
	return func(p *gotpm.TPMTPublic) {
		point, err := p.Unique.ECC()
		if err != nil {
			panic(err)
		}
		alter(point)
	}
}

func offCurve(p *gotpm.TPMSECCPoint) { p.Y.Buffer[len(p.Y.Buffer)-1] ^= 1 }

func longX(p *gotpm.TPMSECCPoint) { p.X.Buffer = append(make([]byte, 60), p.X.Buffer...) }

func longY(p *gotpm.TPMSECCPoint) { p.Y.Buffer = append(make([]byte, 1), p.Y.Buffer...) }

// asRSA makes a signing key's area an RSA one with this modulus.
func asRSA(n *big.Int, size gotpm.TPMKeyBits, exponent uint32) func(*gotpm.TPMTPublic) {
	return func(p *gotpm.TPMTPublic) {
		scheme := gotpm.TPMTRSAScheme{Scheme: gotpm.TPMAlgRSASSA,
			Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSASSA, &gotpm.TPMSSigSchemeRSASSA{HashAlg: gotpm.TPMAlgSHA256})}
		p.Type = gotpm.TPMAlgRSA
		p.Parameters = gotpm.NewTPMUPublicParms(gotpm.TPMAlgRSA, &gotpm.TPMSRSAParms{
			Symmetric: gotpm.TPMTSymDefObject{Algorithm: gotpm.TPMAlgNull}, Scheme: scheme, KeyBits: size, Exponent: exponent})
		p.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: n.Bytes()})
	}
}

// modulus is an odd number of so many bits.
func modulus(bits int) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return n.Add(n, big.NewInt(0x1234567))
}

// rocaModulus is a power of 65537 modulo each of the primes that give ROCA away.
func rocaModulus(bits int) *big.Int {
	m := big.NewInt(2) // keeps the sum odd
	for _, p := range []int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157} {
		m.Mul(m, big.NewInt(p))
	}
	n := new(big.Int).Lsh(big.NewInt(3), uint(bits-2))
	n.Sub(n, new(big.Int).Mod(n, m))
	return n.Add(n, new(big.Int).Exp(big.NewInt(65537), big.NewInt(7), m))
}

// publicOnly stands for a key that nobody needs to use.
type publicOnly struct{ key crypto.PublicKey }

func (p publicOnly) Public() crypto.PublicKey { return p.key }

func (publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no private key")
}

func rsaEK(n *big.Int) simtpm.Options {
	return simtpm.Options{EK: "L-1", EKKey: publicOnly{&rsa.PublicKey{N: n, E: 65537}}}
}

func ecdsaSignature(alter func(*gotpm.TPMTSignature, *gotpm.TPMSSignatureECC)) func(*attest.Evidence) {
	return func(e *attest.Evidence) {
		sig, err := gotpm.Unmarshal[gotpm.TPMTSignature](e.Signature)
		if err != nil {
			panic(err)
		}
		s, err := sig.Signature.ECDSA()
		if err != nil {
			panic(err)
		}
		alter(sig, s)
		e.Signature = gotpm.Marshal(sig)
	}
}

var order = elliptic.P256().Params().N

func badEndorsements() []bad {
	ek := func(alter func(*gotpm.TPMTPublic)) simtpm.Options { return simtpm.Options{AlterEK: alter} }
	cases := []bad{
		{name: "EK trailing byte", code: tpm2.CodeEKMalformed, evidence: trailing(ekPublic)},
		{name: "EK truncated", code: tpm2.CodeEKMalformed, evidence: truncated(ekPublic)},
		{name: "EK empty", code: tpm2.CodeEKMalformed, says: "it is missing", evidence: func(e *attest.Evidence) { e.EKPublic = nil }},
		{name: "EK as a TPM2B", code: tpm2.CodeEKMalformed, says: "its size stands in front", evidence: asTPM2B(ekPublic)},
		{name: "statement as a TPM2B", code: tpm2.CodeStatementMalformed, says: "its size stands in front", evidence: asTPM2B(statement)},
		{name: "EK too large", code: tpm2.CodeEKMalformed, evidence: huge(ekPublic)},
		{name: "EK not restricted", code: tpm2.CodeEKAttributes, options: ek(func(p *gotpm.TPMTPublic) { p.ObjectAttributes.Restricted = false })},
		{name: "EK reserved attribute", code: tpm2.CodeEKAttributes, says: "reserved (bit 31) is set", evidence: func(e *attest.Evidence) { e.EKPublic[4] |= 0x80 }},
		{name: "EK Name by SHA-1", code: tpm2.CodeEKAlgorithm, options: ek(func(p *gotpm.TPMTPublic) { p.NameAlg = gotpm.TPMAlgSHA1 })},
		{name: "EK P-521", code: tpm2.CodeEKAlgorithm, options: ek(parms(func(p *gotpm.TPMSECCParms) { p.CurveID = gotpm.TPMECCNistP521 }))},
		{name: "EK scheme", code: tpm2.CodeEKAlgorithm, options: ek(parms(func(p *gotpm.TPMSECCParms) {
			p.Scheme = gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgECDH, Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDH, &gotpm.TPMSKeySchemeECDH{HashAlg: gotpm.TPMAlgSHA256})}
		}))},
		{name: "EK key derivation", code: tpm2.CodeEKAlgorithm, options: ek(parms(func(p *gotpm.TPMSECCParms) {
			p.KDF = gotpm.TPMTKDFScheme{Scheme: gotpm.TPMAlgKDF2, Details: gotpm.NewTPMUKDFScheme(gotpm.TPMAlgKDF2, &gotpm.TPMSKDFSchemeKDF2{HashAlg: gotpm.TPMAlgSHA256})}
		}))},
		{name: "EK without cipher", code: tpm2.CodeEKAlgorithm, options: ek(parms(func(p *gotpm.TPMSECCParms) {
			p.Symmetric = gotpm.TPMTSymDefObject{Algorithm: gotpm.TPMAlgNull}
		}))},
		{name: "EK AES-192", code: tpm2.CodeEKAlgorithm, options: ek(parms(func(p *gotpm.TPMSECCParms) {
			p.Symmetric.KeyBits = gotpm.NewTPMUSymKeyBits(gotpm.TPMAlgAES, gotpm.TPMKeyBits(192))
		}))},
		{name: "EK AES-CBC", code: tpm2.CodeEKAlgorithm, options: ek(parms(func(p *gotpm.TPMSECCParms) {
			p.Symmetric.Mode = gotpm.NewTPMUSymMode(gotpm.TPMAlgAES, gotpm.TPMAlgCBC)
		}))},
		{name: "EK off its curve", code: tpm2.CodeEKWeak, evidence: resend(ekPublic, point(offCurve))},
		{name: "EK long x", code: tpm2.CodeEKWeak, evidence: resend(ekPublic, point(longX))},
		{name: "EK long y", code: tpm2.CodeEKWeak, evidence: resend(ekPublic, point(longY))},
		{name: "EK RSA-1024", code: tpm2.CodeEKWeak, options: func() simtpm.Options {
			o := rsaEK(modulus(1024))
			o.AlterEK = rsaParms(func(p *gotpm.TPMSRSAParms) { p.KeyBits = 1024 })
			return o
		}()},
		{name: "EK ROCA", code: tpm2.CodeEKWeak, options: rsaEK(rocaModulus(2048))},
		{name: "EK short modulus", code: tpm2.CodeEKWeak, options: rsaEK(modulus(2047))},
		{name: "EK padded modulus", code: tpm2.CodeEKWeak, options: rsaEK(modulus(2048)), evidence: resend(ekPublic, func(p *gotpm.TPMTPublic) {
			p.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: append([]byte{0}, modulus(2048).Bytes()...)})
		})},
		{name: "EK even modulus", code: tpm2.CodeEKWeak, options: rsaEK(new(big.Int).Add(modulus(2048), big.NewInt(1)))},
		{name: "EK exponent 3", code: tpm2.CodeEKAlgorithm, options: func() simtpm.Options {
			o := rsaEK(modulus(2048))
			o.AlterEK = rsaParms(func(p *gotpm.TPMSRSAParms) { p.Exponent = 3 })
			return o
		}()},
		{name: "EK RSA-2560", code: tpm2.CodeEKAlgorithm, options: func() simtpm.Options {
			o := rsaEK(modulus(2560))
			o.AlterEK = rsaParms(func(p *gotpm.TPMSRSAParms) { p.KeyBits = 2560 })
			return o
		}()},
		{name: "EK not from a template, no certificate", code: tpm2.CodeEKTemplate,
			options:  ek(func(p *gotpm.TPMTPublic) { p.ObjectAttributes.NoDA = true }),
			evidence: func(e *attest.Evidence) { e.Certificates = nil }},
		{name: "EK not from a template, maker unknown", code: tpm2.CodeEKTemplate, unknown: true,
			options: ek(func(p *gotpm.TPMTPublic) { p.ObjectAttributes.NoDA = true })},
	}
	return append(cases, attributes("EK", tpm2.CodeEKAttributes, func(b *bad, alter func(*gotpm.TPMTPublic)) { b.options.AlterEK = alter })...)
}

func badCertificates() []bad {
	return []bad{
		{name: "EK certificate of noise", code: tpm2.CodeCertificateMalformed, evidence: func(e *attest.Evidence) { e.Certificates = [][]byte{[]byte("noise")} }},
		{name: "EK certificate followed by something", code: tpm2.CodeCertificateMalformed,
			evidence: func(e *attest.Evidence) { e.Certificates = [][]byte{append(slices.Clone(e.Certificates[0]), 7)} }},
		{name: "EK certificate expired", code: tpm2.CodeCertificateDates, certificate: func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) }},
		{name: "EK certificate of tomorrow", code: tpm2.CodeCertificateDates, certificate: func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, 0, 1) }},
		{name: "EK certificate without purpose", code: tpm2.CodeCertificatePurpose, certificate: func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }},
		{name: "EK certificate for platforms", code: tpm2.CodeCertificatePurpose,
			certificate: func(c *x509.Certificate) {
				c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 2}}
			}},
		{name: "EK certificate of a CA", code: tpm2.CodeCertificatePurpose, certificate: func(c *x509.Certificate) { c.IsCA = true }},
		{name: "EK certificate that may sign certificates", code: tpm2.CodeCertificatePurpose,
			certificate: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		{name: "EK certificate of a general-purpose key", code: tpm2.CodeCertificatePurpose,
			certificate: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }},
		{name: "EK certificate with an unknown critical extension", code: tpm2.CodeCertificateCritical,
			certificate: func(c *x509.Certificate) {
				c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}})
			}},
		{name: "EK certificate of a test maker", code: tpm2.CodeCertificateSimulated, strict: true},
		{name: "EK certificate of swtpm", code: tpm2.CodeCertificateSimulated, strict: true, certificate: func(c *x509.Certificate) {
			names, err := simtpm.AltName("id:00001014", "swtpm", "id:20191023")
			if err != nil {
				panic(err)
			}
			c.ExtraExtensions = []pkix.Extension{names}
		}},
		{name: "too many certificates", code: tpm2.CodeTooLarge, evidence: func(e *attest.Evidence) { e.Certificates = append(e.Certificates, make([][]byte, 16)...) }},
		{name: "too large certificates", code: tpm2.CodeTooLarge, evidence: func(e *attest.Evidence) { e.Certificates = append(e.Certificates, make([]byte, 32<<10)) }},
	}
}

// ecdsaWith is the scheme ECDSA with a hash.
func ecdsaWith(hash gotpm.TPMIAlgHash) gotpm.TPMTECCScheme {
	return gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgECDSA, Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDSA, &gotpm.TPMSSigSchemeECDSA{HashAlg: hash})}
}

// asRSAWith makes an RSA key with a scheme.
func asRSAWith(scheme gotpm.TPMAlgID, details gotpm.TPMUAsymScheme) func(*gotpm.TPMTPublic) {
	return func(p *gotpm.TPMTPublic) {
		asRSA(modulus(2048), 2048, 0)(p)
		rsaParms(func(r *gotpm.TPMSRSAParms) { r.Scheme = gotpm.TPMTRSAScheme{Scheme: scheme, Details: details} })(p)
	}
}

// badSigners are bad AKs and device keys: nearly the same is asked of both.
func badSigners(name string, malformed, attribute, algorithm, weak string, field func(*attest.Evidence) *[]byte, options func(func(*gotpm.TPMTPublic)) simtpm.Options) []bad {
	cases := []bad{
		{name: "trailing byte", code: malformed, evidence: trailing(field)},
		{name: "truncated", code: malformed, evidence: truncated(field)},
		{name: "too large", code: malformed, evidence: huge(field)},
		{name: "reserved attribute", code: attribute, evidence: func(e *attest.Evidence) { *field(e) = slices.Clone(*field(e)); (*field(e))[4] |= 0x80 }},
		{name: "Name by SHA-1", code: algorithm, evidence: resend(field, func(p *gotpm.TPMTPublic) { p.NameAlg = gotpm.TPMAlgSHA1 })},
		{name: "P-521", code: algorithm, options: options(parms(func(p *gotpm.TPMSECCParms) { p.CurveID = gotpm.TPMECCNistP521 }))},
		{name: "cipher", code: algorithm, evidence: resend(field, parms(func(p *gotpm.TPMSECCParms) {
			p.Symmetric = gotpm.TPMTSymDefObject{Algorithm: gotpm.TPMAlgAES, KeyBits: gotpm.NewTPMUSymKeyBits(gotpm.TPMAlgAES, gotpm.TPMKeyBits(128)), Mode: gotpm.NewTPMUSymMode(gotpm.TPMAlgAES, gotpm.TPMAlgCFB)}
		}))},
		{name: "ECDSA with SHA-1", code: algorithm, evidence: resend(field, parms(func(p *gotpm.TPMSECCParms) { p.Scheme = ecdsaWith(gotpm.TPMAlgSHA1) }))},
		{name: "ECDAA", code: algorithm, evidence: resend(field, parms(func(p *gotpm.TPMSECCParms) {
			p.Scheme = gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgECDAA, Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDAA, &gotpm.TPMSSchemeECDAA{HashAlg: gotpm.TPMAlgSHA256})}
		}))},
		{name: "off its curve", code: weak, evidence: resend(field, point(offCurve))},
		{name: "long x", code: weak, evidence: resend(field, point(longX))},
		{name: "long y", code: weak, evidence: resend(field, point(longY))},
		{name: "RSA-1024", code: weak, evidence: resend(field, asRSA(modulus(1024), 1024, 0))},
		{name: "ROCA", code: weak, evidence: resend(field, asRSA(rocaModulus(2048), 2048, 0))},
		{name: "exponent 3", code: algorithm, evidence: resend(field, asRSA(modulus(2048), 2048, 3))},
		{name: "RSA-8192", code: malformed, evidence: resend(field, asRSA(modulus(8192), 8192, 0))},
		{name: "RSA encryption scheme", code: algorithm, evidence: resend(field, asRSAWith(gotpm.TPMAlgOAEP, gotpm.NewTPMUAsymScheme(gotpm.TPMAlgOAEP, &gotpm.TPMSEncSchemeOAEP{HashAlg: gotpm.TPMAlgSHA256})))},
		{name: "HMAC key", code: algorithm, evidence: resend(field, func(p *gotpm.TPMTPublic) {
			p.Type = gotpm.TPMAlgKeyedHash
			p.Parameters = gotpm.NewTPMUPublicParms(gotpm.TPMAlgKeyedHash, &gotpm.TPMSKeyedHashParms{Scheme: gotpm.TPMTKeyedHashScheme{Scheme: gotpm.TPMAlgNull}})
			p.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgKeyedHash, &gotpm.TPM2BDigest{Buffer: make([]byte, 32)})
		})},
	}
	cases = append(cases, attributes("", attribute, func(b *bad, alter func(*gotpm.TPMTPublic)) { b.options = options(alter) })...)
	for i := range cases {
		cases[i].name = name + " " + cases[i].name
	}
	return cases
}

func badKeys() []bad {
	ak := func(alter func(*gotpm.TPMTPublic)) simtpm.Options { return simtpm.Options{AlterAK: alter} }
	device := func(alter func(*gotpm.TPMTPublic)) simtpm.Options { return simtpm.Options{AlterKey: alter} }
	cases := []bad{
		{name: "AK not restricted", code: tpm2.CodeAKRestricted, options: ak(func(p *gotpm.TPMTPublic) { p.ObjectAttributes.Restricted = false })},
		{name: "AK without scheme", code: tpm2.CodeAKAlgorithm, options: ak(parms(func(p *gotpm.TPMSECCParms) { p.Scheme = gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgNull} }))},
		{name: "device key restricted", code: tpm2.CodeKeyRestricted, options: device(func(p *gotpm.TPMTPublic) { p.ObjectAttributes.Restricted = true })},
		{name: "device key RSASSA", code: tpm2.CodeKeyAlgorithm, says: "TLS 1.3", evidence: resend(key,
			asRSAWith(gotpm.TPMAlgRSASSA, gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSASSA, &gotpm.TPMSSigSchemeRSASSA{HashAlg: gotpm.TPMAlgSHA256})))},
		{name: "device key RSAPSS, but not the one certified", code: tpm2.CodeStatementName, evidence: resend(key,
			asRSAWith(gotpm.TPMAlgRSAPSS, gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSAPSS, &gotpm.TPMSSigSchemeRSAPSS{HashAlg: gotpm.TPMAlgSHA256})))},
		{name: "device key P-256 with SHA-384", code: tpm2.CodeKeyAlgorithm, says: "TLS 1.3",
			options: device(parms(func(p *gotpm.TPMSECCParms) { p.Scheme = ecdsaWith(gotpm.TPMAlgSHA384) }))},
		{name: "device key P-256 with SHA-256, but not the one certified", code: tpm2.CodeStatementName,
			evidence: resend(key, parms(func(p *gotpm.TPMSECCParms) { p.Scheme = ecdsaWith(gotpm.TPMAlgSHA256) }))},
	}
	cases = append(cases, badSigners("AK", tpm2.CodeAKMalformed, tpm2.CodeAKAttributes, tpm2.CodeAKAlgorithm, tpm2.CodeAKWeak, akPublic, ak)...)
	return append(cases, badSigners("device key", tpm2.CodeKeyMalformed, tpm2.CodeKeyAttributes, tpm2.CodeKeyAlgorithm, tpm2.CodeKeyWeak, key, device)...)
}

func badStatements() []bad {
	return []bad{
		{name: "other kind", code: attest.CodeKind, evidence: func(e *attest.Evidence) { e.Kind = attest.KindSoftKey }},
		{name: "statement trailing byte", code: tpm2.CodeStatementMalformed, evidence: trailing(statement)},
		{name: "statement truncated", code: tpm2.CodeStatementMalformed, evidence: truncated(statement)},
		{name: "statement too large", code: tpm2.CodeStatementMalformed, evidence: huge(statement)},
		{name: "statement not by a TPM", code: tpm2.CodeStatementMalformed, evidence: func(e *attest.Evidence) { e.Statement[0] ^= 1 }},
		{name: "statement of a quote", code: tpm2.CodeStatementType, statement: func(s *gotpm.TPMSAttest) {
			s.Type = gotpm.TPMSTAttestQuote
			s.Attested = gotpm.NewTPMUAttest(gotpm.TPMSTAttestQuote, &gotpm.TPMSQuoteInfo{PCRDigest: gotpm.TPM2BDigest{Buffer: make([]byte, 32)}})
		}},
		{name: "statement of a creation", code: tpm2.CodeStatementType, statement: func(s *gotpm.TPMSAttest) {
			certify, err := s.Attested.Certify()
			if err != nil {
				panic(err)
			}
			s.Type = gotpm.TPMSTAttestCreation
			s.Attested = gotpm.NewTPMUAttest(gotpm.TPMSTAttestCreation, &gotpm.TPMSCreationInfo{ObjectName: certify.Name})
		}},
		{name: "statement over nothing", code: tpm2.CodeStatementBinding, statement: func(s *gotpm.TPMSAttest) { s.ExtraData = gotpm.TPM2BData{} }},
		{name: "statement over something else", code: tpm2.CodeStatementBinding, statement: func(s *gotpm.TPMSAttest) { s.ExtraData.Buffer = make([]byte, 32) }},
		{name: "statement over a prefix", code: tpm2.CodeStatementBinding, statement: func(s *gotpm.TPMSAttest) { s.ExtraData.Buffer = binding[:31] }},
		{name: "statement about another key", code: tpm2.CodeStatementName, statement: func(s *gotpm.TPMSAttest) {
			s.Attested = gotpm.NewTPMUAttest(gotpm.TPMSTAttestCertify, &gotpm.TPMSCertifyInfo{Name: s.QualifiedSigner})
		}},
		{name: "signature trailing byte", code: tpm2.CodeSignatureMalformed, evidence: trailing(signature)},
		{name: "signature truncated", code: tpm2.CodeSignatureMalformed, evidence: truncated(signature)},
		{name: "signature too large", code: tpm2.CodeSignatureMalformed, evidence: huge(signature)},
		{name: "signature missing", code: tpm2.CodeSignatureMalformed, evidence: func(e *attest.Evidence) { e.Signature = nil }},
		{name: "signature of another scheme", code: tpm2.CodeSignatureScheme, evidence: func(e *attest.Evidence) {
			e.Signature = gotpm.Marshal(gotpm.TPMTSignature{SigAlg: gotpm.TPMAlgRSASSA,
				Signature: gotpm.NewTPMUSignature(gotpm.TPMAlgRSASSA, &gotpm.TPMSSignatureRSA{Hash: gotpm.TPMAlgSHA256, Sig: gotpm.TPM2BPublicKeyRSA{Buffer: make([]byte, 256)}})})
		}},
		{name: "signature of another ECC scheme", code: tpm2.CodeSignatureScheme, evidence: ecdsaSignature(func(sig *gotpm.TPMTSignature, s *gotpm.TPMSSignatureECC) {
			sig.SigAlg, sig.Signature = gotpm.TPMAlgECDAA, gotpm.NewTPMUSignature(gotpm.TPMAlgECDAA, s)
		})},
		{name: "signature with another hash", code: tpm2.CodeSignatureScheme, evidence: ecdsaSignature(func(_ *gotpm.TPMTSignature, s *gotpm.TPMSSignatureECC) { s.Hash = gotpm.TPMAlgSHA384 })},
		{name: "signature with SHA-1", code: tpm2.CodeSignatureScheme, evidence: ecdsaSignature(func(_ *gotpm.TPMTSignature, s *gotpm.TPMSSignatureECC) { s.Hash = gotpm.TPMAlgSHA1 })},
		{name: "RSA signature with another hash", code: tpm2.CodeSignatureScheme, options: simtpm.Options{RSA: true}, evidence: func(e *attest.Evidence) { e.Signature[3] = byte(gotpm.TPMAlgSHA384) }},
		{name: "RSA signature wrong", code: tpm2.CodeSignatureWrong, options: simtpm.Options{RSA: true}, evidence: func(e *attest.Evidence) { e.Signature[100] ^= 1 }},
		{name: "signature with r too long", code: tpm2.CodeSignatureWrong, evidence: ecdsaSignature(func(_ *gotpm.TPMTSignature, s *gotpm.TPMSSignatureECC) {
			s.SignatureR.Buffer = append([]byte{0}, s.SignatureR.Buffer...)
		})},
		{name: "signature with s too long", code: tpm2.CodeSignatureWrong, evidence: ecdsaSignature(func(_ *gotpm.TPMTSignature, s *gotpm.TPMSSignatureECC) {
			s.SignatureS.Buffer = append([]byte{0}, s.SignatureS.Buffer...)
		})},
		{name: "signature with r = 0", code: tpm2.CodeSignatureWrong, evidence: ecdsaSignature(func(_ *gotpm.TPMTSignature, s *gotpm.TPMSSignatureECC) { s.SignatureR.Buffer = nil })},
		{name: "signature with r = s = 0", code: tpm2.CodeSignatureWrong, evidence: ecdsaSignature(func(_ *gotpm.TPMTSignature, s *gotpm.TPMSSignatureECC) {
			s.SignatureR.Buffer, s.SignatureS.Buffer = make([]byte, 32), make([]byte, 32)
		})},
		{name: "signature with s = n", code: tpm2.CodeSignatureWrong, evidence: ecdsaSignature(func(_ *gotpm.TPMTSignature, s *gotpm.TPMSSignatureECC) { s.SignatureS.Buffer = order.Bytes() })},
		{name: "signature by another key", code: tpm2.CodeSignatureWrong, evidence: func(e *attest.Evidence) {
			other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				panic(err)
			}
			resend(akPublic, point(func(p *gotpm.TPMSECCPoint) {
				b, err := other.PublicKey.Bytes()
				if err != nil {
					panic(err)
				}
				p.X.Buffer, p.Y.Buffer = b[1:33], b[33:]
			}))(e)
		}},
	}
}

// Each check refuses what it is there for, with its code, and every code is used.
func TestRefusals(t *testing.T) {
	m := newMaker(t)
	unused := codes(t)
	for _, b := range slices.Concat(badEndorsements(), badCertificates(), badKeys(), badStatements()) {
		t.Run(b.name, func(t *testing.T) {
			m.Alter = b.certificate
			d := newDevice(t, m, b.options)
			d.AlterStatement = b.statement
			e := evidence(t, d)
			if b.evidence != nil {
				b.evidence(&e)
			}
			roots := [][]byte{m.Root.Raw}
			if b.unknown {
				roots = nil
			}
			_, err := tpm2.New(trusting(t, roots...), !b.strict).Verify(e, binding, now)
			wantRefusal(t, err, b.code)
			if !strings.Contains(err.Error(), b.says) {
				t.Errorf("%q does not say %q", err, b.says)
			}
		})
		delete(unused, b.code)
	}
	// TestOtherKeyInCertificate has this one.
	delete(unused, tpm2.CodeCertificateKey)
	if len(unused) > 0 {
		t.Errorf("no test refuses with %v", slices.Sorted(maps.Keys(unused)))
	}
}

func wantRefusal(t *testing.T, err error, code string) {
	t.Helper()
	var r *attest.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want the refusal %s", err, code)
	}
	if r.Code != code {
		t.Errorf("refused with %s (%s), want %s", r.Code, r.Detail, code)
	}
	if r.Detail == "" {
		t.Error("the refusal does not say why")
	}
}

// codes reads the constants that refusal.go promises to keep.
func codes(t *testing.T) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "refusal.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "Code") {
			code, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			found[code] = true
		}
		return true
	})
	if len(found) < 20 {
		t.Fatalf("only %d codes found in refusal.go", len(found))
	}
	return found
}
