package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Handler serves wire.PathTrust and wire.PathTime. Both are for devices that know
// nothing yet, so neither asks for a client certificate.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.PathTrust, s.serveBundle)
	mux.HandleFunc("POST "+wire.PathTime, s.serveTime)
	return mux
}

func (s *Service) serveBundle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", `"`+fingerprint(s.answer)[:32]+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.answer))
}

func (s *Service) serveTime(w http.ResponseWriter, r *http.Request) {
	var q wire.TimeRequest
	if err := wire.Decode(r.Body, 1<<10, &q); err != nil {
		problem(w, http.StatusBadRequest, wire.CodeMalformed, err.Error())
		return
	}
	answer, err := s.Time(q.Nonce)
	switch {
	case errors.Is(err, ErrNonce):
		problem(w, http.StatusBadRequest, wire.CodeMalformed, err.Error())
	case err != nil:
		problem(w, http.StatusInternalServerError, wire.CodeInternal, "the time cannot be signed now")
	default:
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(answer)
	}
}

func problem(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", wire.ProblemType)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(wire.Problem{Status: status, Code: code, Detail: detail})
}
