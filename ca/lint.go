package ca

import (
	"fmt"
	"regexp"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3/lint"
	_ "github.com/zmap/zlint/v3/lints/community" // register their rules
	_ "github.com/zmap/zlint/v3/lints/rfc"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// linter runs zlint's rules from the RFCs and its community over a certificate. The
// rules for the public web (CA/Browser Forum, Apple, Mozilla) say the opposite of what
// device identity needs and are not loaded.
type linter struct{ rules []rule }

// rule is one of zlint's, made once and not for each certificate: none keeps anything.
type rule struct {
	*lint.CertificateLint
	body lint.CertificateLintInterface
}

// absent are the names of rules about extensions that no profile has: issuerAltName, name
// and policy constraints, policy mappings, freshestCRL, inhibitAnyPolicy,
// subjectInfoAccess, subjectDirectoryAttributes, and those of Certificate Transparency.
// What is linted has passed the profile's own check, which refuses them all; zlint would
// look for each again and again, and find it absent, in a third of its time.
var absent = regexp.MustCompile(`_ian_|name_constraint|policy_constraints|policy_map|freshest_crl|inhibit_any_policy|subject_info_access|subject_directory_attr|sct_list`)

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
	l := &linter{}
	for _, c := range r.CertificateLints().Lints() {
		if absent.MatchString(c.Name) {
			continue
		}
		body := c.Lint()
		if err := r.GetConfiguration().MaybeConfigure(body, c.Name); err != nil {
			return nil, fmt.Errorf("zlint %s: %w", c.Name, err)
		}
		l.rules = append(l.rules, rule{c, body})
	}
	return l, nil
}

// check lints a certificate that has passed its profile's own check; name is its
// profile, or "root" or "issuer".
func (l *linter) check(name string, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("zlint cannot read it: %w", err)
	}
	for _, r := range l.rules {
		found := r.look(cert)
		if found.Status <= lint.Pass {
			continue
		}
		if _, ok := accepted[name][r.Name]; !ok {
			return fmt.Errorf("zlint %s: %s: %s %s (%s)", found.Status, r.Name, r.Description, found.Details, r.Citation)
		}
	}
	return nil
}

// look is CertificateLint.Execute with the body at hand.
func (r rule) look(cert *x509.Certificate) (found *lint.LintResult) {
	defer func() {
		if p := recover(); p != nil {
			found = &lint.LintResult{Status: lint.Fatal, Details: fmt.Sprint(p)}
		}
	}()
	if !r.body.CheckApplies(cert) || !r.CheckEffective(cert) {
		return &notForThis
	}
	return r.body.Execute(cert)
}

var notForThis = lint.LintResult{Status: lint.NA}
