package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/internal/ports"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

// serial is the product that the demonstration makes, listeners how many listeners hallmarkd has.
const (
	serial    = "SN-0001"
	listeners = 4
)

type tpm = *swtpm.TPM

type step struct {
	name string
	do   func() (said string, err error)
}

func newDemo(ctx context.Context, bin, dir string) (*demo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	port, err := ports.Free(18443, listeners)
	if err != nil {
		return nil, err
	}
	d := &demo{ctx: ctx, bin: bin, dir: dir, port: port, config: filepath.Join(dir, "ca", "hallmark.yaml")}
	return d, nil
}

func (d *demo) steps() []step {
	return []step{
		{"CA created", d.initialise},
		{"TPM manufactured, EK certificate", d.manufacture},
		{"server started", d.serve},
		{"TPM maker's root imported", d.trustMaker},
		{"model, lot and ticket made", d.order},
		{"device attested and enrolled", d.enrol},
		{"first working certificate", d.renew},
		{"renewed, attested again", d.renew},
		{"TLS 1.3, the TPM signs", d.connect},
		{"MQTT through the local proxy", d.carryMQTT},
		{"relay beside another mosquitto", d.relay},
		{"suspended: mosquitto refuses it", d.suspend},
		{"restored: mosquitto lets it in", d.restore},
		{"state wiped, identity came back", d.comeBack},
		{"revoked by an administrator", d.revoke},
		{"renewal refused", d.renewRefused},
		{"return refused", d.returnRefused},
		{"CRL says revoked", d.crl},
		{"OCSP says revoked", d.ocsp},
	}
}

func (d *demo) initialise() (string, error) {
	_, err := d.program("hallmarkd", "init", "--dir", d.path("ca"), "--name", "Acme Devices",
		"--listen", fmt.Sprintf("127.0.0.1:%d", d.port), "--root-out", d.path("root-keys-for-the-safe"),
		"--public-url", fmt.Sprintf("https://localhost:%d", d.port), "--public-url", fmt.Sprintf("http://localhost:%d", d.port+2))
	if err != nil {
		return "", err
	}
	// The demonstration's TPM says itself that it is software; a factory's server refuses it.
	text, err := os.ReadFile(d.config)
	if err != nil {
		return "", err
	}
	const off, on = "accept_simulated_tpms: false", "accept_simulated_tpms: true"
	if !strings.Contains(string(text), off) {
		return "", fmt.Errorf("%s has no line %q", d.config, off)
	}
	return "three roots: manufacturing, operational, infrastructure", os.WriteFile(d.config, []byte(strings.Replace(string(text), off, on, 1)), 0o600)
}

func (d *demo) manufacture() (said string, err error) {
	if d.tpm, err = swtpm.Run(d.path("tpm")); err != nil {
		return "", err
	}
	d.closers = append(d.closers, d.tpm.Kill)
	maker, err := swtpm.NewMaker(swtpm.P384, time.Now())
	if err != nil {
		return "", err
	}
	if err := maker.Manufacture(d.tpm, swtpm.Options{P256: true, IntermediateInNV: true}); err != nil {
		return "", err
	}
	return "by " + maker.Root.Subject.CommonName, writePEM(d.path("tpm-maker.pem"), maker.Root.Raw)
}

func (d *demo) serve() (string, error) {
	err := d.background("server.log", fmt.Sprintf("127.0.0.1:%d", d.port), filepath.Join(d.bin, "hallmarkd"), "serve", "--config", d.config)
	return fmt.Sprintf("https://localhost:%d", d.port), err
}

func (d *demo) trustMaker() (string, error) {
	_, err := d.program("hallmark", "vendorca", "import", d.path("tpm-maker.pem"))
	return "its TPMs count as certified from now on", err
}

func (d *demo) order() (string, error) {
	for _, args := range [][]string{
		{"model", "create", "edge-box", "--assurance", "certified"},
		{"lot", "create", "pilot", "--model", "edge-box", "--quota", "10"},
	} {
		if _, err := d.program("hallmark", args...); err != nil {
			return "", err
		}
	}
	// The ticket stands alone on standard output, for scripts like this one.
	out, err := d.command("hallmark", "ticket", "create", "--lot", "pilot", "--serial", serial).Output()
	d.ticket = strings.TrimSpace(string(out))
	return "edge-box, 10 devices; the ticket is for " + serial, err
}

func (d *demo) device(args ...string) (string, error) {
	return d.program("hallmark-device", append(args, "--state", d.path("device"))...)
}

func (d *demo) enrol() (string, error) {
	if _, err := d.device("enrol", d.ticket, "--tpm", d.tpm.Spec()); err != nil {
		return "", err
	}
	return d.show("idevid.pem")
}

func (d *demo) renew() (string, error) {
	if _, err := d.device("renew"); err != nil {
		return "", err
	}
	return d.show("ldevid.pem")
}

// show reads a certificate of the device's as OpenSSL does.
func (d *demo) show(name string) (string, error) {
	text, err := d.tool("openssl", "x509", "-in", d.path("device", name), "-noout", "-subject", "-enddate", "-nameopt", "RFC2253")
	return strings.NewReplacer("subject=", "", "\nnotAfter=", ", until ").Replace(text), err
}

