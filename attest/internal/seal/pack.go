package seal

import (
	"encoding/binary"
	"errors"
)

// pack lists the fields of Facts as they travel sealed: one list for both directions, so that
// they cannot disagree. Lengths and numbers are varints. A device sends and receives this over
// the air, and JSON would be two thirds longer.
func (f *Facts) pack(p *packer) {
	chip := f.TPM != nil
	p.text(&f.Kind)
	p.bytes(&f.Key)
	p.sum(&f.Binding)
	p.bytes(&f.Birth)
	p.flag(&chip)
	if !chip {
		return
	}
	if f.TPM == nil {
		f.TPM = &TPM{}
	}
	t := f.TPM
	p.bytes(&t.EKPublic)
	p.bytes(&t.EKName)
	p.sum(&t.EKFingerprint)
	p.text(&t.EKType)
	p.bytes(&t.EKCertificate)
	p.text(&t.EKIssuer)
	p.flag(&t.Certified)
	p.text(&t.Uncertified)
	p.text(&t.Maker)
	p.text(&t.Model)
	p.bytes(&t.AKPublic)
	p.bytes(&t.AKName)
	p.bytes(&t.AKKey)
	p.number(&t.Firmware)
}

// packer appends fields to b or, when reading, takes them from its front.
type packer struct {
	b       []byte
	reading bool
	bad     bool // the input was malformed
}

var errPacked = errors.New("attest: sealed evidence is of another version")

func unpack(b []byte) (f Facts, err error) {
	p := packer{b: b, reading: true}
	f.pack(&p)
	if p.bad || len(p.b) > 0 {
		return Facts{}, errPacked
	}
	return f, nil
}

func (p *packer) number(v *uint64) {
	if !p.reading {
		p.b = binary.AppendUvarint(p.b, *v)
		return
	}
	n := 0
	if *v, n = binary.Uvarint(p.b); n <= 0 {
		p.bad, n = true, 0
	}
	p.b = p.b[n:]
}

func (p *packer) flag(v *bool) {
	var n uint64
	if *v {
		n = 1
	}
	if p.number(&n); p.reading {
		*v = n == 1
	}
}

func (p *packer) text(v *string) {
	if b := p.take(len(*v)); p.reading {
		*v = string(b)
	} else {
		p.b = append(p.b, *v...)
	}
}

func (p *packer) bytes(v *[]byte) {
	if b := p.take(len(*v)); p.reading {
		*v = b
	} else {
		p.b = append(p.b, *v...)
	}
}

func (p *packer) sum(v *[32]byte) {
	if b := p.take(len(v)); p.reading {
		p.bad = p.bad || copy(v[:], b) != len(v)
	} else {
		p.b = append(p.b, v[:]...)
	}
}

// take writes a length or, when reading, reads one and takes that many bytes; nil for zero.
func (p *packer) take(length int) (b []byte) {
	n := uint64(length)
	p.number(&n)
	switch {
	case !p.reading || n == 0:
		return nil
	case n > uint64(len(p.b)):
		p.bad = true
		return nil
	}
	b, p.b = p.b[:n:n], p.b[n:]
	return b
}
