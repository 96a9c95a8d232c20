package collect

import (
	"bytes"
	"fmt"
	"slices"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest/tpm2"
)

// NV indices of the EK certificate's intermediates (EK Credential Profile 2.2.1.5.2). Each index
// may hold several.
const (
	firstIntermediate = 0x01C00100
	lastIntermediate  = 0x01C001FF
)

// endorsement is the EK that this device enrols with, and how to make it.
type endorsement struct {
	template gotpm.TPMTPublic
	// persistent is where the key is kept, or 0.
	persistent gotpm.TPMHandle
	// certificates are the EK certificate and the intermediates; empty if the chip has none.
	certificates [][]byte
	// warning is for the technician.
	warning string
}

// endorsement finds the EK once. The choice depends on the chip alone, so that it stays the same
// after the state folder was wiped: the first template in order of preference whose certificate
// is in NV and is for the key that the template yields; failing that, the first template from
// which the chip can make a key.
func (d *Device) endorsement() (*endorsement, error) {
	if d.ek != nil {
		return d.ek, nil
	}
	indices, err := d.handles(0x01C00000, 0x01C07FFF) // assigned to EK certificates (Registry of Reserved TPM 2.0 Handles)
	if err != nil {
		return nil, err
	}
	present := make(map[gotpm.TPMHandle]bool)
	for _, i := range indices {
		present[i] = true
	}
	persistent, err := d.handles(0x81010000, 0x8101FFFF)
	if err != nil {
		return nil, err
	}
	var warning string
	for _, t := range tpm2.EKTemplates() {
		if !present[gotpm.TPMHandle(t.Certificate)] {
			continue
		}
		e, err := d.certified(t, present, persistent)
		if err != nil {
			return nil, err
		}
		if e == nil {
			warning = fmt.Sprintf("the EK certificate in NV 0x%08X is for another key: the TPM was given a new endorsement seed", t.Certificate)
			continue
		}
		for _, i := range indices {
			if i < firstIntermediate || i > lastIntermediate {
				continue
			}
			more, err := d.readNV(i)
			if err != nil {
				return nil, fmt.Errorf("reading the certificate in NV 0x%08X: %w", uint32(i), err)
			}
			e.certificates = append(e.certificates, more)
		}
		d.ek = e
		return e, nil
	}
	d.ek, err = d.uncertified(persistent)
	if d.ek != nil {
		d.ek.warning = warning
	}
	return d.ek, err
}

// certified returns the EK of a template whose certificate is in NV, or nil if the
// certificate is for another key.
func (d *Device) certified(t tpm2.EKTemplate, present map[gotpm.TPMHandle]bool, persistent []gotpm.TPMHandle) (*endorsement, error) {
	certificate, err := d.readNV(gotpm.TPMHandle(t.Certificate))
	if err != nil {
		return nil, fmt.Errorf("reading the EK certificate in NV 0x%08X: %w", t.Certificate, err)
	}
	e := &endorsement{template: t.Public, certificates: [][]byte{certificate}}
	if present[gotpm.TPMHandle(t.Template)] {
		raw, err := d.readNV(gotpm.TPMHandle(t.Template))
		if err != nil {
			return nil, fmt.Errorf("reading the EK template in NV 0x%08X: %w", t.Template, err)
		}
		public, err := gotpm.Unmarshal[gotpm.TPMTPublic](raw)
		if err != nil {
			return nil, fmt.Errorf("the EK template in NV 0x%08X: %w", t.Template, err)
		}
		e.template = *public
	}
	if present[gotpm.TPMHandle(t.Nonce)] {
		nonce, err := d.readNV(gotpm.TPMHandle(t.Nonce))
		if err != nil {
			return nil, fmt.Errorf("reading the EK nonce in NV 0x%08X: %w", t.Nonce, err)
		}
		if e.template.Unique, err = uniqueOf(e.template.Type, nonce); err != nil {
			return nil, err
		}
	}
	e.persistent = kept(t.Persistent, persistent)
	for {
		ek, err := d.endorsementKey(e)
		if err != nil {
			return nil, err
		}
		if names(certificate, ek.public) {
			return e, nil
		}
		d.drop("ek")
		if e.persistent == 0 {
			return nil, nil
		}
		e.persistent = 0 // another key is persistent there
	}
}

