package wire

import "time"

// Bundle is what a device is told to trust, numbered so that it never goes back.
type Bundle struct {
	Number  int64     `json:"number"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	// Infrastructure, Operational and Manufacturing are the roots (DER).
	Infrastructure [][]byte `json:"infrastructure"`
	Operational    [][]byte `json:"operational"`
	Manufacturing  [][]byte `json:"manufacturing"`
	// TimeKeys are SubjectPublicKeyInfo (DER) of the keys that may sign the time.
	TimeKeys [][]byte `json:"time_keys"`
	// Servers are the https URLs of the device listener, best first.
	Servers []string `json:"servers"`
	// NonceMode says that a proxy ends TLS: bindings use a server nonce. A device
	// remembers it and cannot be talked into or out of it by the connection.
	NonceMode bool `json:"nonce_mode,omitempty"`
}

// SignedBundle is a Bundle's exact JSON with signatures by infrastructure roots.
type SignedBundle struct {
	Bundle     []byte            `json:"bundle"`
	Signatures []BundleSignature `json:"signatures"`
}

// BundleSignature is ASN.1 ECDSA over SHA-256 of the string "hallmark-trust-1" and
// the bundle's bytes.
type BundleSignature struct {
	// Root is the hex SHA-256 of the signing root certificate (DER).
	Root      string `json:"root"`
	Signature []byte `json:"signature"`
}

// BundleContext precedes the bundle in what is signed.
const BundleContext = "hallmark-trust-1"
