package jobs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Report is an auditor's report about a job.
type Report struct {
	// Installation is the installation's name.
	Installation string    `json:"installation"`
	Made         time.Time `json:"made"`
	Job          Job       `json:"job"`
	// Approvals are the requests and reviews about it, approved or not.
	Approvals   []Approval `json:"approvals"`
	Enforcement []Enforced `json:"enforcement"`
	// Shards are the CRLs of its devices' certificates.
	Shards []Shard `json:"shards"`
	// Devices are all of its devices in order; none if there are more than MaxReported.
	Devices []Device `json:"devices,omitempty"`
	// DevicesSHA256 is hex, over a line for every device: NAME, a blank, the outcome, a
	// blank, the time (RFC 3339, UTC, nanoseconds where there are), a line feed.
	DevicesSHA256 string `json:"devices_sha256"`
}

// MaxReported is how many devices a report lists.
const MaxReported = 100_000

// Line is a device's line in Report.DevicesSHA256.
func (d Device) Line() string {
	return d.Name + " " + d.Outcome + " " + d.At.UTC().Format(time.RFC3339Nano) + "\n"
}

// SignedReport is a Report as a JSON Web Signature in the flattened JSON serialization (RFC 7515
// §7.2.2). It is signed with ES256 by an OCSP responder of the installation's infrastructure
// issuer, whose chain is in "x5c", so that infrastructure.pem suffices to verify it.
type SignedReport struct {
	Payload   string `json:"payload"`
	Protected string `json:"protected"`
	Signature string `json:"signature"`
}

// Bounds of a signed report and of its header, in bytes.
const (
	maxReport = 64 << 20
	maxHeader = 64 << 10
)

const reportType = "hallmark-job-report+json"

// header is the protected header (RFC 7515 §4.1); x5c holds standard base64 (§4.1.6).
type header struct {
	Algorithm string   `json:"alg"`
	Type      string   `json:"typ"`
	Chain     [][]byte `json:"x5c"`
}

var base64url = base64.RawURLEncoding

// SignReport signs with the key of the first certificate.
func SignReport(r Report, chain []*x509.Certificate, key crypto.Signer) (SignedReport, error) {
	h := header{Algorithm: "ES256", Type: reportType}
	for _, c := range chain {
		h.Chain = append(h.Chain, c.Raw)
	}
	protected, err := json.Marshal(h)
	if err != nil {
		return SignedReport{}, err
	}
	payload, err := json.Marshal(r)
	if err != nil {
		return SignedReport{}, err
	}
	out := SignedReport{Payload: base64url.EncodeToString(payload), Protected: base64url.EncodeToString(protected)}
	digest := sha256.Sum256([]byte(out.Protected + "." + out.Payload))
	der, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return SignedReport{}, err
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &pair); err != nil {
		return SignedReport{}, fmt.Errorf("the signature: %w", err)
	}
	raw := make([]byte, 64) // R and S, each as long as the curve's order (RFC 7518 §3.4)
	pair.R.FillBytes(raw[:32])
	pair.S.FillBytes(raw[32:])
	out.Signature = base64url.EncodeToString(raw)
	return out, nil
}

// VerifyReport parses a SignedReport and verifies it with the roots of infrastructure.pem, as of
// the time at which it says that it was made: its signer's certificate expires soon after.
func VerifyReport(data []byte, roots *x509.CertPool) (Report, error) {
	if len(data) > maxReport {
		return Report{}, wire.ErrTooLarge
	}
	var in SignedReport
	if err := json.Unmarshal(data, &in); err != nil {
		return Report{}, fmt.Errorf("not a signed report: %w", err)
	}
	if len(in.Protected) > maxHeader {
		return Report{}, wire.ErrTooLarge
	}
	// Before its signature has held no more of it is decoded than when it was made: as "{}," again
	// and again it would be twenty times as large.
	var h header
	var when struct {
		Made time.Time `json:"made"`
	}
	signature, err := base64url.DecodeString(in.Signature)
	if err := errors.Join(err, decode(in.Protected, &h), decode(in.Payload, &when)); err != nil {
		return Report{}, fmt.Errorf("not a signed report: %w", err)
	}
	if h.Algorithm != "ES256" || h.Type != reportType || len(h.Chain) == 0 || len(signature) != 64 {
		return Report{}, errors.New("not a signed report of a job")
	}
	leaf, err := verifySigner(h.Chain, roots, when.Made)
	if err != nil {
		return Report{}, err
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	digest := sha256.Sum256([]byte(in.Protected + "." + in.Payload))
	if !ok || key.Curve != elliptic.P256() || !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return Report{}, errors.New("the signature does not hold: the report was changed")
	}
	var r Report
	if err := decode(in.Payload, &r); err != nil {
		return Report{}, fmt.Errorf("not a report: %w", err)
	}
	return r, nil
}

// verifySigner accepts only OCSP responders: operators, relays and servers have certificates
// under the same root.
func verifySigner(chain [][]byte, roots *x509.CertPool, at time.Time) (*x509.Certificate, error) {
	between := x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the signer's chain: %w", err)
		}
		if i == 0 {
			leaf = c
		} else {
			between.AddCert(c)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}})
	if err != nil {
		return nil, fmt.Errorf("the signer is not one of this installation: %w", err)
	}
	return leaf, nil
}

func decode(text string, v any) error {
	data, err := base64url.DecodeString(text)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
