package collect

import (
	"crypto"
	"errors"
	"fmt"

	gotpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/trouble"
)

// Identity is what the TPM says of itself before anything is proved.
type Identity struct {
	// EKCertificates as in attest.Evidence.Certificates; empty if the chip has none.
	EKCertificates [][]byte
	// EKPublic and AKPublic are TPMT_PUBLIC structures.
	EKPublic, AKPublic []byte
	// AK is the key in AKPublic; the AK certificate must be for it.
	AK crypto.PublicKey
	// Warning is a sentence for the technician; empty if all is well.
	Warning string
}

// Identify finds the endorsement key with its certificates and makes the attestation key.
func (d *Device) Identify() (Identity, error) {
	var id Identity
	err := d.operation("reading the TPM's identity", func() error {
		e, ek, ak, err := d.pair()
		if err != nil {
			return err
		}
		id = Identity{EKCertificates: e.certificates, EKPublic: gotpm.Marshal(ek.public), AKPublic: gotpm.Marshal(ak.public), Warning: e.warning}
		id.AK, err = gotpm.Pub(ak.public)
		return err
	})
	return id, err
}

// Certify has the attestation key certify a key of the same TPM, over a binding (TPM2_Certify).
// It returns the TPMS_ATTEST and the TPMT_SIGNATURE.
func (d *Device) Certify(k *Key, binding [32]byte) (statement, signature []byte, err error) {
	err = d.operation("certifying a key", func() error {
		ak, err := d.ak()
		if err != nil {
			return err
		}
		subject, err := k.load()
		if err != nil {
			return err
		}
		signer, err := d.authorise(ak, 0)
		if err != nil {
			return err
		}
		object, err := d.authorise(subject, gotpm.TPMCCCertify)
		if err != nil {
			return err
		}
		r, err := gotpm.Certify{
			ObjectHandle:   object,
			SignHandle:     signer,
			QualifyingData: gotpm.TPM2BData{Buffer: binding[:]},
			InScheme:       gotpm.TPMTSigScheme{Scheme: gotpm.TPMAlgNull},
		}.Execute(d.link)
		if err != nil {
			return err
		}
		statement, signature = r.CertifyInfo.Bytes(), gotpm.Marshal(r.Signature)
		return nil
	})
	return statement, signature, err
}

// pair loads the two keys that a challenge is made for: the endorsement key and the attestation
// key.
func (d *Device) pair() (e *endorsement, ek, ak *object, err error) {
	if e, err = d.endorsement(); err != nil {
		return nil, nil, nil, err
	}
	if ek, err = d.endorsementKey(e); err != nil {
		return nil, nil, nil, err
	}
	ak, err = d.ak()
	return e, ek, ak, err
}

// Activate opens a credential challenge (TPM2_ActivateCredential), which only the TPM that holds
// both the endorsement and the attestation key can do. The error is ErrOtherTPM if the challenge
// was made for another TPM.
func (d *Device) Activate(c attest.Challenge) (secret []byte, err error) {
	err = d.operation("answering the server's challenge", func() error {
		_, ek, ak, err := d.pair()
		if err != nil {
			return err
		}
		activate, err := d.authorise(ak, gotpm.TPMCCActivateCredential)
		if err != nil {
			return err
		}
		decrypt, err := d.authorise(ek, 0)
		if err != nil {
			return err
		}
		r, err := gotpm.ActivateCredential{
			ActivateHandle: activate,
			KeyHandle:      decrypt,
			CredentialBlob: gotpm.TPM2BIDObject{Buffer: c.Credential},
			Secret:         gotpm.TPM2BEncryptedSecret{Buffer: c.Secret},
		}.Execute(d.link)
		if err != nil {
			return d.explainActivate(err, ak)
		}
		secret = r.CertInfo.Buffer
		return nil
	})
	return secret, err
}

// explainActivate recognises a challenge that was encrypted to another key. TPMs disagree on the
// response code: some return TPM_RC_FAILURE although they go on working.
func (d *Device) explainActivate(err error, ak *object) error {
	if !is(err, gotpm.TPMRCFailure, gotpm.TPMRCValue, gotpm.TPMRCSize, gotpm.TPMRCECCPoint) {
		return err
	}
	if _, failed := (gotpm.ReadPublic{ObjectHandle: ak.handle}).Execute(d.link); failed != nil {
		return err
	}
	return &trouble.Error{Kind: ErrOtherTPM, Detail: "the server's challenge does not open", Hint: otherTPMHint, Cause: err}
}

// plain authorises with the empty password. It is for keys that are exempt from the
// dictionary-attack lockout (SRK, LDevID).
func plain(o *object) gotpm.AuthHandle {
	return gotpm.AuthHandle{Handle: o.handle, Name: o.name, Auth: gotpm.PasswordAuth(nil)}
}

// authorise begins a policy session for keys that have a policy. EK, AK and IDevID have an empty
// password too, but passwords count towards the lockout: the first use after each start is
// written to NV, and a power cut before TPM2_Shutdown counts as a wrong password (TPM 2.0 Part 1,
// 19.8). A role that the TPM allows only by policy (certifying, activating) is named by its
// command code.
func (d *Device) authorise(o *object, role gotpm.TPMCC) (gotpm.AuthHandle, error) {
	if len(o.public.AuthPolicy.Buffer) == 0 {
		return plain(o), nil
	}
	branches, ok := tpm2.PolicyBranches(o.public)
	if !ok {
		return gotpm.AuthHandle{}, errors.New("the key has a policy that is not TCG's")
	}
	session := gotpm.Policy(o.public.NameAlg, 16, func(t transport.TPM, h gotpm.TPMISHPolicy, nonce gotpm.TPM2BNonce) error {
		d.sessions = append(d.sessions, h)
		if _, err := (gotpm.PolicySecret{AuthHandle: gotpm.TPMRHEndorsement, PolicySession: h, NonceTPM: nonce}).Execute(t); err != nil {
			return fmt.Errorf("proving access to the endorsement hierarchy: %w", err)
		}
		if role != 0 {
			if _, err := (gotpm.PolicyCommandCode{PolicySession: h, Code: role}).Execute(t); err != nil {
				return err
			}
		}
		if branches == nil {
			return nil
		}
		_, err := gotpm.PolicyOr{PolicySession: h, PHashList: gotpm.TPMLDigest{Digests: branches}}.Execute(t)
		return err
	})
	return gotpm.AuthHandle{Handle: o.handle, Name: o.name, Auth: session}, nil
}
