package native_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// TestSubject: a model's template names its devices in working certificates, from their
// next renewal on, and in nothing else.
func TestSubject(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	if _, err := u.Renew(u.IDevID); err != nil {
		t.Fatal(err)
	}
	if got := name(t, u.LDevID); got != "default:SN-1" {
		t.Errorf("without a template: %s", got)
	}
	m, err := i.store.Model(t.Context(), record.DefaultModel)
	if err != nil {
		t.Fatal(err)
	}
	m.Subject = "acme-{serial}"
	if err := i.store.SetModel(t.Context(), m.Name, func(have *record.Model) (record.Event, error) {
		*have = m
		return record.Event{Time: time.Now(), Actor: "test", Verb: "model.changed"}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Renew(u.LDevID); err != nil {
		t.Fatal(err)
	}
	if got := name(t, u.LDevID); got != "acme-SN-1" {
		t.Errorf("with a template: %s", got)
	}
	if got := name(t, u.IDevID); got != "default" {
		t.Errorf("the birth certificate: %s", got)
	}
}

func name(t *testing.T, c tls.Certificate) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.Subject.CommonName
}
