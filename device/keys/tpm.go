package keys

import (
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"

	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/wire"
)

// tpm holds keys in a TPM 2.0.
type tpm struct {
	*collect.Device
	birth Key
}

type tpmKey struct{ *collect.Key }

func (k tpmKey) Wire() []byte   { return k.TPMPublic() }
func (k tpmKey) Stored() []byte { return k.PEM() }

func openTPM(spec string) (Holder, error) {
	d, err := collect.Open(spec)
	if err != nil {
		return nil, err
	}
	return &tpm{Device: d}, nil
}

func (t *tpm) Kind() string { return "" }

func (t *tpm) Birth() (Key, error) {
	if t.birth == nil {
		k, err := t.IDevID()
		if err != nil {
			return nil, err
		}
		t.birth = tpmKey{k}
	}
	return t.birth, nil
}

func (t *tpm) Identify() (Identity, error) {
	birth, err := t.Birth()
	if err != nil {
		return Identity{}, err
	}
	id, err := t.Device.Identify()
	return Identity{AK: id.AK, Warning: id.Warning, Message: wire.Enrol{
		EKCertificates: id.EKCertificates, EKPublic: id.EKPublic, AKPublic: id.AKPublic, Key: birth.Wire()}}, err
}

func (t *tpm) NewWorking() (Key, error) {
	k, err := t.NewLDevID()
	return tpmKey{k}, err
}

func (t *tpm) LoadWorking(stored []byte) (Key, error) {
	k, err := t.LoadLDevID(stored)
	return tpmKey{k}, err
}

func (t *tpm) Prove(k Key, binding [32]byte) (statement, signature []byte, err error) {
	own, ok := k.(tpmKey)
	if !ok {
		return nil, nil, errors.New("the key is not in the TPM")
	}
	return t.Certify(own.Key, binding)
}

func (t *tpm) Check(certified crypto.PublicKey, folder, device string) error {
	birth, err := t.Birth()
	if err != nil || same(certified, birth) {
		return err
	}
	return &trouble.Error{Kind: collect.ErrOtherTPM,
		Detail: fmt.Sprintf("the state folder %s belongs to %s, which has another TPM", folder, device),
		Hint:   "give this board an identity of its own: hallmark-device enrol, with a ticket unless the server knows it"}
}

func same(certified crypto.PublicKey, k Key) bool {
	key, ok := certified.(*ecdsa.PublicKey)
	return ok && key.Equal(k.Public())
}
