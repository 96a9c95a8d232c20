package denylist

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// A filter is a cascade of Bloom filters (Larisch et al., "CRLite", IEEE S&P 2017): the first
// holds the denied certificates, the second the good ones that are false positives of the first,
// the third the denied ones that are false positives of the second, until there are none. As it
// is built over every certificate issued, it is right about all of them.

// Verdict is what a Filter says about a certificate.
type Verdict int

// Verdicts; the zero value is NotCovered.
const (
	// NotCovered: it was issued after the filter's horizon.
	NotCovered Verdict = iota
	Good
	Denied
)

func (v Verdict) String() string {
	switch v {
	case Good:
		return "good"
	case Denied:
		return "denied"
	}
	return "not covered"
}

// Filter says whether a certificate of an issuer is denied that had been issued and had not
// expired when the filter was made. For anything else its answer is arbitrary: verify the
// certificate's chain and dates first. The zero value covers nothing.
type Filter struct {
	Document
	authority
	// Until is its horizon: a certificate whose notBefore is later is not covered.
	Until time.Time
	// Issued is how many certificates it covers, Denied how many of them it denies.
	Issued, Denied uint32
	cascade
}

type cascade struct {
	salt   [16]byte
	levels []level
}

// level is one Bloom filter.
type level struct {
	hashes uint8
	size   uint32 // in bits
	bits   []byte // bit i is 1<<(i%8) of byte i/8
}

// Bounds of a filter. Each level has half the certificates of the one before.
const (
	maxLevels = 64
	maxHashes = 40
)

// Lookup looks up a certificate by its serial number and notBefore. It allocates nothing.
func (f *Filter) Lookup(s Serial, notBefore time.Time) Verdict {
	if notBefore.After(f.Until) {
		return NotCovered
	}
	return f.judge(s)
}

// judge returns what the last consecutive level that holds s stands for: levels 0, 2, … hold
// denied certificates.
func (c *cascade) judge(s Serial) Verdict {
	n := 0
	for n < len(c.levels) && c.levels[n].has(c.hash(n, s)) {
		n++
	}
	if n%2 == 1 {
		return Denied
	}
	return Good
}

// hash returns the two numbers that determine all positions in a level, from SHA-256 over salt,
// number of the level (one byte) and serial number.
func (c *cascade) hash(level int, s Serial) (h [2]uint64) {
	var in [len(c.salt) + 1 + wire.SerialSize]byte
	copy(in[:], c.salt[:])
	in[len(c.salt)] = byte(level)
	copy(in[len(c.salt)+1:], s[:])
	sum := sha256.Sum256(in[:])
	h[0], h[1] = binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])
	return h
}

func (l *level) position(h [2]uint64, i uint8) uint32 {
	return uint32((h[0] + uint64(i)*h[1]) % uint64(l.size)) // overflow is intended
}

func (l *level) has(h [2]uint64) bool {
	for i := range l.hashes {
		if p := l.position(h, i); l.bits[p/8]&(1<<(p%8)) == 0 {
			return false
		}
	}
	return true
}

func (l *level) add(h [2]uint64) {
	for i := range l.hashes {
		p := l.position(h, i)
		l.bits[p/8] |= 1 << (p % 8)
	}
}

// newLevel is a level for n certificates with a false-positive rate of wrong.
func newLevel(n int, wrong float64) level {
	bits := math.Log2(1 / wrong)
	size := uint32(max(8, math.Ceil(float64(n)*bits/math.Ln2)))
	return level{hashes: uint8(max(1, math.Round(bits))), size: size, bits: make([]byte, (size+7)/8)}
}

// build makes the cascade that separates denied from good.
func build(denied, good []Serial) (c cascade, err error) {
	rand.Read(c.salt[:])
	// CRLite §IV-B: the first level's rate that makes the whole smallest.
	wrong := min(0.5, float64(len(denied))/(math.Sqrt2*float64(len(good)+1)))
	for in, out := denied, good; len(in) > 0; wrong = 0.5 {
		if len(c.levels) == maxLevels {
			return c, errors.New("the filter does not come to an end: is a certificate both good and denied?")
		}
		l, n := newLevel(len(in), max(wrong, 1e-9)), len(c.levels)
		for _, s := range in {
			l.add(c.hash(n, s))
		}
		var mistaken []Serial
		for _, s := range out {
			if l.has(c.hash(n, s)) {
				mistaken = append(mistaken, s)
			}
		}
		c.levels = append(c.levels, l)
		in, out = mistaken, in
	}
	return c, nil
}

// SealFilter makes and signs a filter over the certificates denied and good, which must be
// disjoint. Its body:
//
//	until                     8 bytes, seconds since 1970
//	issued, denied            4 bytes each
//	salt                      16 bytes
//	levels                    1 byte; each:
//	    hashes                1 byte
//	    size in bits          4 bytes
//	    bits                  as many bytes as they need
func SealFilter(s Seal, d Document, until time.Time, denied, good []Serial) ([]byte, error) {
	c, err := build(denied, good)
	if err != nil {
		return nil, err
	}
	body := binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
	body = binary.BigEndian.AppendUint32(body, uint32(len(denied)+len(good)))
	body = binary.BigEndian.AppendUint32(body, uint32(len(denied)))
	body = append(append(body, c.salt[:]...), byte(len(c.levels)))
	for _, l := range c.levels {
		body = binary.BigEndian.AppendUint32(append(body, l.hashes), l.size)
		body = append(body, l.bits...)
	}
	return s.seal(filterContext, d, body)
}

// OpenFilter verifies a filter, which then refers to data. The caller must decide by Number,
// Until and NextUpdate whether it is recent enough.
func OpenFilter(data []byte, roots *x509.CertPool, at time.Time) (*Filter, error) {
	d, by, body, err := open(filterContext, data, roots, at)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	f := &Filter{Document: d, authority: by}
	if err := f.read(body); err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	return f, nil
}

func (f *Filter) read(body []byte) error {
	r := fields{body}
	f.Until = time.Unix(int64(r.number(8)), 0).UTC()
	f.Issued, f.Denied = uint32(r.number(4)), uint32(r.number(4))
	copy(f.salt[:], r.take(len(f.salt)))
	levels := int(r.number(1))
	if levels > maxLevels || f.Denied > f.Issued {
		return fmt.Errorf("%w: %d levels, %d of %d denied", ErrNotDocument, levels, f.Denied, f.Issued)
	}
	for range levels {
		l := level{hashes: uint8(r.number(1)), size: uint32(r.number(4))}
		l.bits = r.take(int((uint64(l.size) + 7) / 8))
		if r.left == nil || l.size == 0 || l.hashes == 0 || l.hashes > maxHashes || l.size%8 != 0 && l.bits[len(l.bits)-1]>>(l.size%8) != 0 {
			return fmt.Errorf("%w: a level of %d hashes and %d bits", ErrNotDocument, l.hashes, l.size)
		}
		f.levels = append(f.levels, l)
	}
	if r.left == nil || len(r.left) > 0 {
		return fmt.Errorf("%w: it is cut short, or something follows it", ErrNotDocument)
	}
	return nil
}
