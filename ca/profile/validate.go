package profile

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The alphabets of names. MODEL:SERIAL is at most 64 characters, the bound of
// commonName and serialNumber (RFC 5280 appendix A.1, ub-common-name, ub-serial-number).
var (
	modelName     = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,22}$`)
	serialName    = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,40}$`)
	aliasName     = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	principalName = regexp.MustCompile(`^[a-z0-9._-]{1,32}$`)
	codeText      = regexp.MustCompile(`^[A-Za-z0-9-]{8,64}$`)
	dnsLabel      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

const (
	maxNames = 32  // DNS names and IPs of a server certificate
	maxText  = 64  // commonName and organizationName (RFC 5280 appendix A.1)
	maxDNS   = 253 // characters of a DNS name (RFC 1035 §2.3.4)
)

// Validate says why no certificate of this kind may have this content; nil if one may.
func (c Content) Validate(k Kind) error {
	s, ok := specs[k]
	if !ok {
		return fmt.Errorf("there is no certificate profile %q", k)
	}
	if err := c.validate(s); err != nil {
		return fmt.Errorf("%s certificate: %w", k, err)
	}
	return nil
}

func (c Content) validate(s spec) error {
	if err := checkKey(c.Key, s.acceptsRSA); err != nil {
		return err
	}
	switch {
	case s.takes.device && !modelName.MatchString(c.Model):
		return fmt.Errorf("model %q: 1 to 23 of a-z, 0-9 and -, not beginning with -", c.Model)
	case s.takes.device && !serialName.MatchString(c.Serial):
		return fmt.Errorf("serial number %q: 1 to 40 of A-Z, a-z, 0-9 and . _ : -", c.Serial)
	case s.takes.principal && !principalName.MatchString(c.Principal):
		return fmt.Errorf("name %q: 1 to 32 of a-z, 0-9 and . _ -", c.Principal)
	case c.CommonName != "" && (!s.takes.alias || !aliasName.MatchString(c.CommonName)):
		return fmt.Errorf("name %q: only an LDevID may have one of its own: 1 to 64 of A-Z, a-z, 0-9 and . _ -", c.CommonName)
	case !s.takes.device && (c.Model != "" || c.Serial != ""), !s.takes.tpm && c.TPM != nil,
		!s.takes.principal && c.Principal != "", !s.takes.code && c.Code != "", !s.takes.names && len(c.DNSNames)+len(c.IPs) > 0:
		return errors.New("it has content that the profile does not take")
	case s.takes.device && len(c.IPs) > 0:
		return errors.New("it takes only DNS names, since a device's address may change")
	case s.longest == 0 && c.Lifetime != 0:
		return errors.New("it has no end; a lifetime cannot be set")
	case s.longest != 0 && (c.Lifetime < time.Second || c.Lifetime > s.longest): // both ends are included
		return fmt.Errorf("lifetime %v: at least a second, at most %v", c.Lifetime, s.longest)
	}
	if s.takes.code {
		return CheckCode(c.Code)
	}
	if s.takes.names {
		return checkNames(c.DNSNames, c.IPs)
	}
	if c.TPM != nil {
		return c.TPM.validate()
	}
	return nil
}

func (t *TPM) validate() error {
	switch {
	case t.Maker != "" && len(t.EKCertificate) == 0:
		return errors.New("the TPM is said to have a maker but there is no EK certificate")
	case t.EKFingerprint == [32]byte{}:
		return errors.New("the TPM has no EK fingerprint")
	case len(t.Maker) > 8 || strings.ContainsFunc(t.Maker, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }):
		return fmt.Errorf("TPM maker %q is not a TCG vendor ID: four characters, or eight hex digits", t.Maker)
	}
	return nil
}

// KeyAlgorithm is the key's algorithm as the record and its selectors name it: "ecdsa-p256",
// "rsa-2048"; empty for other kinds of key.
func KeyAlgorithm(key crypto.PublicKey) string {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return "ecdsa-" + strings.ToLower(strings.ReplaceAll(k.Curve.Params().Name, "-", ""))
	case *rsa.PublicKey:
		return "rsa-" + strconv.Itoa(k.N.BitLen())
	}
	return ""
}

// checkKey accepts P-256, P-384 and, for keys in TPMs, RSA of 2048 to 4096 bits. Subtler
// weaknesses (ROCA) are found by the attestation verifier.
func checkKey(key crypto.PublicKey, acceptsRSA bool) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return errors.New("key: the curve must be P-256 or P-384")
		}
		if _, err := k.ECDH(); err != nil { // also refuses the point at infinity
			return errors.New("key: the point is not on its curve")
		}
		return nil
	case *rsa.PublicKey:
		if !acceptsRSA {
			return errors.New("key: this profile takes P-256 or P-384 only")
		}
		if n := k.N.BitLen(); n < 2048 || n > 4096 || k.E != 65537 {
			return fmt.Errorf("key: RSA must have 2048 to 4096 bits and exponent 65537, this has %d and %d", n, k.E)
		}
		return nil
	}
	return fmt.Errorf("key: type %T is not supported", key)
}

func checkNames(dns []string, ips []net.IP) error {
	if n := len(dns) + len(ips); n == 0 || n > maxNames {
		return fmt.Errorf("it needs 1 to %d DNS names and IP addresses, has %d", maxNames, n)
	}
	for _, name := range dns {
		if len(name) > maxDNS {
			return fmt.Errorf("DNS name of %d characters is too long", len(name))
		}
		for label := range strings.SplitSeq(name, ".") {
			if !dnsLabel.MatchString(label) {
				return fmt.Errorf("DNS name %q: lower-case letters, digits and inner hyphens between dots; no wildcards", name)
			}
		}
		if net.ParseIP(name) != nil {
			return fmt.Errorf("%q is an IP address, not a DNS name", name)
		}
	}
	for _, ip := range ips {
		if ip.To16() == nil || ip.IsUnspecified() {
			return fmt.Errorf("IP address %q cannot be certified", ip)
		}
	}
	return nil
}

// CheckCode says why a text cannot be the code of a Proof; nil if it can.
func CheckCode(code string) error {
	if !codeText.MatchString(code) {
		return fmt.Errorf("code %q: 8 to 64 letters, digits and -", code)
	}
	return nil
}

// CheckOrganisation says why a name cannot be organizationName in certificates; nil if it can.
func CheckOrganisation(name string) error {
	switch {
	case strings.TrimSpace(name) != name || name == "":
		return errors.New("the organisation's name is empty or begins or ends with a blank")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("the organisation's name must be UTF-8 text without control characters")
	case utf8.RuneCountInString(name) > maxText:
		return fmt.Errorf("the organisation's name has more than %d characters (RFC 5280 ub-organization-name)", maxText)
	}
	return nil
}
