package collect

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest/tpm2"
)

// Key is an ECDSA P-256 key in the TPM. It is a crypto.Signer for SHA-256, SHA-384
// and SHA-512 and stays usable until its Device is closed.
type Key struct {
	d      *Device
	load   func() (*object, error)
	public gotpm.TPMTPublic
	ecdsa  *ecdsa.PublicKey
	file   []byte
}

var _ crypto.Signer = (*Key)(nil)

func (d *Device) newKey(o *object, file []byte, load func() (*object, error)) (*Key, error) {
	public, err := gotpm.Pub(o.public)
	if err != nil {
		return nil, err
	}
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("not an ECC key")
	}
	return &Key{d: d, load: load, public: o.public, ecdsa: key, file: file}, nil
}

// IDevID is the device's IDevID key, which the TPM derives from TCG's template each time.
func (d *Device) IDevID() (*Key, error) {
	var k *Key
	err := d.operation("making the IDevID key", func() error {
		o, err := d.idevid()
		if err != nil {
			return err
		}
		k, err = d.newKey(o, nil, d.idevid)
		return err
	})
	return k, err
}

// NewLDevID makes a fresh working key. It exists nowhere but in its PEM.
func (d *Device) NewLDevID() (*Key, error) {
	var k *Key
	err := d.operation("making an LDevID key", func() error {
		srk, err := d.srk()
		if err != nil {
			return err
		}
		if err := d.room(); err != nil { // TPM2_Create works in a slot of its own
			return err
		}
		r, err := gotpm.Create{ParentHandle: plain(srk), InPublic: gotpm.New2B(tpm2.LDevIDTemplate())}.Execute(d.link)
		if err != nil {
			return err
		}
		k, err = d.child(keyFile{Public: gotpm.Marshal(r.OutPublic), Private: gotpm.Marshal(r.OutPrivate)})
		return err
	})
	return k, err
}

// LoadLDevID loads a working key from its PEM. The error is ErrOtherTPM if the key was
// made in another TPM, or in this one before it was cleared.
func (d *Device) LoadLDevID(text []byte) (*Key, error) {
	f, err := parseKeyFile(text)
	if err != nil {
		return nil, err
	}
	var k *Key
	err = d.operation("loading the LDevID key", func() error {
		k, err = d.child(f)
		return err
	})
	return k, err
}

// child loads a key under the storage root.
func (d *Device) child(f keyFile) (*Key, error) {
	public, contents, private, err := f.decode()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(f.Public)
	load := func() (*object, error) {
		return d.use(hex.EncodeToString(sum[:]), func() (*object, error) {
			srk, err := d.srk()
			if err != nil {
				return nil, err
			}
			if err := d.room(); err != nil {
				return nil, err
			}
			r, err := gotpm.Load{ParentHandle: plain(srk), InPrivate: private, InPublic: public}.Execute(d.link)
			if err != nil {
				return nil, err
			}
			srk.busy = false // needed for loading alone
			return &object{handle: r.ObjectHandle, name: r.Name, public: contents}, nil
		})
	}
	o, err := load()
	if err != nil {
		return nil, err
	}
	text, err := f.pem()
	if err != nil {
		return nil, err
	}
	return d.newKey(o, text, load)
}

// Public returns an *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.ecdsa }

// TPMPublic is the key's TPMT_PUBLIC.
func (k *Key) TPMPublic() []byte { return gotpm.Marshal(k.public) }

// PEM is the key as a TSS2 PRIVATE KEY file, which only this TPM can use and which OpenSSL's tpm2
// provider reads; nil for the IDevID key.
func (k *Key) PEM() []byte { return bytes.Clone(k.file) }

