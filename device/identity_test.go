package device_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

// speak sends a line and returns the answer.
func speak(t *testing.T, c interface {
	Write([]byte) (int, error)
	Read([]byte) (int, error)
}) string {
	t.Helper()
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	return must[string](t)(bufio.NewReader(c).ReadString('\n'))
}

// number is a working certificate's serial number, as relyingParty writes it.
func (u *unit) number(t *testing.T) string {
	return strings.TrimLeft(must[device.Status](t)(device.ReadStatus(u.dir, time.Now())).LDevID.SerialNumber, "0")
}

// A connection that stands goes on over a renewal, and the next shows the new certificate.
func TestIdentityFollowsRenewals(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	if _, err := device.OpenIdentity(u.options()); !errors.Is(err, device.ErrNoLDevID) {
		t.Fatalf("an identity before the first renewal: %v", err)
	}
	u.renew(t, "idevid")
	address, roots := u.relyingParty(t)
	identity := must[*device.Identity](t)(device.OpenIdentity(u.options()))
	to := device.Connection{To: address, Roots: roots}
	standing, err := identity.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer standing.Close()
	old := u.number(t)
	if said := speak(t, standing); !strings.Contains(said, old) {
		t.Fatalf("%q, want certificate %s", said, old)
	}
	u.renew(t, "ldevid")
	if u.number(t) == old {
		t.Fatal("the renewal changed nothing")
	}
	next, err := identity.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if said := speak(t, next); !strings.Contains(said, u.number(t)) {
		t.Fatalf("%q, want certificate %s", said, u.number(t))
	}
	if said := speak(t, standing); !strings.Contains(said, old) {
		t.Fatalf("the connection that stands: %q", said)
	}
}

// A folder that was wiped has sets of the same names as before.
func TestIdentityFollowsANewEnrolment(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.enrolled(t, "L-1")
	u.renew(t, "idevid")
	identity := must[*device.Identity](t)(device.OpenIdentity(u.options()))
	if err := os.RemoveAll(u.dir); err != nil {
		t.Fatal(err)
	}
	u.enrolled(t, "L-2")
	u.renew(t, "idevid")
	if c := must[*device.Credential](t)(identity.Credential()); !bytes.Equal(c.Certificate.Certificate[0], u.load(t).LDevID[0]) {
		t.Fatal("the identity is still the former one")
	}
}

// A renewal that waits for its server does not keep the TPM from others.
func TestSigningDuringRenewal(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	address, roots := u.relyingParty(t)
	reached, goOn := make(chan bool), make(chan bool)
	u.refuse = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == wire.PathRenew {
			reached <- true
			<-goOn
		}
		return false
	}
	renewed := make(chan error)
	go func() {
		_, err := device.Renew(t.Context(), device.Options{State: u.dir, TPM: u.chip.Spec()})
		renewed <- err
	}()
	<-reached
	identity := must[*device.Identity](t)(device.OpenIdentity(u.options()))
	for range 3 {
		conn, err := identity.Dial(t.Context(), device.Connection{To: address, Roots: roots})
		if err != nil {
			t.Fatal(err)
		}
		speak(t, conn)
		conn.Close()
	}
	close(goOn)
	if err := <-renewed; err != nil {
		t.Fatal(err)
	}
}

// A TPM that is gone is told from a network that is.
func TestIdentityWithoutTPM(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	address, roots := u.relyingParty(t)
	identity := must[*device.Identity](t)(device.OpenIdentity(u.options()))
	u.chip.Kill()
	if _, err := identity.Dial(t.Context(), device.Connection{To: address, Roots: roots}); !errors.As(err, new(*trouble.Error)) {
		t.Fatalf("%v", err)
	}
	if err := os.Rename(u.dir, u.dir+"-moved"); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Dial(t.Context(), device.Connection{To: address, Roots: roots}); !errors.Is(err, state.ErrEmpty) {
		t.Fatalf("%v", err)
	}
}

func TestReadRoots(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for name, text := range map[string]string{"empty": "", "garbage": "not PEM",
		"key": "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "large": strings.Repeat(" ", 5<<20)} {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := device.ReadRoots(file); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := device.ReadRoots(filepath.Join(folder, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// A device speaks HTTPS with its identity; renewals are followed.
func ExampleHTTPClient() {
	options, address, roots := enrolledDevice() // what "hallmark-device enrol" and "renew" leave behind
	identity, err := device.OpenIdentity(options)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer identity.Close()
	trusted, err := identity.Roots(roots)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := device.HTTPClient(identity, trusted)
	response, err := client.Get("https://" + address)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	fmt.Println(response.Status, response.Header.Get("Device"))
	// Output: 200 OK default:SN-1
}
