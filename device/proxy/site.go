package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/page"
)

// Server makes the server's side of TLS (page.Server).
type Server interface {
	ServerTLSConfig(clients, fail string) (*tls.Config, error)
}

// Site is the reverse of a Tunnel: a local program's page, served to the network. Clients speak
// TLS and show a certificate; the program sees plain TCP from admitted clients only.
type Site struct {
	// Listen is HOST:PORT; an empty host means every address.
	Listen string `json:"listen"`
	// To is the program: HOST:PORT with a loopback address, or unix:PATH.
	To string `json:"to"`
	// Clients says who is admitted, as for page.Server; empty means page.Operators.
	Clients string `json:"clients,omitempty"`
	// Fail says what happens to a client whose CRL is unavailable: page.FailOpen, also if empty,
	// or page.FailClosed.
	Fail string `json:"fail,omitempty"`
	// Limit is how many connections stand at once, more wait; 0 means DefaultLimit.
	Limit int `json:"limit,omitempty"`
}

const (
	// admitTimeout bounds the handshake, in which an unadmitted client occupies a connection.
	admitTimeout = 15 * time.Second
	// programTimeout bounds connecting to the local program.
	programTimeout = 10 * time.Second
	// rejudged is how often a client whose connection stands is judged again.
	rejudged = 5 * time.Minute
)

// Check validates a site without opening it.
func (s Site) Check() error {
	if _, port, err := net.SplitHostPort(s.Listen); err != nil || port == "" {
		return fmt.Errorf("%q is not HOST:PORT or :PORT", s.Listen)
	}
	if s.Limit < 0 || s.Limit > maxLimit {
		return fmt.Errorf("%d connections at once: 1 to %d", s.Limit, maxLimit)
	}
	if f := cmp.Or(s.Fail, page.FailOpen); f != page.FailOpen && f != page.FailClosed {
		return fmt.Errorf("fail %q: %s or %s", s.Fail, page.FailOpen, page.FailClosed)
	}
	_, _, err := s.program()
	return err
}

// program parses To. What is decrypted must stay on the device.
func (s Site) program() (network, address string, err error) {
	network, address, err = onDevice(s.To)
	if err == nil && network == "" {
		err = fmt.Errorf("%q is not the address of a program on this device: 127.0.0.1:PORT or unix:PATH", s.To)
	}
	return network, address, err
}

// openSite opens a site's port, if there is a certificate for it.
func (p *Proxy) openSite(s Site) (net.Listener, *tls.Config, error) {
	if err := s.Check(); err != nil {
		return nil, nil, err
	}
	if p.Server == nil {
		return nil, nil, errors.New("there is nothing to serve with")
	}
	config, err := p.Server.ServerTLSConfig(cmp.Or(s.Clients, page.Operators), cmp.Or(s.Fail, page.FailOpen))
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", s.Listen)
	return l, config, err
}

// admit serves one client from the network.
func (p *Proxy) admit(ctx context.Context, s Site, config *tls.Config, raw net.Conn, log *journal) {
	far := tls.Server(device.Whole(raw), config)
	limited, cancel := context.WithTimeout(ctx, admitTimeout)
	err := far.HandshakeContext(limited)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			log.problem("%s: %v", host(raw), err)
		}
		return
	}
	network, address, err := s.program()
	var local net.Conn
	if err == nil {
		local, err = net.DialTimeout(network, address, programTimeout)
	}
	if err != nil {
		log.problem("%v", err)
		cut(far)
		return
	}
	defer local.Close()
	who := far.ConnectionState().PeerCertificates[0].Subject.String()
	p.trace("%s: %s from %s", s.Listen, who, raw.RemoteAddr())
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() {
		if err := p.watch(ctx, config, far.ConnectionState()); err != nil {
			log.problem("%s: the connection of %s is ended: %v", host(raw), who, err)
			end()
		}
	}()
	p.stand(ctx, local.(stream), far, who, host(raw), log)
}

// watch judges a client as at a handshake every now and then, until ctx ends or it would be refused: its
// certificate may end or be revoked while its connection stands.
func (p *Proxy) watch(ctx context.Context, config *tls.Config, client tls.ConnectionState) error {
	tick := time.NewTicker(cmp.Or(p.rejudged, rejudged))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := judge(config, client); err != nil {
				return err
			}
		}
	}
}

// judge says why a client would be refused by now.
func judge(config *tls.Config, client tls.ConnectionState) error {
	if config.GetConfigForClient != nil {
		now, err := config.GetConfigForClient(&tls.ClientHelloInfo{})
		if err != nil {
			return nil // it is the device that has no certificate, and its clients cannot help that
		}
		config = now
	}
	o := x509.VerifyOptions{Roots: config.ClientCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if config.Time != nil {
		o.CurrentTime = config.Time()
	}
	for _, c := range client.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	var err error
	if client.VerifiedChains, err = client.PeerCertificates[0].Verify(o); err != nil || config.VerifyConnection == nil {
		return err
	}
	return config.VerifyConnection(client)
}

// host is the peer's address without the port, which differs each time.
func host(c net.Conn) string {
	name, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	return name
}
