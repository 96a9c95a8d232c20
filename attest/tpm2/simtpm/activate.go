package simtpm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"errors"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest"
)

var errActivate = errors.New("simtpm: the credential is not for this TPM")

// Activate is TPM2_ActivateCredential: it returns the challenge's secret if the
// challenge was made for this EK and this AK (TPM 2.0 Part 1 §24).
func (d *Device) Activate(c attest.Challenge) ([]byte, error) {
	hash, err := d.EK.public.NameAlg.Hash()
	if err != nil {
		return nil, err
	}
	seed, bits, err := d.seed(c.Secret)
	if err != nil {
		return nil, err
	}
	// TPM2B_DIGEST integrity, then the encrypted TPM2B_DIGEST.
	if len(c.Credential) < 2+hash.Size()+2 {
		return nil, errActivate
	}
	integrity, encrypted := c.Credential[2:2+hash.Size()], c.Credential[2+hash.Size():]
	name := d.AK.Name()
	mac := hmac.New(hash.New, gotpm.KDFa(hash, seed, "INTEGRITY", nil, nil, 8*hash.Size()))
	mac.Write(encrypted)
	mac.Write(name)
	if !hmac.Equal(mac.Sum(nil), integrity) {
		return nil, errActivate
	}
	block, err := aes.NewCipher(gotpm.KDFa(hash, seed, "STORAGE", name, nil, bits))
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(encrypted))
	//lint:ignore SA1019 CFB is what a TPM uses here (TPM 2.0 Part 1 §24.4); an HMAC over it was checked above.
	cipher.NewCFBDecrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(plain, encrypted)
	return plain[2:], nil
}

// seed decrypts the seed, and also returns the size of the EK's symmetric keys.
func (d *Device) seed(secret []byte) (seed []byte, bits int, err error) {
	hash, err := d.EK.public.NameAlg.Hash()
	if err != nil {
		return nil, 0, err
	}
	switch key := d.EK.Signer.(type) {
	case *rsa.PrivateKey:
		parameters, err := d.EK.public.Parameters.RSADetail()
		if err != nil {
			return nil, 0, err
		}
		seed, err := rsa.DecryptOAEP(hash.New(), nil, key, secret, []byte("IDENTITY\x00"))
		if err != nil {
			return nil, 0, errActivate
		}
		return seed, keyBits(&parameters.Symmetric), nil
	case *ecdsa.PrivateKey:
		parameters, err := d.EK.public.Parameters.ECCDetail()
		if err != nil {
			return nil, 0, err
		}
		private, err := key.ECDH()
		if err != nil {
			return nil, 0, err
		}
		ephemeral, z, err := agree(private, secret)
		if err != nil {
			return nil, 0, errActivate
		}
		half := len(ephemeral) / 2 // SEC 1: 4, X, Y
		own := private.PublicKey().Bytes()
		seed := gotpm.KDFe(hash, z, "IDENTITY", ephemeral[1:1+half], own[1:1+half], 8*hash.Size())
		return seed, keyBits(&parameters.Symmetric), nil
	}
	return nil, 0, errors.New("simtpm: the EK is neither RSA nor ECC")
}

func agree(private *ecdh.PrivateKey, secret []byte) (ephemeral, z []byte, err error) {
	point, err := gotpm.Unmarshal[gotpm.TPMSECCPoint](secret)
	if err != nil {
		return nil, nil, err
	}
	public, err := private.Curve().NewPublicKey(append(append([]byte{4}, point.X.Buffer...), point.Y.Buffer...))
	if err != nil {
		return nil, nil, err
	}
	z, err = private.ECDH(public)
	return public.Bytes(), z, err
}

func keyBits(s *gotpm.TPMTSymDefObject) int {
	bits, err := s.KeyBits.AES()
	if err != nil {
		panic("simtpm: an EK without AES: " + err.Error())
	}
	return int(*bits)
}
