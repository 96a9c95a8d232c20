package keys

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestLoginWaits: the time between two logins counts from the last one, whoever asked for it.
func TestLoginWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &token{at: tokenURI{uri: "pkcs11:token=x;module-path=/nowhere.so"}, module: new(module)}
		if k.login() == nil {
			t.Fatal("a token without a module")
		}
		time.Sleep(loginEvery - time.Second)
		k.login() // by keys.Open, which does not wait
		time.Sleep(loginEvery - time.Second)
		if k.loginAfter(2); k.logins != 2 {
			t.Errorf("%d logins: one too soon", k.logins)
		}
		time.Sleep(time.Second)
		synctest.Wait() // until the timer of this moment has run
		if k.loginAfter(2); k.logins == 2 {
			t.Error("no login after the time")
		}
	})
}

// TestLibraryPanics: what panics on the way to a token is an error, and the next is served.
func TestLibraryPanics(t *testing.T) {
	k := &token{module: new(module), places: make(chan struct{}, 1)}
	for range 2 {
		_, err := inTime(k, patience, func() (int, error) { panic("attempt to Put into a full ResourcePool") })
		if err == nil || !strings.Contains(err.Error(), "full ResourcePool") {
			t.Fatal(err)
		}
	}
	if _, _, err := k.sign("pkcs11:object=x", nil, nil); err == nil { // without a login or a reason
		t.Error("signed by nobody")
	}
}
