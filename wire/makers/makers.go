// Package makers holds the messages about TPM makers in the operator protocol.
package makers

import (
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Paths, like wire.PathWhoami and the others.
const (
	PathVendorCA = "/v1/vendorca" // GET: List[Authority]; POST NewAuthorities: List[Authority]; DELETE /FINGERPRINT: Authority
	PathTPMs     = "/v1/tpms"     // GET: List[EKType]; POST NewEKType: EKType
)

// Authority is a TPM maker's CA certificate.
type Authority struct {
	// Fingerprint is the hex SHA-256 of the certificate.
	Fingerprint string    `json:"fingerprint"`
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	NotAfter    time.Time `json:"not_after"`
	Added       time.Time `json:"added"`
	AddedBy     string    `json:"added_by"`
	// New is true only in the answer to the import that added it.
	New bool `json:"new,omitempty"`
}

// NewAuthorities imports CA certificates (DER), all or none; existing ones stay as they are.
type NewAuthorities struct {
	Certificates wire.Chain `json:"certificates"`
}

// EKType says which type of endorsement key is accepted of one make and model of certified TPM.
type EKType struct {
	Maker string `json:"maker"`
	Model string `json:"model"`
	// Type is the key's algorithm and size: "P-256", "RSA-2048".
	Type  string    `json:"type"`
	Since time.Time `json:"since"`
	// Device is the ID of the first such device; empty if AllowedBy decided.
	Device    string `json:"device,omitempty"`
	AllowedBy string `json:"allowed_by,omitempty"`
}

// NewEKType accepts a further type of endorsement key of a make and model.
type NewEKType struct {
	Maker string `json:"maker"`
	Model string `json:"model"`
	Type  string `json:"type"`
}
