package provisioner

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/provisioner/decide"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/provisioner/session"
	"github.com/hallmark-pki/hallmark/record"
)

// EnrolRequest is message one of an enrolment, or of the return of a known device that lost its
// certificates.
type EnrolRequest struct {
	Evidence attest.Evidence
	// Binding is what evidence and ticket MAC must be over.
	Binding [32]byte
	// Ticket is the ticket's id and TicketMAC the proof of its secret; both are empty for a
	// device that returns.
	Ticket    string
	TicketMAC []byte
	// Serial is the serial number; empty if the ticket fixes it or the device returns.
	Serial string
	// Nonce is the id of the server nonce in the binding; empty outside nonce mode.
	Nonce string
}

// Enrol checks message one and answers with a challenge. No certificate exists yet, and nothing
// is revealed about which chips and serial numbers are on record (design decision 19). Evidence
// that needs no challenge is answered with the certificates at once.
func (s *Service) Enrol(ctx context.Context, r EnrolRequest) (Answer, error) {
	bound := session.Context{Purpose: session.Enrol, Ticket: r.Ticket, Serial: r.Serial, Makers: s.makers()} // before the evidence is judged by them
	if err := s.checkTicket(ctx, r, &bound); err != nil {
		return Answer{}, s.refused(ctx, "enrolment.refused", subject{ticket: r.Ticket, serial: r.Serial}, err)
	}
	pending, err := s.Verifier.Verify(r.Evidence, r.Binding, s.Now())
	if err != nil {
		return Answer{}, s.refused(ctx, "enrolment.refused", subject{ticket: r.Ticket, serial: bound.Serial}, err)
	}
	if claims, ok := pending.Proved(); ok {
		bound.Expires = s.Now().Add(s.SessionLife)
		return s.enrol(ctx, session.Session{Context: bound, ID: r.Nonce, Pending: pending}, claims)
	}
	return s.challenge(pending, bound)
}

// Activate finishes what Enrol began, or a Renew without a fresh secret.
func (s *Service) Activate(ctx context.Context, blob, secret []byte) (Answer, error) {
	begun, err := s.Sessions.Resume(blob, s.Now(), session.Enrol, session.Renew)
	if err != nil {
		return Answer{}, s.refused(ctx, "activation.refused", subject{}, err)
	}
	claims, err := begun.Pending.Activated(begun.Secret, secret) // evidence → claims
	if err != nil {
		return Answer{}, s.refused(ctx, "activation.refused", subject{ticket: begun.Ticket, serial: begun.Serial}, err)
	}
	if begun.Purpose == session.Renew {
		return s.renew(ctx, begun, claims, time.Time{}) // only chips come to a second message
	}
	return s.enrol(ctx, begun, claims)
}

// enrol is the rest of the pipeline in one function: claims → identity → decision → certificates.
// Evidence of a TPM has become claims by message two, other evidence by message one.
func (s *Service) enrol(ctx context.Context, begun session.Session, claims attest.Claims) (Answer, error) {
	facts, err := s.proved(claims)
	if err != nil {
		return Answer{}, s.refused(ctx, "enrolment.refused", subject{ticket: begun.Ticket, serial: begun.Serial}, err)
	}
	id := s.Permissions.NewDeviceID()
	query := identity.Query(facts)
	query.Session, query.Ticket, query.Serial = begun.ID, begun.Ticket, begun.Serial
	device, err := s.Store.Admit(ctx, query, func(v record.View) (record.Admission, error) {
		if v.SessionRedeemed || facts.TPM != nil && facts.TPM.Certified && begun.Makers != s.makers() { // its maker may have been taken out meanwhile
			return record.Admission{}, session.ErrInvalid
		}
		who, err := identity.Enrolling(facts, begun.Ticket, begun.Serial, id, v, s.Now()) // claims → identity
		if err != nil {
			return record.Admission{}, decide.Clash(err, v)
		}
		judged := decide.Case{Now: s.Now(), Who: who, View: v, Facts: facts, Ticket: begun.Ticket, Serial: begun.Serial}
		if err := decide.Enrolment(judged); err != nil { // identity → decision
			return record.Admission{}, err
		}
		verb, a := "device.enrolled", record.Admission{Device: who.Device, Session: begun.ID, Expires: begun.Expires, Ticket: begun.Ticket}
		if !who.Known && query.Chip != nil && len(v.EKTypes) == 0 {
			a.EKType = facts.TPM.EKType
		}
		if who.Known {
			verb, a.Ticket, a.Grant = "device.returned", "", decide.Grant(judged) // not counted: its ticket, if any, is not used up
		}
		a.Event = admitted(verb, begun.Ticket, who, facts, s.Now())
		return a, nil // the decision is recorded in this transaction
	})
	if err != nil {
		return Answer{}, s.refused(ctx, "enrolment.refused", subject{ticket: begun.Ticket, serial: begun.Serial, ek: query.EK}, err)
	}
	issued, err := s.issue(ctx, device, birth(device, facts)...) // decision → certificates
	if err != nil {
		return Answer{}, err
	}
	s.remember(issued[0])
	born := &Certificates{IDevID: issued[0].Chain}
	if len(issued) > 1 {
		born.AK = issued[1].Chain
	}
	return s.answer(device, begun.Pending, born)
}

