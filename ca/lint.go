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

// linter runs zlint's rules from the RFCs and its community over a certificate. The rules for the
// public web (CA/Browser Forum, Apple, Mozilla) contradict the needs of device identity and are
// not loaded.
type linter struct{ rules []rule }

// rule is one of zlint's, instantiated once and not for each certificate: none keeps state.
type rule struct {
	*lint.CertificateLint
	body  lint.CertificateLintInterface
	about string // the extension without which it does not apply; empty: it may always apply
}

// about tells by their names which rules are about one extension. Each begins by searching for
// it, and searching in vain was half the cost of linting.
var about = map[string]*regexp.Regexp{
	"2.5.29.9":           regexp.MustCompile(`subject_directory_attr`),
	"2.5.29.17":          regexp.MustCompile(`_san_(?:dns|empty|no_entries|rfc822|space|uri)`),
	"2.5.29.18":          regexp.MustCompile(`_ian_`),
	"2.5.29.30":          regexp.MustCompile(`name_constraint`),
	"2.5.29.33":          regexp.MustCompile(`policy_map`),
	"2.5.29.36":          regexp.MustCompile(`policy_constraints`),
	"2.5.29.46":          regexp.MustCompile(`freshest_crl`),
	"2.5.29.54":          regexp.MustCompile(`inhibit_any_policy`),
	"1.3.6.1.5.5.7.1.11": regexp.MustCompile(`subject_info_access`),
}

// accepted lists the rules that a profile may break, and why.
var accepted = map[string]map[string]string{
	string(profile.IDevID): unprintable,
	string(profile.AK):     unprintable,
	string(profile.Server): {
		"n_san_iana_pub_suffix_empty": "factories have servers named localhost, and networks of their own have names that the public suffix list does not know",
	},
}

var unprintable = map[string]string{
	"e_subject_dn_serial_number_not_printable_string": "products have serial numbers with underscores, which PrintableString lacks and X.520 forgot; a UTF8String is read by all but Erlang, to which no IDevID is shown",
}

// elsewhere lists two rules whose question is settled elsewhere and which take longer than all
// others together: the first verifies the signature with stolen keys of a web CA, but our own
// issuer has yet to make it; the second solves small discrete logarithms, but a TPM is known to
// have made the key.
var elsewhere = []string{"e_cert_issued_by_compromised_emudhra_ca", "e_ecdsa_small_private_key"}

func newLinter() (*linter, error) {
	r, err := lint.GlobalRegistry().Filter(lint.FilterOptions{
		IncludeSources: lint.SourceList{lint.RFC5280, lint.RFC5480, lint.RFC8813, lint.Community},
		ExcludeNames:   elsewhere,
	})
	if err != nil {
		return nil, fmt.Errorf("zlint: %w", err)
	}
	l := &linter{}
	for _, c := range r.CertificateLints().Lints() {
		body := c.Lint()
		if err := r.GetConfiguration().MaybeConfigure(body, c.Name); err != nil {
			return nil, fmt.Errorf("zlint %s: %w", c.Name, err)
		}
		made := rule{CertificateLint: c, body: body}
		for extension, names := range about {
			if names.MatchString(c.Name) {
				made.about = extension
			}
		}
		l.rules = append(l.rules, made)
	}
	return l, nil
}

// check lints a certificate except for its signature; name is its profile, or "root" or "issuer".
func (l *linter) check(name string, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("zlint cannot read it: %w", err)
	}
	for _, r := range l.rules {
		if _, ok := cert.ExtensionsMap[r.about]; r.about != "" && !ok {
			continue
		}
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

// look is CertificateLint.Execute without instantiating the rule.
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
