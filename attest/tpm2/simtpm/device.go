package simtpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
)

// Options says what kind of TPM to make. The zero value is the usual one.
type Options struct {
	// EK is the name of the EK's TCG template: "L-2" (P-256) by default, "L-1" and
	// "H-1" for RSA-2048, "H-3" for P-384.
	EK string
	// RSA makes the AK an RSA-2048 key that signs RSASSA instead of a P-256 key.
	RSA bool
	// EKKey is used for the EK instead of a new key, since making an RSA key is slow.
	EKKey crypto.Signer
	// AlterEK, AlterAK and AlterKey change the templates before keys are made, to test what a
	// server must refuse.
	AlterEK, AlterAK, AlterKey func(*gotpm.TPMTPublic)
}

// Key is a key of the simulated TPM.
type Key struct {
	crypto.Signer
	// Area is the TPMT_PUBLIC.
	Area []byte

	public gotpm.TPMTPublic
	name   []byte
}

// Name is nameAlg ‖ digest, as TPM2_Certify states it.
func (k *Key) Name() []byte { return bytes.Clone(k.name) }

// Device is a simulated TPM with its keys.
type Device struct {
	// EK, AK and IDevID are the endorsement, attestation and birth key.
	EK, AK, IDevID *Key
	// Certificates is what NV holds: the EK certificate, then its issuer. Empty for a
	// TPM whose maker issues none.
	Certificates [][]byte
	// AlterStatement, if set, changes each statement before it is signed.
	AlterStatement func(*gotpm.TPMSAttest)

	options Options
}

// NewDevice makes a TPM; maker may be nil for one without certificate.
func NewDevice(maker *Maker, o Options) (*Device, error) {
	d := &Device{options: o}
	template, err := ekTemplate(o.EK)
	if err != nil {
		return nil, err
	}
	if d.EK, err = newKey(template, o.AlterEK, o.EKKey); err != nil {
		return nil, err
	}
	ak := tpm2.AKTemplate()
	if o.RSA {
		ak = rsaAK(ak)
	}
	if d.AK, err = newKey(ak, o.AlterAK, nil); err != nil {
		return nil, err
	}
	if d.IDevID, err = newKey(tpm2.IDevIDTemplate(), o.AlterKey, nil); err != nil {
		return nil, err
	}
	if maker == nil {
		return d, nil
	}
	certificate, err := maker.certify(d.EK.Public())
	if err != nil {
		return nil, err
	}
	d.Certificates = [][]byte{certificate, maker.Intermediate.Raw}
	return d, nil
}

// Evidence is the evidence of an enrolment: the IDevID key, certified over binding.
func (d *Device) Evidence(binding [32]byte) (attest.Evidence, error) {
	e, err := d.Certify(d.IDevID, binding)
	e.Certificates, e.EKPublic, e.AKPublic = d.Certificates, d.EK.Area, d.AK.Area
	return e, err
}

// NewLDevID makes a working key.
func (d *Device) NewLDevID() (*Key, error) {
	return newKey(tpm2.LDevIDTemplate(), d.options.AlterKey, nil)
}

// Certify is the evidence of a renewal: k, certified by the AK over binding.
func (d *Device) Certify(k *Key, binding [32]byte) (attest.Evidence, error) {
	name, signer := k.Name(), d.AK.Name()
	s := gotpm.TPMSAttest{
		Magic:           gotpm.TPMGeneratedValue,
		Type:            gotpm.TPMSTAttestCertify,
		QualifiedSigner: gotpm.TPM2BName{Buffer: endorsed(signer)},
		ExtraData:       gotpm.TPM2BData{Buffer: binding[:]},
		ClockInfo:       gotpm.TPMSClockInfo{Clock: 1000, ResetCount: 3, RestartCount: 1, Safe: true},
		FirmwareVersion: 0x0001_0000_0000_0000,
		Attested: gotpm.NewTPMUAttest(gotpm.TPMSTAttestCertify, &gotpm.TPMSCertifyInfo{
			Name: gotpm.TPM2BName{Buffer: name}, QualifiedName: gotpm.TPM2BName{Buffer: endorsed(name)}}),
	}
	if d.AlterStatement != nil {
		d.AlterStatement(&s)
	}
	statement := gotpm.Marshal(s)
	signature, err := d.sign(statement)
	return attest.Evidence{Kind: attest.KindTPM2, Key: k.Area, Statement: statement, Signature: signature}, err
}

