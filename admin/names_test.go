package admin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// Whatever name is accepted here must fit a certificate later.
func TestNamesFitCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"", "a", "A", "a-1", "-a", "a.b", "_a", "a b", "ä", "a\n", strings.Repeat("a", 23), strings.Repeat("a", 24), strings.Repeat("a", 32), strings.Repeat("a", 33)}
	accepted := 0
	for _, name := range names {
		device := profile.Content{Key: key.Public(), Model: name, Serial: strings.Repeat("1", 40), Lifetime: time.Hour}
		if fits := device.Validate(profile.LDevID) == nil; modelName.MatchString(name) != fits {
			t.Errorf("model %q: fits a certificate %v", name, fits)
		}
		operator := profile.Content{Key: key.Public(), Principal: name, Lifetime: time.Hour}
		if operatorName.MatchString(name) {
			accepted++
			if err := operator.Validate(profile.Operator); err != nil {
				t.Errorf("operator %q: %v", name, err)
			}
		}
	}
	if accepted != 6 {
		t.Errorf("%d names accepted", accepted)
	}
}
