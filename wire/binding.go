package wire

import (
	"crypto/sha256"
	"encoding/binary"
)

// ExporterLabel is RFC 9266's label of the tls-exporter channel binding: 32 bytes,
// empty context.
const ExporterLabel = "EXPORTER-Channel-Binding"

// ExporterLength is the length of the exported value (RFC 9266 §2).
const ExporterLength = 32

// Binding is what evidence is made for. Its Sum is the extraData of TPM2_Certify, so that
// evidence is worthless on another connection, to another server, for another message or with
// another client certificate.
type Binding struct {
	// Label is one of the Label constants.
	Label string
	// Exporter is the TLS exporter value; empty in nonce mode.
	Exporter []byte
	// Nonce is the server's nonce; empty unless in nonce mode.
	Nonce []byte
	// Client is the client certificate shown (DER), nil if none.
	Client []byte
	// Message is Envelope.Message, byte for byte.
	Message []byte
}

// Sum is SHA-256 over the length-prefixed parts (big-endian uint32 lengths):
// protocol, version, label, exporter, nonce, SHA-256 of the client certificate or
// nothing, SHA-256 of the message.
func (b Binding) Sum() [32]byte {
	message := sha256.Sum256(b.Message)
	var client []byte
	if b.Client != nil {
		sum := sha256.Sum256(b.Client)
		client = sum[:]
	}
	return digest([]byte(Protocol), []byte(Version), []byte(b.Label), b.Exporter, b.Nonce, client, message[:])
}

// TimeMessage is the digest that a time key signs, over the nonce and the seconds.
func TimeMessage(nonce []byte, unix int64) [32]byte {
	return digest([]byte(Protocol), []byte(Version), []byte("time"), nonce, binary.BigEndian.AppendUint64(nil, uint64(unix)))
}

func digest(parts ...[]byte) [32]byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}