// Known is what a server records about the device.
func (d *Device) Known() attest.Known {
	return attest.Known{EKPublic: d.EK.Area, AKPublic: d.AK.Area}
}

// endorsed is the qualified name of a primary of the endorsement hierarchy.
func endorsed(name []byte) []byte {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(gotpm.TPMRHEndorsement)), name...))
	return append([]byte{0x00, 0x0B}, sum[:]...)
}

func (d *Device) sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	signature, err := d.AK.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	ecc, ok := d.AK.Public().(*ecdsa.PublicKey)
	if !ok {
		return gotpm.Marshal(gotpm.TPMTSignature{
			SigAlg: gotpm.TPMAlgRSASSA,
			Signature: gotpm.NewTPMUSignature(gotpm.TPMAlgRSASSA, &gotpm.TPMSSignatureRSA{
				Hash: gotpm.TPMAlgSHA256, Sig: gotpm.TPM2BPublicKeyRSA{Buffer: signature}}),
		}), nil
	}
	var s struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signature, &s); err != nil {
		return nil, err
	}
	size := (ecc.Params().BitSize + 7) / 8
	return gotpm.Marshal(gotpm.TPMTSignature{
		SigAlg: gotpm.TPMAlgECDSA,
		Signature: gotpm.NewTPMUSignature(gotpm.TPMAlgECDSA, &gotpm.TPMSSignatureECC{
			Hash:       gotpm.TPMAlgSHA256,
			SignatureR: gotpm.TPM2BECCParameter{Buffer: s.R.FillBytes(make([]byte, size))},
			SignatureS: gotpm.TPM2BECCParameter{Buffer: s.S.FillBytes(make([]byte, size))}}),
	}), nil
}

func ekTemplate(name string) (gotpm.TPMTPublic, error) {
	if name == "" {
		name = "L-2"
	}
	for _, t := range tpm2.EKTemplates() {
		if t.Name == name {
			return t.Public, nil
		}
	}
	return gotpm.TPMTPublic{}, fmt.Errorf("simtpm: no EK template is called %q", name)
}

// rsaAK is template H-1 of the IAK: as H-2, but RSA-2048 and RSASSA with SHA-256.
func rsaAK(t gotpm.TPMTPublic) gotpm.TPMTPublic {
	t.Type = gotpm.TPMAlgRSA
	t.Parameters = gotpm.NewTPMUPublicParms(gotpm.TPMAlgRSA, &gotpm.TPMSRSAParms{
		Scheme: gotpm.TPMTRSAScheme{
			Scheme:  gotpm.TPMAlgRSASSA,
			Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSASSA, &gotpm.TPMSSigSchemeRSASSA{HashAlg: gotpm.TPMAlgSHA256}),
		},
		KeyBits: 2048,
	})
	return t
}

// newKey makes the key that a template describes, or puts signer into it.
func newKey(t gotpm.TPMTPublic, alter func(*gotpm.TPMTPublic), signer crypto.Signer) (*Key, error) {
	if alter != nil {
		alter(&t)
	}
	if signer == nil {
		var err error
		if signer, err = generate(&t); err != nil {
			return nil, err
		}
	}
	switch key := signer.Public().(type) {
	case *rsa.PublicKey:
		t.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // SEC 1: 4, X, Y
		if err != nil {
			return nil, err
		}
		half := len(point) / 2
		t.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{
			X: gotpm.TPM2BECCParameter{Buffer: point[1 : 1+half]}, Y: gotpm.TPM2BECCParameter{Buffer: point[1+half:]}})
	}
	name, err := gotpm.ObjectName(&t)
	if err != nil {
		return nil, fmt.Errorf("simtpm: a template with an unknown hash: %w", err)
	}
	return &Key{Signer: signer, Area: gotpm.Marshal(t), public: t, name: name.Buffer}, nil
}

func generate(t *gotpm.TPMTPublic) (crypto.Signer, error) {
	if t.Type == gotpm.TPMAlgRSA {
		p, err := t.Parameters.RSADetail()
		if err != nil {
			return nil, err
		}
		return rsa.GenerateKey(rand.Reader, int(p.KeyBits))
	}
	p, err := t.Parameters.ECCDetail()
	if err != nil {
		return nil, err
	}
	curve, err := p.CurveID.Curve()
	if err != nil {
		return nil, errors.New("simtpm: the template's curve is unknown")
	}
	return ecdsa.GenerateKey(curve, rand.Reader)
}
