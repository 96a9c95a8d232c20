package denylist

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"testing"
	"time"
)

// docs/vectors.json was made by a reader that was written from docs/status.md.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("../../docs/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Status struct {
			Root, Denylist, Filter []byte
			Denied                 []struct {
				Serial        string
				Since, Reason int64
			}
			Good []string
		}
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(v.Status.Root)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	// The documents are as old as their root, to a day.
	at := root.NotBefore.AddDate(0, 0, 1)
	list, err := OpenList(v.Status.Denylist, roots, at)
	if err != nil {
		t.Fatal(err)
	}
	filter, err := OpenFilter(v.Status.Filter, roots, at)
	if err != nil {
		t.Fatal(err)
	}
	if list.Len() != len(v.Status.Denied) || list.Len() == 0 {
		t.Errorf("%d denied", list.Len())
	}
	for _, d := range v.Status.Denied {
		s, err := ParseSerial(d.Serial)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := list.Lookup(s); !ok || got.Since.Unix() != d.Since || int64(got.Reason) != d.Reason || filter.Lookup(s, time.Time{}) != Denied {
			t.Errorf("%s: %+v, %v by the filter", d.Serial, got, filter.Lookup(s, time.Time{}))
		}
	}
	for _, text := range v.Status.Good {
		s, err := ParseSerial(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := list.Lookup(s); ok || filter.Lookup(s, time.Time{}) != Good {
			t.Errorf("%s: denied", text)
		}
	}
}
