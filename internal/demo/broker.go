package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/internal/ports"
)

// carryMQTT runs a real broker that accepts working certificates and nothing else, and
// speaks plain MQTT to it through the device's proxy: a subscription stands over a
// renewal and hears what is published with the next certificate.
func (d *demo) carryMQTT() (string, error) {
	port, err := ports.Free(18883, 2)
	if err != nil {
		return "", err
	}
	broker, local := fmt.Sprintf("localhost:%d", port), fmt.Sprintf("127.0.0.1:%d", port+1)
	if err := d.broker(port); err != nil {
		return "", err
	}
	if err := d.background("proxy.log", local, filepath.Join(d.bin, "hallmark-device"), "proxy", "--state", d.path("device"),
		"--roots", d.path("broker.pem"), "--listen", local, "--to", broker); err != nil {
		return "", err
	}
	host, localPort, _ := net.SplitHostPort(local)
	say := func(text string) error {
		_, err := d.tool("mosquitto_pub", "-h", host, "-p", localPort, "-t", "demo/"+serial, "-m", text, "-r", "-q", "1")
		return err
	}
	heard, err := os.Create(d.path("heard"))
	if err != nil {
		return "", err
	}
	defer heard.Close()
	// By lines: to a file it would write when it ends.
	subscriber := exec.CommandContext(d.ctx, "stdbuf", "-oL", "mosquitto_sub", "-h", host, "-p", localPort, "-t", "demo/#", "-C", "2", "-W", "20")
	subscriber.Stdout, subscriber.Stderr = heard, heard
	if err := errors.Join(say("before the renewal"), subscriber.Start()); err != nil {
		return "", err
	}
	for deadline := time.Now().Add(20 * time.Second); d.heard() == "" && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := d.renew(); err != nil {
		return "", err
	}
	if err := say("after the renewal"); err != nil {
		return "", err
	}
	if err := subscriber.Wait(); err != nil || d.heard() != "before the renewal\nafter the renewal\n" {
		return "", fmt.Errorf("the subscription heard %q: %v", d.heard(), err)
	}
	return "mosquitto accepted the TPM's signature; a subscription survived a renewal", nil
}

// heard is what the subscription has heard.
func (d *demo) heard() string {
	text, _ := os.ReadFile(d.path("heard"))
	return string(text)
}

// broker starts mosquitto on a port of localhost, with a certificate of its own
// (broker.pem) and relying-parties.pem for its clients.
func (d *demo) broker(port int) error {
	own, err := d.selfSigned("broker")
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("broker.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		return err
	}
	config := fmt.Sprintf("listener %d 127.0.0.1\nuser root\ncertfile %s\nkeyfile %s\ncafile %s\nrequire_certificate true\nuse_identity_as_username true\n",
		port, d.path("broker.pem"), d.path("broker.key"), d.path("ca", "trust", "relying-parties.pem"))
	if err := os.WriteFile(d.path("open.conf"), []byte(config), 0o600); err != nil {
		return err
	}
	return d.mosquitto("open", port)
}

// mosquitto starts one by its configuration, NAME.conf.
func (d *demo) mosquitto(name string, port int) error {
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		program = "/usr/sbin/mosquitto" // not in everybody's path on Debian
	}
	return d.background(name+".log", fmt.Sprintf("127.0.0.1:%d", port), program, "-c", d.path(name+".conf"))
}

// background starts a program for the rest of the demonstration and returns when it listens.
func (d *demo) background(log, address, name string, args ...string) error {
	return d.launch(log, func() error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}, name, args...)
}

// launch starts a program for the rest of the demonstration and returns when it is ready.
func (d *demo) launch(log string, ready func() error, name string, args ...string) error {
	file, err := os.Create(d.path(log))
	if err != nil {
		return err
	}
	defer file.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	d.closers = append(d.closers, func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ready() == nil {
			return nil
		}
		select {
		case err := <-ended:
			ended <- err
			text, _ := os.ReadFile(d.path(log))
			return fmt.Errorf("%s ended: %v\n%s", filepath.Base(name), err, text)
		default:
		}
	}
	return errors.New(filepath.Base(name) + " is not ready after 20 s; see " + log)
}
