// Package archtest holds the house rules of the module as tests, each with the reason
// for it: who may import whom, which third party enters by which door, what the
// device's binary may link, and how large a package may grow. `go test
// ./internal/archtest` names the line that breaks a rule and why the rule is there.
package archtest
