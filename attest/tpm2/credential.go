package tpm2

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/hallmark-pki/hallmark/attest"
)

// makeCredential is TPM2_MakeCredential in software (TPM 2.0 Part 1 §24): only a chip
// that holds both ek and the object called name returns secret.
func makeCredential(ek *public, name, secret []byte) (attest.Challenge, error) {
	hash := hashes[ek.nameAlg]
	seed, encrypted, err := shareSeed(ek.key, hash)
	if err != nil {
		return attest.Challenge{}, err
	}
	block, err := aes.NewCipher(kdfa(hash, seed, "STORAGE", name, int(ek.cipher.bits)))
	if err != nil {
		return attest.Challenge{}, err
	}
	identity := sized(secret)
	//lint:ignore SA1019 CFB is what a TPM uses here (TPM 2.0 Part 1 §24.4); an HMAC over it follows.
	cipher.NewCFBEncrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(identity, identity)
	mac := hmac.New(hash.New, kdfa(hash, seed, "INTEGRITY", nil, 8*hash.Size()))
	mac.Write(identity)
	mac.Write(name)
	return attest.Challenge{Credential: append(sized(mac.Sum(nil)), identity...), Secret: encrypted}, nil
}

// shareSeed makes a seed and encrypts it to key (TPM 2.0 Part 1 §B.10, §C.6).
func shareSeed(key crypto.PublicKey, hash crypto.Hash) (seed, encrypted []byte, err error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		seed = make([]byte, hash.Size())
		rand.Read(seed) // never fails since Go 1.24
		encrypted, err = rsa.EncryptOAEP(hash.New(), rand.Reader, key, seed, []byte("IDENTITY\x00"))
		return seed, encrypted, err
	case *ecdsa.PublicKey:
		static, err := key.ECDH()
		if err != nil {
			return nil, nil, err
		}
		ephemeral, err := static.Curve().GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		z, err := ephemeral.ECDH(static)
		if err != nil {
			return nil, nil, err
		}
		x, y := coordinates(ephemeral.PublicKey())
		recipient, _ := coordinates(static)
		return kdfe(hash, z, "IDENTITY", x, recipient), append(sized(x), sized(y)...), nil // TPMS_ECC_POINT
	}
	return nil, nil, fmt.Errorf("a key of type %T", key)
}

// kdfa is KDFa (TPM 2.0 Part 1 §11.4.10.2) for at most one digest's worth of bits.
func kdfa(hash crypto.Hash, key []byte, label string, context []byte, bits int) []byte {
	mac := hmac.New(hash.New, key)
	mac.Write([]byte{0, 0, 0, 1})
	mac.Write(append([]byte(label), 0))
	mac.Write(context)
	mac.Write(binary.BigEndian.AppendUint32(nil, uint32(bits)))
	return mac.Sum(nil)[:bits/8]
}

// kdfe is KDFe (TPM 2.0 Part 1 §11.4.10.3) for one digest's worth of bits.
func kdfe(hash crypto.Hash, z []byte, use string, initiator, recipient []byte) []byte {
	h := hash.New()
	h.Write(slices.Concat([]byte{0, 0, 0, 1}, z, []byte(use), []byte{0}, initiator, recipient))
	return h.Sum(nil)
}

func coordinates(k *ecdh.PublicKey) (x, y []byte) {
	b := k.Bytes()[1:] // SEC 1 §2.3.3
	return b[:len(b)/2], b[len(b)/2:]
}

// sized puts b into a TPM2B.
func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...)
}
