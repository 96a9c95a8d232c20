package client

import (
	"testing"

	"github.com/hallmark-pki/hallmark/wire"
)

// Whatever a stranger answers, the technician gets a code and a sentence.
func FuzzProblem(f *testing.F) {
	f.Add(403, wire.ProblemType, []byte(`{"status":403,"code":"quota-full","detail":"the lot is full"}`))
	f.Add(502, "text/html", []byte("<html>"))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		if p := problem(status, contentType, body); p.Status != status || p.Code == "" || p.Detail == "" || p.Error() == "" {
			t.Fatalf("%+v", p)
		}
	})
}