// uncertified returns the first EK that the chip can make.
func (d *Device) uncertified(persistent []gotpm.TPMHandle) (*endorsement, error) {
	var first error
	for _, t := range tpm2.EKTemplates() {
		e := &endorsement{template: t.Public, persistent: kept(t.Persistent, persistent)}
		ek, err := d.endorsementKey(e)
		if err == nil && e.persistent != 0 && !madeFrom(ek.public, t.Public) {
			d.drop("ek")
			e.persistent = 0
			_, err = d.endorsementKey(e)
		}
		if err == nil {
			return e, nil
		}
		if is(err, gotpm.TPMRCFailure, gotpm.TPMRCBadAuth, gotpm.TPMRCHierarchy) {
			return nil, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, fmt.Errorf("the TPM makes no endorsement key of any known kind: %w", first)
}

// endorsementKey makes the EK, or finds it where it is persistent: making an RSA key takes a TPM
// seconds.
func (d *Device) endorsementKey(e *endorsement) (*object, error) {
	if e.persistent == 0 {
		return d.primary("ek", gotpm.TPMRHEndorsement, e.template)
	}
	return d.use("ek", func() (*object, error) {
		if err := d.room(); err != nil {
			return nil, err
		}
		r, err := gotpm.ReadPublic{ObjectHandle: e.persistent}.Execute(d.link)
		if err != nil {
			return nil, err
		}
		public, err := r.OutPublic.Contents()
		if err != nil {
			return nil, err
		}
		return &object{handle: e.persistent, name: r.Name, public: *public}, nil
	})
}

// drop flushes one object at once, in use or not.
func (d *Device) drop(id string) {
	for i, o := range d.loaded {
		if o.id == id {
			d.loaded = append(d.loaded[:i:i], d.loaded[i+1:]...)
			d.flush(o.handle)
			return
		}
	}
}

func kept(handle uint32, persistent []gotpm.TPMHandle) gotpm.TPMHandle {
	if !slices.Contains(persistent, gotpm.TPMHandle(handle)) {
		return 0
	}
	return gotpm.TPMHandle(handle)
}

// madeFrom reports whether a key equals its template but for the unique field.
func madeFrom(key, template gotpm.TPMTPublic) bool {
	key.Unique = template.Unique
	return bytes.Equal(gotpm.Marshal(key), gotpm.Marshal(template))
}

// uniqueOf makes a unique field from an EK nonce (EK Credential Profile B.3.2): the nonce, padded
// with zeros to the size of the key.
func uniqueOf(alg gotpm.TPMIAlgPublic, nonce []byte) (gotpm.TPMUPublicID, error) {
	size := 32
	if alg == gotpm.TPMAlgRSA {
		size = 256
	}
	if len(nonce) > size {
		return gotpm.TPMUPublicID{}, fmt.Errorf("the EK nonce in NV has %d bytes, more than its key", len(nonce))
	}
	padded := append(bytes.Clone(nonce), make([]byte, size-len(nonce))...)
	if alg == gotpm.TPMAlgRSA {
		return gotpm.NewTPMUPublicID(alg, &gotpm.TPM2BPublicKeyRSA{Buffer: padded}), nil
	}
	return gotpm.NewTPMUPublicID(alg, &gotpm.TPMSECCPoint{
		X: gotpm.TPM2BECCParameter{Buffer: padded}, Y: gotpm.TPM2BECCParameter{Buffer: make([]byte, size)}}), nil
}

// names reports whether a certificate is for a key, which is whether it contains the RSA modulus
// or the X coordinate. Searching for it instead of parsing keeps the makers' odd encodings out of
// the device; the server judges the certificate. Some TPMs drop leading zeros of a coordinate, so
// slightly fewer than 32 bytes are accepted.
func names(certificate []byte, key gotpm.TPMTPublic) bool {
	var number []byte
	if n, err := key.Unique.RSA(); err == nil {
		number = n.Buffer
	} else if p, err := key.Unique.ECC(); err == nil {
		number = p.X.Buffer
	}
	return len(number) >= 24 && bytes.Contains(certificate, number)
}
