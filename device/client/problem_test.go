package client

import (
	"testing"

	"github.com/hallmark-pki/hallmark/wire"
)

// Whoever asks the operators' listener is told what is wrong.
func TestProblemOfAnotherListener(t *testing.T) {
	if p := problem(404, wire.ProblemType, []byte(`{"code":"not-found","detail":"there is no POST /v1/enrol"}`)); p.Hint != elsewhereHint {
		t.Fatalf("%+v", p)
	}
}

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
