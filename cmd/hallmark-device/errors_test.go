package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/wire"
)

// What cobra suggests to who mistypes a verb begins with a tab.
func TestSuggestion(t *testing.T) {
	c := command()
	c.SetArgs([]string{"needsrenewal"})
	var out bytes.Buffer
	complain(&out, c.Execute())
	if got := out.String(); !strings.Contains(got, "\n needs-renewal\n") {
		t.Fatalf("%q", got)
	}
}

// An impostor's certificate and a server's words do not steer the terminal.
func TestForeignTextIsPrintable(t *testing.T) {
	const hostile = "\x1b]0;owned\a\x1b[2J\u009b31m\u202eok"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"\x1b[2Jowned"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	impostor, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"certificate": failure{&client.TrustError{Server: "https://localhost", Err: impostor.VerifyHostname("localhost")}},
		"refusal":     failure{message(&wire.Problem{Code: hostile, Detail: hostile, Hint: hostile})},
	} {
		var out bytes.Buffer
		complain(&out, err)
		if got := out.String(); !strings.Contains(got, "owned") || strings.ContainsAny(got, "\x1b\a\u009b\u202e") {
			t.Errorf("%s: %q", name, got)
		}
	}
}
