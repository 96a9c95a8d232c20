package native_test

import (
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/wire"
)

// Whoever writes another client is told what is wrong with its envelope, and nothing is
// passed over that it may have meant.
func TestEnvelopeIsHeldAgainstItsLabel(t *testing.T) {
	u := install(t, settings{}).holding(nil)
	for _, c := range []struct{ path, body, want string }{
		{wire.PathEnrol, `{"statement":"AQ=="}`, "the envelope has no message"},
		{wire.PathPoll, `{}`, "the envelope has no message"},
		{wire.PathPoll, `{"message":null}`, "not the expected JSON: null"},
		{wire.PathPoll, `{"message":{},"statement":"AQ=="}`, "statement and signature prove a key, and a poll has none"},
		{wire.PathPoll, `{"message":{},"signature":"AQ=="}`, "statement and signature prove a key, and a poll has none"},
		{wire.PathPoll, `{"message":{},"ticket_mac":"AQ=="}`, "ticket_mac belongs to an enrolment with a ticket"},
		{wire.PathRenew, `{"message":{"key":"AQ=="},"ticket_mac":"AQ=="}`, "ticket_mac belongs to an enrolment with a ticket"},
		{wire.PathRenew, `{"message":{"kind":"softkey","key":"AQ==","activated":{"session":"AQ==","secret":"AQ=="}}}`, "activated answers a TPM's challenge"},
		{wire.PathEnrol, `{"message":{"key":"AQ=="},"ticket_mac":"AQ=="}`, "ticket_mac belongs to an enrolment with a ticket"},
		{wire.PathEnrol, `{"message":{"key":"AQ==","ticket":"a"}}`, "ticket_mac belongs to an enrolment with a ticket"},
	} {
		if _, err := u.raw(c.path, []byte(c.body)); code(err) != wire.CodeMalformed || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %s", c.path, c.body, err, c.want)
		}
	}
	u = install(t, settings{nonceMode: true}).holding(nil)
	if _, err := u.raw(wire.PathPoll, []byte(`{"message":{}}`)); code(err) != wire.CodeSession || !strings.Contains(err.Error(), "nonce") {
		t.Errorf("nonce mode, without a nonce: %v", err)
	}
}