// connect runs a relying party that knows trust/relying-parties.pem and nothing else,
// and speaks to it with hallmark-device.
func (d *demo) connect() (string, error) {
	listener, err := d.relyingParty()
	if err != nil {
		return "", err
	}
	defer listener.Close()
	said := make(chan string, 1)
	go func() { said <- answerOne(listener) }()
	cmd := d.command("hallmark-device", "connect", "--state", d.path("device"), "--to", listener.Addr().String(), "--roots", d.path("relying-party.pem"))
	cmd.Stdin = strings.NewReader("hello from the device\n")
	out, err := printed(cmd)
	if err != nil {
		return "", err
	}
	if !strings.Contains(out, "welcome") {
		return "", fmt.Errorf("the relying party was not heard: %s", out)
	}
	return <-said, nil
}

func (d *demo) relyingParty() (net.Listener, error) {
	own, err := d.selfSigned("relying-party")
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	roots, err := os.ReadFile(d.path("ca", "trust", "relying-parties.pem"))
	if err != nil {
		return nil, err
	}
	trusted.AppendCertsFromPEM(roots)
	return tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
		Certificates: []tls.Certificate{own}})
}

func answerOne(l net.Listener) string {
	c, err := l.Accept()
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	conn := c.(*tls.Conn)
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		return err.Error()
	}
	peer := conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	io.WriteString(conn, "welcome "+peer+"\n")
	return "the relying party saw " + peer + " over " + tls.VersionName(conn.ConnectionState().Version)
}

func (d *demo) comeBack() (string, error) {
	before, err := os.ReadFile(d.path("device", "idevid.pem"))
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(d.path("device")); err != nil {
		return "", err
	}
	server := fmt.Sprintf("https://localhost:%d", d.port)
	if _, err := d.device("enrol", "--server", server, "--roots", d.path("ca", "trust", "infrastructure.pem"), "--tpm", d.tpm.Spec()); err != nil {
		return "", err
	}
	after, err := os.ReadFile(d.path("device", "idevid.pem"))
	if err != nil {
		return "", err
	}
	if string(before) != string(after) {
		return "", errors.New("it is another identity")
	}
	_, err = d.renew()
	return "the same certificate, without a ticket, not counted again", err
}

func (d *demo) revoke() (string, error) {
	text, err := d.program("hallmark", "device", "revoke", serial, "--reason", "key-compromise")
	return text[strings.LastIndexByte(text, '\n')+1:], err // the line before says which server it is
}

func (d *demo) renewRefused() (string, error) { return refused(d.device("renew")) }

func (d *demo) returnRefused() (string, error) {
	if err := os.RemoveAll(d.path("device-2")); err != nil {
		return "", err
	}
	return refused(d.program("hallmark-device", "enrol", d.ticket, "--tpm", d.tpm.Spec(), "--state", d.path("device-2")))
}

// refused wants the exit code of a final refusal and gives the first line that was printed.
func refused(text string, err error) (string, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 4 {
		return "", fmt.Errorf("a final refusal (exit code 4) was expected, not: %v", err)
	}
	line, _, _ := strings.Cut(text, "\n")
	return line, nil
}

// certificate is the device's newest working certificate as the record has it.
func (d *demo) certificate() (leaf *x509.Certificate, pemFile string, err error) {
	pemFile = d.path("device", "ldevid.pem")
	pair, err := os.ReadFile(pemFile)
	if err != nil {
		return nil, "", err
	}
	der, err := firstCertificate(pair)
	if err != nil {
		return nil, "", err
	}
	leaf, err = x509.ParseCertificate(der)
	return leaf, pemFile, err
}

func (d *demo) crl() (string, error) {
	leaf, file, err := d.certificate()
	if err != nil {
		return "", err
	}
	list := d.path("shard.crl")
	if err := fetch(d.ctx, leaf.CRLDistributionPoints[0], list); err != nil {
		return "", err
	}
	text, err := d.tool("openssl", "verify", "-x509_strict", "-crl_check", "-extended_crl", "-CRLfile", list,
		"-CAfile", d.path("ca", "trust", "relying-parties.pem"), "-untrusted", file, file)
	if err == nil || !strings.Contains(text, "certificate revoked") {
		return "", fmt.Errorf("openssl verify does not say that it is revoked: %v\n%s", err, text)
	}
	return "openssl verify: certificate revoked", nil
}

func (d *demo) ocsp() (string, error) {
	leaf, file, err := d.certificate()
	if err != nil {
		return "", err
	}
	issuer := d.path("operational.pem")
	der := d.path("operational.crt")
	if err := fetch(d.ctx, leaf.IssuingCertificateURL[0], der); err != nil {
		return "", err
	}
	if _, err := d.tool("openssl", "x509", "-inform", "DER", "-in", der, "-out", issuer); err != nil {
		return "", err
	}
	text, err := d.tool("openssl", "ocsp", "-issuer", issuer, "-cert", file, "-url", leaf.OCSPServer[0],
		"-CAfile", d.path("ca", "trust", "relying-parties.pem"), "-verify_other", issuer)
	if err != nil || !strings.Contains(text, ": revoked") {
		return "", fmt.Errorf("openssl ocsp does not say that it is revoked: %v\n%s", err, text)
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "Reason:") {
			return "openssl ocsp: revoked, " + strings.TrimSpace(strings.ReplaceAll(line, "Reason:", "reason")), nil
		}
	}
	return "openssl ocsp: revoked", nil
}
