package ca

import (
	"fmt"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3/lint"
	_ "github.com/zmap/zlint/v3/lints/community" // register their rules
	_ "github.com/zmap/zlint/v3/lints/rfc"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// linter runs zlint's rules from the RFCs and its community over a certificate. The
// rules for the public web (CA/Browser Forum, Apple, Mozilla) say the opposite of what
// device identity needs and are not loaded.
// Measured: 139 rules and zlint's own parser take about 0.1 ms for a P-256 key and 0.5 ms
// for RSA, whose factors are tried.
type linter struct {
	rules  []*lint.CertificateLint
	config lint.Configuration
}

// accepted names the rules that a profile may break, and why.
var accepted = map[string]map[string]string{
	string(profile.IDevID): unprintable,
	string(profile.AK):     unprintable,
	string(profile.Server): {
		"n_san_iana_pub_suffix_empty": "factories have servers named localhost, and networks of their own have names that the public suffix list does not know",
	},
}

var unprintable = map[string]string{
	"e_subject_dn_serial_number_not_printable_string": "products have serial numbers with underscores, which PrintableString lacks and X.520 forgot; a UTF8String is read by all",
}

func newLinter() (*linter, error) {
	r, err := lint.GlobalRegistry().Filter(lint.FilterOptions{
		IncludeSources: lint.SourceList{lint.RFC5280, lint.RFC5480, lint.RFC8813, lint.Community},
	})
	if err != nil {
		return nil, fmt.Errorf("zlint: %w", err)
	}
	return &linter{r.CertificateLints().Lints(), r.GetConfiguration()}, nil
}

// check lints a certificate; name is its profile, or "root" or "issuer".
func (l *linter) check(name string, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("zlint cannot read it: %w", err)
	}
	for _, rule := range l.rules {
		found := rule.Execute(cert, l.config)
		if found.Status <= lint.Pass {
			continue
		}
		if _, ok := accepted[name][rule.Name]; !ok {
			return fmt.Errorf("zlint %s: %s: %s %s (%s)", found.Status, rule.Name, rule.Description, found.Details, rule.Citation)
		}
	}
	return nil
}
