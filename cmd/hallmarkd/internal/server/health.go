package server

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/record"
)

// glance is how long the record may take to be read and written.
const glance = 2 * time.Second

// health is for whatever restarts or replaces a failing server: 200, or 503 with what is
// wrong. The /healthz of the status listener speaks of its lists alone, which are served even
// without a record.
func (h *hallmark) health(store record.Store) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer := struct {
			Status   string   `json:"status"`
			Problems []string `json:"problems,omitempty"`
		}{Status: "ok"}
		ctx, cancel := context.WithTimeout(r.Context(), glance)
		defer cancel()
		if _, err := store.LastChange(ctx); err != nil {
			answer.Problems = append(answer.Problems, "the record cannot be read: "+err.Error())
		} else if err := store.Writable(ctx); err != nil {
			answer.Problems = append(answer.Problems, "the record cannot be written, so no device can enrol, renew or be revoked: "+err.Error())
		}
		if a := h.status.Age(); a > status.LateAfter {
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
