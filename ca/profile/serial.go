package profile

import (
	"crypto/rand"
	"fmt"
	"math/big"
)

// NewSerial makes a serial number of exactly 16 bytes, 126 of whose bits are random: positive
// (RFC 5280 §4.1.2.2), below 2¹⁵⁹, unguessable, and always of one length, so that the number of
// entries determines a CRL's size.
func NewSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails since Go 1.24
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// SerialText is a serial number as the record and the commands write it: lower-case
// hex, 32 digits.
func SerialText(n *big.Int) string { return fmt.Sprintf("%032x", n) }
