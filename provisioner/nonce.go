package provisioner

import (
	"time"

	"github.com/hallmark-pki/hallmark/provisioner/session"
)

// Nonce makes a server nonce for one message in nonce mode, where a proxy ends TLS
// and no exporter binds evidence to the connection (design decision 7).
func (s *Service) Nonce() (nonce []byte, expires time.Time, err error) {
	expires = s.Now().Add(s.SessionLife)
	_, nonce, err = s.Sessions.Promise(session.Context{Purpose: session.Nonce, Expires: expires})
	return nonce, expires, err
}

// CheckNonce accepts an unexpired nonce that Nonce made, and returns its id and when it was made.
func (s *Service) CheckNonce(nonce []byte) (id string, made time.Time, err error) {
	begun, err := s.Sessions.Resume(nonce, s.Now(), session.Nonce)
	return begun.ID, begun.Expires.Add(-s.SessionLife), err
}
