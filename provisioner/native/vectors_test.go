package native_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/softkey"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/wire"
)

// What docs/vectors.json calls good evidence is good; package wire holds that the bindings
// are those of the messages.
func TestVectorsOfEvidence(t *testing.T) {
	text, err := os.ReadFile("../../docs/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Messages map[string]struct {
			Body, Binding string
			Certificate   []byte
			// The record's part in a renewal.
			EKPublic  []byte `json:"ek_public"`
			AKPublic  []byte `json:"ak_public"`
			IDevIDKey []byte `json:"idevid_key"`
		}
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	verifiers := attest.Verifiers{attest.KindSoftKey: softkey.Verifier{}, attest.KindTPM2: tpm2.New(func() *vendorca.Set { return nil }, false)}
	for name, m := range v.Messages {
		var e wire.Envelope
		if err := wire.DecodeBytes([]byte(m.Body), &e); err != nil {
			t.Fatal(err)
		}
		var binding [32]byte
		if _, err := hex.Decode(binding[:], []byte(m.Binding)); err != nil {
			t.Fatal(err)
		}
		if e.Client != nil {
			leaf, err := x509.ParseCertificate(m.Certificate)
			if err != nil || !ecdsa.VerifyASN1(leaf.PublicKey.(*ecdsa.PublicKey), binding[:], e.Client.Signature) {
				t.Errorf("%s: the client's proof does not hold: %v", name, err)
			}
			continue
		}
		var enrol wire.Enrol
		if err := json.Unmarshal(e.Message, &enrol); err != nil { // a renewal's has the same keys, and one more
			t.Fatal(err)
		}
		evidence := attest.Evidence{Kind: attest.KindTPM2, EKPublic: enrol.EKPublic, AKPublic: enrol.AKPublic, Key: enrol.Key, Statement: e.Statement, Signature: e.Signature}
		known := attest.Known{Kind: attest.KindTPM2, EKPublic: m.EKPublic, AKPublic: m.AKPublic}
		if enrol.Kind != "" {
			evidence.Kind, known = enrol.Kind, attest.Known{Kind: enrol.Kind, Birth: m.IDevIDKey}
		}
		if m.Certificate == nil {
			_, err = verifiers.Verify(evidence, binding, time.Now())
		} else {
			_, err = verifiers.Reverify(known, evidence, binding)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
