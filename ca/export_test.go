package ca

import (
	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3/lint"
)

// LintNothingPasses gives the authority a rule that every certificate breaks.
func (a *Authority) LintNothingPasses() {
	a.lints = &linter{rules: []rule{{CertificateLint: &lint.CertificateLint{LintMetadata: lint.LintMetadata{Name: "e_never"}}, body: never{}}}}
}

type never struct{}

func (never) CheckApplies(*x509.Certificate) bool { return true }
func (never) Execute(*x509.Certificate) *lint.LintResult {
	return &lint.LintResult{Status: lint.Error}
}
