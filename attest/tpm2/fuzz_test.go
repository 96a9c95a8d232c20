package tpm2

import (
	"bytes"
	"errors"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest"
)

func FuzzPublic(f *testing.F) {
	for _, t := range EKTemplates() {
		f.Add(gotpm.Marshal(t.Public))
	}
	for _, t := range []gotpm.TPMTPublic{IDevIDTemplate(), AKTemplate(), LDevIDTemplate(), SRKTemplate(), gotpm.RSASRKTemplate} {
		f.Add(gotpm.Marshal(t))
	}
	for i, raw := range areas(f) {
		if i%100 == 0 {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) { agreePublic(t, raw) })
}

func FuzzStatement(f *testing.F) {
	f.Add(gotpm.Marshal(gotpm.TPMSAttest{
		Magic: gotpm.TPMGeneratedValue, Type: gotpm.TPMSTAttestCertify, ExtraData: gotpm.TPM2BData{Buffer: make([]byte, 32)},
		Attested: gotpm.NewTPMUAttest(gotpm.TPMSTAttestCertify, &gotpm.TPMSCertifyInfo{Name: gotpm.TPM2BName{Buffer: make([]byte, 34)}}),
	}))
	f.Add(gotpm.Marshal(gotpm.TPMSAttest{
		Magic: gotpm.TPMGeneratedValue, Type: gotpm.TPMSTAttestQuote,
		Attested: gotpm.NewTPMUAttest(gotpm.TPMSTAttestQuote, &gotpm.TPMSQuoteInfo{}),
	}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !agreeStatement(t, raw) {
			return
		}
		s, err := readStatement(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(raw, []byte("\xffTCG\x80\x17")) {
			t.Errorf("accepted as a certify: %x", raw)
		}
		if err := s.check(&public{name: []byte("no such name")}, [32]byte{1}); err == nil {
			t.Error("accepted for a name that is none")
		}
	})
}

func FuzzSignature(f *testing.F) {
	f.Add(gotpm.Marshal(gotpm.TPMTSignature{SigAlg: gotpm.TPMAlgECDSA, Signature: gotpm.NewTPMUSignature(gotpm.TPMAlgECDSA, &gotpm.TPMSSignatureECC{
		Hash: gotpm.TPMAlgSHA256, SignatureR: gotpm.TPM2BECCParameter{Buffer: make([]byte, 32)}, SignatureS: gotpm.TPM2BECCParameter{Buffer: []byte{1}}})}))
	f.Add(gotpm.Marshal(gotpm.TPMTSignature{SigAlg: gotpm.TPMAlgRSASSA, Signature: gotpm.NewTPMUSignature(gotpm.TPMAlgRSASSA, &gotpm.TPMSSignatureRSA{
		Hash: gotpm.TPMAlgSHA256, Sig: gotpm.TPM2BPublicKeyRSA{Buffer: make([]byte, 256)}})}))
	ecc, rsa := fuzzSigner(f, AKTemplate()), fuzzSigner(f, fuzzRSA())
	f.Fuzz(func(t *testing.T, raw []byte) {
		agreeSignature(t, raw)
		for _, ak := range []*public{ecc, rsa} {
			err := checkSignature(ak, []byte("a message that nobody signed"), raw)
			if err == nil {
				t.Fatalf("a forged signature was accepted: %x", raw)
			}
			mustRefuse(t, err)
		}
	})
}

// fuzzSigner is an AK whose private key nobody knows.
func fuzzSigner(f *testing.F, t gotpm.TPMTPublic) *public {
	f.Helper()
	if t.Type == gotpm.TPMAlgECC { // the generator of P-256 is a point like any other
		curve := curves[gotpm.TPMECCNistP256].Params()
		t.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{
			X: gotpm.TPM2BECCParameter{Buffer: curve.Gx.Bytes()}, Y: gotpm.TPM2BECCParameter{Buffer: curve.Gy.Bytes()}})
	}
	p, err := readPublic(roleAK, gotpm.Marshal(t))
	if err != nil {
		f.Fatal(err)
	}
	return p
}

func fuzzRSA() gotpm.TPMTPublic {
	t := AKTemplate()
	t.Type = gotpm.TPMAlgRSA
	t.Parameters = gotpm.NewTPMUPublicParms(gotpm.TPMAlgRSA, &gotpm.TPMSRSAParms{
		Scheme:  gotpm.TPMTRSAScheme{Scheme: gotpm.TPMAlgRSASSA, Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSASSA, &gotpm.TPMSSigSchemeRSASSA{HashAlg: gotpm.TPMAlgSHA256})},
		KeyBits: 2048,
	})
	t.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{0xA7}, 256)})
	return t
}

func mustRefuse(t *testing.T, err error) {
	t.Helper()
	var r *attest.Refusal
	if !errors.As(err, &r) || r.Code == "" || r.Detail == "" {
		t.Errorf("not a refusal with code and reason: %v", err)
	}
}
