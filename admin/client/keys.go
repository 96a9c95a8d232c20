package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// role is what differs between an operator's certificate and a relay's.
type role struct {
	noun, kind            string
	accept, renewal       string // paths
	accepting, renewLabel string // labels of bindings
}

var (
	operatorRole = role{"operator", wire.KindInvitation, wire.PathAccept, wire.PathRenewal, wire.LabelAccept, wire.LabelOperator}
	relayRole    = role{"relay", wire.KindRelay, wire.PathRelayAccept, wire.PathRelayRenewal, wire.LabelRelayAccept, wire.LabelRelay}
)

// Accept turns an invitation into an operator's folder at dir and returns the
// operator's name and the path of the settings. An existing folder is refused before the
// invitation is used up. If no answer came, Accept may be called again for the same
// folder while the invitation lasts.
func Accept(ctx context.Context, invitation, dir string) (operator, settings string, err error) {
	return operatorRole.join(ctx, invitation, dir)
}

// AcceptRelay is Accept for the relay of a relying party.
func AcceptRelay(ctx context.Context, invitation, dir string) (party, settings string, err error) {
	return relayRole.join(ctx, invitation, dir)
}

func (r role) join(ctx context.Context, invitation, dir string) (name, settings string, err error) {
	p, err := wire.ParsePermission(r.kind, invitation)
	if err != nil {
		return "", "", err
	}
	if _, err := readSettings(dir); err == nil {
		return "", "", fmt.Errorf("%s is the folder of an operator or a relay already: choose another", dir)
	}
	pending := filepath.Join(dir, ".accepting-"+p.ID+".key")
	key, err := pendingKey(pending)
	if err != nil {
		return "", "", err
	}
	bundle, _, err := fetchTrust(ctx, p.Server, func(sum [32]byte) bool { return sum == p.Root })
	if err != nil {
		return "", "", err
	}
	chain, err := r.certify(ctx, key, p.Server, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool(bundle)}, nil, &p)
	if err != nil {
		return "", "", err
	}
	if settings, err = Write(dir, p.Server, bundle, key, chain.Chain); err != nil {
		return "", "", err
	}
	return chain.Operator, settings, os.Remove(pending)
}

// renewIfDue renews past two thirds of the certificate's life, or when another CA is in
// the place of the one that issued it. A failure is only told: the present one is still good.
func (c *Client) renewIfDue(ctx context.Context) {
	leaf := c.current().Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	if time.Now().Before(leaf.NotBefore.Add(life/3*2)) && !c.succeeded() {
		return
	}
	if err := c.renew(ctx); err != nil {
		c.warn(fmt.Sprintf("your certificate ends on %s and could not be renewed: %v", leaf.NotAfter.Format(time.DateOnly), err))
	}
}

// renew fetches a certificate for a new key and replaces the identity file by both.
func (c *Client) renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	answer, err := c.role.certify(ctx, key, c.settings.Server, c.tlsConfig(), c.current().Certificate[0], nil)
	if err != nil {
		return err
	}
	if err := writeIdentity(c.settings.Identity, key, answer.Chain); err != nil {
		return err
	}
	identity, err := readIdentity(c.settings.Identity)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.identity = identity
	c.mu.Unlock()
	c.http.CloseIdleConnections() // they speak for the old certificate
	return nil
}

// certify asks for a key's certificate on a connection of its own, whose exporter enters
// the binding: the request means nothing on any other.
func (r role) certify(ctx context.Context, key *ecdsa.PrivateKey, server string, config *tls.Config, client []byte, p *wire.Permission) (answer wire.OperatorChain, err error) {
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return answer, err
	}
	message, binding, path := wire.NewKey{Key: public}, wire.Binding{Label: r.renewLabel, Client: client}, r.renewal
	if p != nil {
		message.Invitation, binding.Label, path = p.ID, r.accepting, r.accept
	}
	if binding.Message, err = json.Marshal(message); err != nil {
		return answer, err
	}
	conn, err := dial(ctx, server, config)
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	state := conn.ConnectionState()
	if binding.Exporter, err = state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLength); err != nil {
		return answer, err
	}
	sum := binding.Sum()
	request := wire.KeyRequest{Message: binding.Message}
	if request.Signature, err = ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
		return answer, err
	}
	if p != nil {
		request.MAC = p.MAC(sum)
	}
	if err := exchange(ctx, through(conn), server, http.MethodPost, path, request, &answer, maxTrust); err != nil {
		return answer, err
	}
	return answer, certifies(answer.Chain, public)
}

// certifies checks that what came is a certificate for the key that was sent.
func certifies(chain [][]byte, public []byte) error {
	if len(chain) == 0 || len(chain) > maxChain {
		return fmt.Errorf("the server sent %d certificates, want 1 to %d", len(chain), maxChain)
	}
	for _, der := range chain {
		if _, err := x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("the server's answer: %w", err)
		}
	}
	if leaf, err := x509.ParseCertificate(chain[0]); err != nil || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, public) {
		return errors.New("the server certified another key than the one sent")
	}
	return nil
}

func dial(ctx context.Context, server string, config *tls.Config) (*tls.Conn, error) {
	u, err := wire.ServerURL(server)
	if err != nil {
		return nil, err
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "443")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, unreachable(ctx, server, err)
	}
	return conn.(*tls.Conn), nil
}

// through speaks HTTP on a connection that is there already, and on no other.
func through(conn *tls.Conn) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		Transport:     transport(func(context.Context, string, string) (net.Conn, error) { return conn, nil }),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// pendingKey is the key that a run without an answer has left at path, or a new one. It
// is written before it is used, because the server repeats a lost answer to the same key
// alone; and whoever cannot write learns it before the invitation is used up.
func pendingKey(path string) (*ecdsa.PrivateKey, error) {
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return key, writeIdentity(path, key, nil)
	}
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(text); block != nil {
		if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if key, ok := parsed.(*ecdsa.PrivateKey); ok {
				return key, nil
			}
		}
	}
	return nil, fmt.Errorf("%s is damaged: remove it and try again", path)
}