func (s *Service) makers() string {
	if s.Makers == nil {
		return ""
	}
	return s.Makers()
}

// proved returns what claims prove, unless the device asks too often.
func (s *Service) proved(claims attest.Claims) (attest.Facts, error) {
	facts, err := claims.Facts()
	if err != nil {
		return attest.Facts{}, err
	}
	return facts, s.pace(facts)
}

// birth requests the certificates of manufacture: for the IDevID key and for the attestation key,
// if there is one. The chip is named as it was recorded when it enrolled, and by its EK certificate
// only if that is of a trusted maker: else anybody could make one with another chip's names.
func birth(d record.Device, f attest.Facts) []ca.Request {
	var chip *profile.TPM
	if f.TPM != nil {
		chip = &profile.TPM{EKFingerprint: d.EKs[0].Fingerprint}
		if d.Assurance.Certified {
			chip.Maker, chip.EKCertificate = d.TPMMaker, d.EKs[0].Certificate
		}
	}
	request := func(kind profile.Kind, spki []byte) ca.Request {
		// This parses: the verifier marshalled it from a parsed key.
		key, _ := x509.ParsePKIXPublicKey(spki)
		return ca.Request{Profile: kind, Device: d.ID, Content: profile.Content{Key: key, Model: d.Model, Serial: d.Serial, TPM: chip}}
	}
	if chip == nil {
		return []ca.Request{request(profile.IDevID, f.Key)}
	}
	return []ca.Request{request(profile.IDevID, f.Key), request(profile.AK, f.TPM.AKKey)}
}

// checkTicket verifies that the caller holds the ticket's secret, takes the serial number from
// the ticket if the request has none, and refuses invalid serial numbers. Whether the ticket is
// on record and unused is decided in the transaction that redeems it: a device whose answer was
// lost shows it a second time.
func (s *Service) checkTicket(ctx context.Context, r EnrolRequest, bound *session.Context) error {
	if r.Ticket != "" && !s.Permissions.VerifyTicket(r.Ticket, r.Binding, r.TicketMAC) {
		return invalidTicket
	}
	if r.Ticket != "" && bound.Serial == "" {
		view, err := s.Store.Look(ctx, record.Query{Ticket: r.Ticket})
		if err != nil {
			return err
		}
		switch {
		case view.Ticket != nil:
			bound.Serial = view.Ticket.Serial
		case view.Grant != nil:
			bound.Serial = view.ByID.Serial
		default:
			return invalidTicket
		}
	}
	if r.Ticket == "" && bound.Serial == "" {
		return nil // it returns, and the record knows its serial number
	}
	return decide.Serial(bound.Serial)
}

var invalidTicket = &decide.Refusal{Code: "ticket-invalid", Detail: "the ticket is not of this server, or was changed",
	Hint: "copy the whole ticket, or make a new one: hallmark ticket create"}
