package provisioner

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/provisioner/decide"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/provisioner/session"
	"github.com/hallmark-pki/hallmark/record"
)

// RenewRequest asks for a working certificate for a fresh key.
type RenewRequest struct {
	// Contact is the certificate that authenticated the request.
	Contact Contact
	// Evidence holds Key, Statement and Signature; the rest is on record.
	Evidence attest.Evidence
	Binding  [32]byte
	// Session and Secret answer the challenge in the previous answer; empty if that was lost.
	Session, Secret []byte
	// Nonce is the id of the server nonce in the binding; empty outside nonce mode.
	Nonce string
}

// Renew issues a working certificate to a device that shows a certificate of this installation
// and attests again, in one round trip; in two, beginning with a Challenge, if it brings no
// activated secret (design decision 8).
func (s *Service) Renew(ctx context.Context, r RenewRequest) (Answer, error) {
	who := subject{certificate: r.Contact.Serial}
	device, err := s.Store.Holder(ctx, r.Contact.Issuer, r.Contact.Serial)
	if errors.Is(err, record.ErrNotFound) {
		return Answer{}, s.refused(ctx, "renewal.refused", who, decide.UnknownCertificate)
	}
	if err != nil {
		return Answer{}, err
	}
	who.device = &device
	// The transaction decides this again; here it saves verifying the evidence of a revoked
	// device.
	if err := decide.Standing(device); err != nil {
		return Answer{}, s.refused(ctx, "renewal.refused", who, err)
	}
	pending, err := s.Verifier.Reverify(known(device), r.Evidence, r.Binding)
	if err != nil {
		return Answer{}, s.refused(ctx, "renewal.refused", who, err)
	}
	bound := session.Context{Purpose: session.Renew, Device: device.ID, Issuer: r.Contact.Issuer, Certificate: r.Contact.Serial}
	claims, ok := s.promised(pending, r, device.ID)
	if !ok {
		return s.challenge(pending, bound)
	}
	// One message and no session: what can be used only once is the nonce, in nonce mode.
	bound.Expires = s.Now().Add(s.SessionLife)
	return s.renew(ctx, session.Session{Context: bound, ID: r.Nonce, Pending: pending}, claims, r.Contact.Proved)
}

// promised returns the claims if no second message is needed: the request returned the secret of
// the previous answer's challenge, or there is no chip to challenge.
func (s *Service) promised(p attest.Pending, r RenewRequest, device string) (attest.Claims, bool) {
	if claims, ok := p.Proved(); ok {
		return claims, true
	}
	last, err := s.Sessions.Resume(r.Session, s.Now(), session.Next)
	if err != nil || last.Device != device {
		return attest.Claims{}, false
	}
	claims, err := p.Activated(last.Secret, r.Secret)
	return claims, err == nil
}

// known is what the verifier needs of a device's record.
func known(d record.Device) attest.Known {
	if !d.Assurance.Hardware {
		return attest.Known{Kind: attest.KindSoftKey, Birth: d.AKPublic}
	}
	return attest.Known{Kind: attest.KindTPM2, EKPublic: d.EKs[0].Public, AKPublic: d.AKPublic}
}

// renew is the rest of a renewal; proved is Contact.Proved.
func (s *Service) renew(ctx context.Context, begun session.Session, claims attest.Claims, proved time.Time) (Answer, error) {
	facts, err := s.proved(claims)
	if err != nil {
		return Answer{}, s.refused(ctx, "renewal.refused", subject{certificate: begun.Certificate}, err)
	}
	var model *record.Model
	query := record.Query{Session: begun.ID, Issuer: begun.Issuer, CertificateSerial: begun.Certificate}
	device, err := s.Store.Admit(ctx, query, func(v record.View) (record.Admission, error) {
		if v.SessionRedeemed {
			return record.Admission{}, session.ErrInvalid
		}
		who, err := identity.Renewing(facts, v, s.Now()) // claims → identity
		if err != nil {
			return record.Admission{}, err
		}
		judged := decide.Case{Now: s.Now(), Proved: proved, Who: who, View: v, Facts: facts}
		if err := decide.Renewal(judged); err != nil { // identity → decision
			return record.Admission{}, forked(who.Device, v.Presented, err)
		}
		model = v.Model
		return record.Admission{Device: who.Device, Session: begun.ID, Expires: begun.Expires, Used: true, Grant: decide.Grant(judged),
			Event: admitted("device.renewed", "", who, facts, s.Now())}, nil
	})
	if err != nil {
		return Answer{}, s.refused(ctx, "renewal.refused", subject{certificate: begun.Certificate}, s.stop(ctx, err))
	}
	key, err := x509.ParsePKIXPublicKey(facts.Key)
	if err != nil {
		return Answer{}, err
	}
	issued, err := s.issue(ctx, device, working(device, model, key, s.LDevIDLife, begun.Certificate)...) // decision → certificates
	if err != nil {
		return Answer{}, err
	}
	s.renewed(ctx, device)
	s.remember(issued[0])
	steering := s.steer(Contact{Certificate: issued[0].Certificate, Profile: profile.LDevID}, model)
	renewed := &Certificates{LDevID: issued[0].Chain, Steering: &steering}
	if len(issued) > 1 {
		renewed.Server = issued[1].Chain
	}
	return s.answer(device, begun.Pending, renewed)
}

// working requests the working certificate and, if the model has one, that of the device's own
// web page. The names are the model's: a device that chose its own could serve under another's.
// life is for models that set none.
func working(d record.Device, m *record.Model, key crypto.PublicKey, life time.Duration, predecessor string) []ca.Request {
	client := ca.Request{Profile: profile.LDevID, Device: d.ID, Predecessor: predecessor,
		Content: profile.Content{Key: key, Model: d.Model, Serial: d.Serial, Lifetime: life}}
	if m == nil {
		return []ca.Request{client}
	}
	if m.LDevIDLifetime > 0 {
		client.Content.Lifetime = m.LDevIDLifetime
	}
	server := ca.Request{Profile: profile.DeviceServer, Device: d.ID, Content: client.Content}
	if name := m.CommonName(d.Serial); name != d.Name() {
		client.Content.CommonName = name
	}
	if server.Content.DNSNames = m.ServerNames(d.Serial); server.Content.DNSNames == nil {
		return []ca.Request{client}
	}
	return []ca.Request{client, server}
}
