package provisioner

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/provisioner/decide"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/provisioner/session"
	"github.com/hallmark-pki/hallmark/record"
)

// admitted is the audit event of a device that enrolled, returned or renewed.
func admitted(verb, ticket string, who identity.Identity, f attest.Facts, now time.Time) record.Event {
	actor := "device:" + who.Device.Name()
	if ticket != "" {
		actor = "ticket:" + ticket
	}
	detail := map[string]string{"assurance": who.Device.Assurance.String(), "lot": who.Device.Lot}
	if f.TPM != nil {
		detail["ek"] = hex.EncodeToString(f.TPM.EKFingerprint[:])
		detail["firmware"] = who.Device.TPMFirmware
		if f.TPM.EKType != "" {
			detail["ek_type"] = f.TPM.EKType
		}
	}
	if who.NewEK {
		detail["new_ek"] = "true"
	}
	if who.NewKey {
		detail["new_key"] = "true"
	}
	return record.Event{Time: now, Actor: actor, Verb: verb, Object: who.Device.Name(), Detail: detail}
}

// subject is what is known about the party being refused.
type subject struct {
	ticket, serial, certificate string
	ek                          [32]byte
	device                      *record.Device
}

// maxRefusals is how many refusals of one actor are recorded per minute.
const maxRefusals = 10

// maxReason bounds the reason of a refusal in the record, in bytes: it may quote a
// certificate that a stranger made.
const maxReason = 500

// refused records a refusal with its reason and returns the error. Refusals are sampled: neither
// strangers, who share one limit, nor the holder of a used ticket or of a revoked device's
// certificate may fill the record (design decision 19). An error that is not a refusal (a full
// disk) is logged instead.
func (s *Service) refused(ctx context.Context, verb string, who subject, err error) error {
	code, detail, _, ok := Reason(err)
	if !ok {
		level := slog.LevelError
		if errors.Is(err, context.Canceled) { // the device is gone: it lost its power, for instance
			level = slog.LevelInfo
		}
		s.Log.Log(ctx, level, "could not decide", "verb", verb, "err", err)
		return err
	}
	if identity.CheckSerial(who.serial) != nil {
		who.serial = "" // it may be any text of any length; the reason says what is wrong with it
	}
	now := s.Now()
	e := record.Event{Time: now, Actor: "stranger", Verb: verb, Object: who.serial, Reason: code + ": " + detail, Detail: map[string]string{}}
	if len(e.Reason) > maxReason {
		e.Reason = strings.ToValidUTF8(e.Reason[:maxReason], "") + "…"
	}
	switch {
	case who.device != nil:
		e.Actor, e.Object = "device:"+who.device.Name(), who.device.Name()
	case who.certificate != "":
		e.Actor = "certificate:" + who.certificate
	case who.ticket != "" && code != "ticket-invalid":
		e.Actor = "ticket:" + who.ticket
	}
	unseen, keep := s.refusals.Take(e.Actor, maxRefusals, now)
	if !keep {
		return err
	}
	if unseen > 0 {
		e.Detail["not_recorded_before"] = strconv.Itoa(unseen)
	}
	if who.ek != [32]byte{} {
		e.Detail["ek"] = hex.EncodeToString(who.ek[:])
	}
	// The refusal stands even if it cannot be recorded; that it could not is logged.
	if noteErr := s.Store.Note(context.WithoutCancel(ctx), e); noteErr != nil {
		s.Log.Error("a refusal could not be recorded", "verb", verb, "code", code, "err", noteErr)
	}
	return err
}

// Reason returns the code, the sentence and the hint of an error that is a refusal.
func Reason(err error) (code, detail, hint string, ok bool) {
	var evidence *attest.Refusal
	var decision *decide.Refusal
	var clash *identity.Clash
	switch {
	case errors.As(err, &evidence):
		return evidence.Code, evidence.Detail, evidence.Hint, true
	case errors.As(err, &decision):
		return decision.Code, decision.Detail, decision.Hint, true
	case errors.As(err, &clash):
		return clash.Code, clash.Detail, "a chip and a serial number belong together for good: compare board and label", true
	case errors.Is(err, session.ErrInvalid):
		return "session-invalid", err.Error(), "start again", true
	case errors.Is(err, attest.ErrSecret):
		return "evidence-refused", err.Error(), "", true
	}
	return "", "", "", false
}

// pace limits how often one device, which may be a program that simulates a TPM, gets
// certificates: it would fill the record, and the CRLs once it is revoked.
func (s *Service) pace(f attest.Facts) error {
	if s.Pace == 0 {
		return nil
	}
	speaker := f.Birth
	if f.TPM != nil {
		speaker = f.TPM.AKName
	}
	if _, ok := s.paces.Take(string(speaker), s.Pace, s.Now()); !ok {
		return &decide.Refusal{Code: "too-often", Detail: fmt.Sprintf("this device asked for certificates %d times in this minute", s.Pace),
			Hint: "wait a minute; a device renews at two thirds of its certificate's life"}
	}
	return nil
}
