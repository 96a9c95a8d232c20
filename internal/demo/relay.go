package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/internal/ports"
)

// party is a broker with a relay beside it, configured as docs/relay.md says.
type party struct {
	local   string   // where the device's proxy to it listens
	session net.Conn // of the device, and it stands
}

// relay invites the broker, runs a relay beside it, and lets the device connect.
func (d *demo) relay() (string, error) {
	port, err := ports.Free(19883, 2)
	if err != nil {
		return "", err
	}
	d.party.local = fmt.Sprintf("127.0.0.1:%d", port+1)
	invitation, err := d.command("hallmark", "relying-party", "invite", "broker-1").Output()
	if err != nil {
		return "", err
	}
	if _, err := d.program("hallmark", "relay", "join", strings.TrimSpace(string(invitation)), "--dir", d.path("relay")); err != nil {
		return "", err
	}
	recipe := fmt.Sprintf(`program: mosquitto
write:
  roots: %[1]s/devices.pem
  crl: %[1]s/crls.pem
reload: test ! -e %[1]s/guarded.pid || kill -HUP $(cat %[1]s/guarded.pid)
each: test "$HALLMARK_STATUS" = good || mosquitto_pub --unix %[1]s/kick.sock -i "$HALLMARK_NAME" -t none -n
fail: closed
`, d.dir)
	config := fmt.Sprintf(`user root
pid_file %[1]s/guarded.pid
per_listener_settings true
listener %[2]d 127.0.0.1
cafile %[1]s/devices.pem
crlfile %[1]s/crls.pem
certfile %[1]s/broker.pem
keyfile %[1]s/broker.key
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous true
listener 0 %[1]s/kick.sock
allow_anonymous true
acl_file %[1]s/nothing.acl
`, d.dir, port)
	for name, text := range map[string]string{"relay/relay.yaml": recipe, "guarded.conf": config, "nothing.acl": ""} {
		if err := os.WriteFile(d.path(name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	enforces := func() error { _, err := d.program("hallmark", "relay", "status", "--dir", d.path("relay")); return err }
	if err := d.launch("relay.log", enforces, filepath.Join(d.bin, "hallmark"), "relay", "run", "--dir", d.path("relay")); err != nil {
		return "", err
	}
	if err := d.mosquitto("guarded", port); err != nil {
		return "", err
	}
	if err := d.background("guarded-proxy.log", d.party.local, filepath.Join(d.bin, "hallmark-device"), "proxy", "--state", d.path("device"),
		"--roots", d.path("broker.pem"), "--listen", d.party.local, "--to", fmt.Sprintf("localhost:%d", port)); err != nil {
		return "", err
	}
	d.party.session, err = d.openMQTT()
	return "it keeps mosquitto's CRLs fresh; the device is connected", err
}

// openMQTT opens a session through the proxy: CONNECT, and CONNACK with return code 0
// (MQTT 3.1.1 §3.1, §3.2).
func (d *demo) openMQTT() (net.Conn, error) {
	c, err := net.Dial("tcp", d.party.local)
	if err != nil {
		return nil, err
	}
	d.closers = append(d.closers, func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var ack [4]byte
	_, err = c.Write([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"))
	if err == nil {
		_, err = io.ReadFull(c, ack[:])
	}
	if err == nil && ack != [4]byte{0x20, 2, 0, 0} {
		err = fmt.Errorf("the broker answers %x", ack)
	}
	return c, err
}

// within is how soon a suspension takes effect.
const within = 2 * time.Second

// suspend counts from the moment at which the administrator presses Enter.
func (d *demo) suspend() (string, error) {
	began := time.Now()
	if _, err := d.program("hallmark", "device", "suspend", serial); err != nil {
		return "", err
	}
	if _, err := d.party.session.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		return "", fmt.Errorf("the session that stood was not ended: %v", err)
	}
	ended := time.Since(began)
	if _, err := d.openMQTT(); err == nil {
		return "", errors.New("mosquitto lets the suspended device in")
	}
	refused := time.Since(began)
	if refused > within {
		return "", fmt.Errorf("mosquitto refused the device only after %v", refused)
	}
	return fmt.Sprintf("its session ended after %.1f s, and it was refused after %.1f s", ended.Seconds(), refused.Seconds()), nil
}

func (d *demo) restore() (string, error) {
	began := time.Now()
	if _, err := d.program("hallmark", "device", "restore", serial); err != nil {
		return "", err
	}
	for {
		_, err := d.openMQTT()
		if err == nil {
			return fmt.Sprintf("mosquitto lets it in again after %.1f s", time.Since(began).Seconds()), nil
		}
		if time.Since(began) > 20*time.Second {
			return "", fmt.Errorf("mosquitto does not let it in again: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