// Sign signs a digest and returns an ASN.1 ECDSA signature. The TPM's random numbers are used,
// not the reader.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash, ok := map[crypto.Hash]gotpm.TPMIAlgHash{
		crypto.SHA256: gotpm.TPMAlgSHA256, crypto.SHA384: gotpm.TPMAlgSHA384, crypto.SHA512: gotpm.TPMAlgSHA512,
	}[opts.HashFunc()]
	if !ok || len(digest) != opts.HashFunc().Size() {
		return nil, fmt.Errorf("the TPM key signs SHA-256, SHA-384 or SHA-512 digests, not %d bytes of %v", len(digest), opts.HashFunc())
	}
	var signature []byte
	err := k.d.operation("signing with the TPM", func() error {
		o, err := k.load()
		if err != nil {
			return err
		}
		auth, err := k.d.authorise(o, 0)
		if err != nil {
			return err
		}
		r, err := gotpm.Sign{
			KeyHandle:  auth,
			Digest:     gotpm.TPM2BDigest{Buffer: digest},
			InScheme:   gotpm.TPMTSigScheme{Scheme: gotpm.TPMAlgECDSA, Details: gotpm.NewTPMUSigScheme(gotpm.TPMAlgECDSA, &gotpm.TPMSSchemeHash{HashAlg: hash})},
			Validation: gotpm.TPMTTKHashCheck{Tag: gotpm.TPMSTHashCheck, Hierarchy: gotpm.TPMRHNull},
		}.Execute(k.d.link)
		if err != nil {
			return err
		}
		s, err := r.Signature.Signature.ECDSA()
		if err != nil {
			return err
		}
		signature, err = asn1.Marshal(struct{ R, S *big.Int }{
			new(big.Int).SetBytes(s.SignatureR.Buffer), new(big.Int).SetBytes(s.SignatureS.Buffer)})
		return err
	})
	return signature, err
}

// keyFile is the loadable key of the TSS2 PRIVATE KEY format (Bottomley, "ASN.1 Specification for
// TPM 2.0 Key Files", 3.1), reduced to what we write: no policy, no secret.
type keyFile struct {
	Type      asn1.ObjectIdentifier
	EmptyAuth bool `asn1:"explicit,tag:0"`
	Parent    int64
	Public    []byte // TPM2B_PUBLIC
	Private   []byte // TPM2B_PRIVATE
}

// srkParent is TPM_RH_OWNER, which as a parent means the P-256 storage root with an empty unique
// field (3.1.7 of the format).
const srkParent = 0x40000001

// maxKeyFile bounds a key file, in bytes; ours has about 400.
const maxKeyFile = 8 << 10

var loadableKey = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}

func (f keyFile) pem() ([]byte, error) {
	f.Type, f.EmptyAuth, f.Parent = loadableKey, true, srkParent
	der, err := asn1.Marshal(f)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der}), nil
}

// decode parses the TPM's structures in the file.
func (f keyFile) decode() (public gotpm.TPM2BPublic, contents gotpm.TPMTPublic, private gotpm.TPM2BPrivate, err error) {
	damaged := errors.New("key file: damaged")
	pub, err := gotpm.Unmarshal[gotpm.TPM2BPublic](f.Public)
	if err != nil {
		return public, contents, private, damaged
	}
	c, err := pub.Contents()
	if err != nil {
		return public, contents, private, damaged
	}
	priv, err := gotpm.Unmarshal[gotpm.TPM2BPrivate](f.Private)
	// go-tpm ignores trailing bytes; nothing may hide there.
	if err != nil || len(f.Private) != 2+len(priv.Buffer) || !bytes.Equal(gotpm.Marshal(gotpm.New2B(*c)), f.Public) {
		return public, contents, private, damaged
	}
	return *pub, *c, *priv, nil
}

func parseKeyFile(text []byte) (keyFile, error) {
	var f keyFile
	if len(text) > maxKeyFile {
		return f, errors.New("key file: too large")
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "TSS2 PRIVATE KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return f, errors.New("key file: not one TSS2 PRIVATE KEY block")
	}
	if rest, err := asn1.Unmarshal(block.Bytes, &f); err != nil || len(rest) != 0 {
		return f, errors.New("key file: not a key that this program wrote")
	}
	if !f.Type.Equal(loadableKey) || !f.EmptyAuth || f.Parent != srkParent {
		return f, errors.New("key file: not a passwordless key under the storage root")
	}
	return f, nil
}
