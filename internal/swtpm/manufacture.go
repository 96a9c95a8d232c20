package swtpm

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// NV indices of the TCG EK Credential Profile, low range.
const (
	indexRSA          = 0x01C00002
	indexP256         = 0x01C0000A
	indexIntermediate = 0x01C00100
)

// Options says what a maker puts into a chip. The zero value is a chip with one P-256
// EK certificate.
type Options struct {
	// RSA and P256 choose the EKs that get a certificate; neither means P256.
	RSA, P256 bool
	// Pad is the number of zero bytes behind each certificate in NV, as some makers leave.
	Pad int
	// IntermediateInNV also writes the intermediate, as Intel's chips carry theirs.
	IntermediateInNV bool
	// VendorID, Model and Version are the TCG attributes in the certificate; empty means
	// testVendor, "swtpm" and "id:00010002".
	VendorID, Model, Version string
	// Edit changes the template of each EK certificate before it is signed; nil leaves it.
	Edit func(*x509.Certificate)
}

// Manufacture makes the chip's endorsement keys from the TCG templates and writes
// their certificates, signed by the maker, to NV.
func (m *Maker) Manufacture(t *TPM, o Options) error {
	if !o.RSA && !o.P256 {
		o.P256 = true
	}
	o.VendorID, o.Model, o.Version = cmp.Or(o.VendorID, testVendor), cmp.Or(o.Model, "swtpm"), cmp.Or(o.Version, "id:00010002")
	chip, err := t.Open()
	if err != nil {
		return err
	}
	defer chip.Close()
	for _, ek := range []struct {
		wanted   bool
		index    tpm2.TPMHandle
		template tpm2.TPMTPublic
	}{
		{o.RSA, indexRSA, tpm2.RSAEKTemplate},
		{o.P256, indexP256, tpm2.ECCEKTemplate},
	} {
		if !ek.wanted {
			continue
		}
		key, err := primary(chip, ek.template)
		if err != nil {
			return err
		}
		der, err := m.certify(key, o)
		if err != nil {
			return err
		}
		if err := writeNV(chip, ek.index, append(der, make([]byte, o.Pad)...)); err != nil {
			return err
		}
	}
	if o.IntermediateInNV {
		if err := writeNV(chip, indexIntermediate, m.Intermediate.Raw); err != nil {
			return err
		}
	}
	// Without it the next start counts as a power cut.
	if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}).Execute(chip); err != nil {
		return fmt.Errorf("swtpm: shutting down after manufacture: %w", err)
	}
	return t.Restart()
}

// primary makes an endorsement key and returns its public half.
func primary(chip transport.TPM, template tpm2.TPMTPublic) (crypto.PublicKey, error) {
	key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(chip)
	if err != nil {
		return nil, fmt.Errorf("swtpm: making an EK: %w", err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: key.ObjectHandle}).Execute(chip); err != nil {
		return nil, fmt.Errorf("swtpm: flushing an EK: %w", err)
	}
	public, err := key.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	return tpm2.Pub(*public)
}

// writeNV makes an index as a maker does: readable by all, writable by the platform alone.
func writeNV(chip transport.TPM, index tpm2.TPMHandle, data []byte) error {
	platform := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	space := tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
		Attributes: tpm2.TPMANV{PPWrite: true, WriteDefine: true, PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true, PlatformCreate: true},
	}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: platform, PublicInfo: tpm2.New2B(space)}).Execute(chip); err != nil {
		return fmt.Errorf("swtpm: defining NV %#x: %w", uint32(index), err)
	}
	const chunk = 512 // at most TPM_PT_NV_BUFFER_MAX of every known TPM
	for offset := 0; offset < len(data); offset += chunk {
		// Read again for each write: the first one changes the index's Name.
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(chip)
		if err != nil {
			return fmt.Errorf("swtpm: NV %#x: %w", uint32(index), err)
		}
		if _, err := (tpm2.NVWrite{
			AuthHandle: platform,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[offset:min(offset+chunk, len(data))]},
			Offset:     uint16(offset),
		}).Execute(chip); err != nil {
			return fmt.Errorf("swtpm: writing NV %#x: %w", uint32(index), err)
		}
	}
	return nil
}
