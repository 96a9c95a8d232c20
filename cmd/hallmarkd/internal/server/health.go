package server

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// old is the age of a CRL at which something is wrong: it is signed every hour.
const old = 2 * time.Hour

// glance is how long the record may take to be read.
const glance = 2 * time.Second

// health answers whoever restarts or replaces a server that does not serve: 200, or 503 with
// what is wrong.
func (h *house) health(store record.Store) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer := struct {
			Status   string   `json:"status"`
			Problems []string `json:"problems,omitempty"`
		}{Status: "ok"}
		ctx, cancel := context.WithTimeout(r.Context(), glance)
		defer cancel()
		if _, err := store.LastChange(ctx); err != nil {
			answer.Problems = append(answer.Problems, "the record cannot be read: "+err.Error())
		}
		if a := age(h.status); a > old {
			answer.Problems = append(answer.Problems, "the oldest CRL was signed "+a.Round(time.Minute).String()+" ago")
		}
		w.Header().Set("Content-Type", "application/json")
		if len(answer.Problems) > 0 {
			answer.Status = "failing"
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(answer)
	}
}
