package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/steps"
)

const (
	// handshakeTimeout bounds the search for the server and the handshake with it.
	handshakeTimeout = 20 * time.Second
	// starting is how long a server may take to come up.
	starting = 3 * time.Second
)

// dialTLS connects to the server. If its certificate ends in a root that the settings do
// not name, the installation may have moved on: then its trust bundles say so, which
// begin with a root that they do name.
func (c *Client) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := c.knock(ctx, network, address)
	if errors.As(err, new(x509.UnknownAuthorityError)) {
		if _, lost := c.follow(ctx); lost == nil {
			conn, err = c.knock(ctx, network, address)
		}
	}
	if err != nil {
		return nil, err
	}
	shown := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	c.mu.Lock()
	defer c.mu.Unlock()
	if !bytes.Equal(c.issuer, shown.AuthorityKeyId) {
		c.issuer = shown.AuthorityKeyId
		select {
		case c.another <- struct{}{}:
		default: // it is known already
		}
	}
	return conn, nil
}

// knock dials, again for a while if nobody listens there: the command that starts a server
// and the first that asks it are often pasted together.
func (c *Client) knock(ctx context.Context, network, address string) (net.Conn, error) {
	for deadline := time.Now().Add(c.patience); ; time.Sleep(100 * time.Millisecond) {
		conn, err := (&tls.Dialer{Config: c.tlsConfig()}).DialContext(ctx, network, address)
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(deadline) || ctx.Err() != nil {
			return conn, err
		}
	}
}

// succeeded reports whether the server's own certificate is of another CA of ours than
// the one in use here: the old one will not be accepted for ever.
func (c *Client) succeeded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.issuer) > 0 && !bytes.Equal(c.issuer, c.identity.Leaf.AuthorityKeyId)
}

// follow takes the roots of the server's newest trust bundle into the settings, and out of them
// those that only its older ones name, which it reports. Roots that it never had stay: another
// installation may share the file.
func (c *Client) follow(ctx context.Context) (retired bool, err error) {
	text, err := readFile(c.settings.Roots)
	if err != nil {
		return false, err
	}
	held, sums := bundleNumber(text), fingerprints(text)
	bundle, former, err := fetchTrust(ctx, c.settings.Server, func(sum [32]byte) bool { return slices.Contains(sums, sum) })
	if err != nil {
		return false, err
	}
	if bundle.Number <= held {
		return false, fmt.Errorf("trust bundle %d is %w than %d, which is known here", bundle.Number, errNoNewer, held)
	}
	c.mu.Lock()
	c.roots = pool(bundle) // also where the file cannot be written
	c.mu.Unlock()
	others, retired := besides(text, bundle, former)
	return retired, durable.ReplaceForOwner(c.settings.Roots, append(rootsText(bundle), certificatesPEM(others)...), 0o644)
}

// besides are the roots of a file that no bundle of the server names, the newest or a former
// one. retired reports whether there is one that only the former ones name.
func besides(text []byte, newest wire.Bundle, former []wire.Bundle) (others [][]byte, retired bool) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		named := func(b wire.Bundle) bool {
			return slices.ContainsFunc(b.Infrastructure, func(der []byte) bool { return bytes.Equal(der, block.Bytes) })
		}
		switch {
		case named(newest):
		case slices.ContainsFunc(former, named):
			retired = true
		default:
			others = append(others, block.Bytes)
		}
	}
	return others, retired
}

var errNoNewer = errors.New("no newer")

const (
	// lookAgain is how often the newest trust bundle is asked for though the server is believed,
	// lookTimeout how long a command whose answer has come waits for it.
	lookAgain   = 24 * time.Hour
	lookTimeout = 5 * time.Second
)

// forget removes from the settings the roots that the newest trust bundle no longer lists: a stolen
// key of a root that was retired would be trusted here for ever. The file's time says when that was
// last looked for.
func (c *Client) forget(ctx context.Context) {
	c.mu.Lock()
	again := time.Since(c.looked) >= lookAgain // also where the file cannot be written
	if again {
		c.looked = time.Now()
	}
	c.mu.Unlock()
	info, err := os.Stat(c.settings.Roots)
	if !again || err != nil || time.Since(info.ModTime()).Abs() < lookAgain {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	retired, err := c.follow(ctx)
	if errors.Is(err, errNoNewer) {
		err = os.Chtimes(c.settings.Roots, time.Time{}, time.Now())
	}
	switch {
	case err == nil:
	case retired:
		c.warn(fmt.Sprintf("a root in %s was retired, and cannot be taken out: %v", c.settings.Roots, err))
	case !readOnly(err): // else all that it holds is still to be trusted
		c.warn(fmt.Sprintf("whether all of %s are still to be trusted is not known: %v", c.settings.Roots, err))
	}
}

// readOnly: a file may not be written by this user, or by nobody.
func readOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// numbered precedes the roots in their file, so that no older bundle takes their place.
const numbered = "Trust bundle "

func rootsText(b wire.Bundle) []byte {
	return append(fmt.Appendf(nil, numbered+"%d\n", b.Number), certificatesPEM(b.Infrastructure)...)
}

// bundleNumber is that of the bundle which a file of roots was taken from; 0 if it does
// not say so.
func bundleNumber(text []byte) int64 {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	digits, ok := bytes.CutPrefix(line, []byte(numbered))
	n, err := strconv.ParseInt(string(digits), 10, 64)
	if !ok || err != nil {
		return 0
	}
	return n
}

func fingerprints(text []byte) (sums [][32]byte) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		sums = append(sums, sha256.Sum256(block.Bytes))
	}
	return sums
}

// pool is a bundle's infrastructure roots.
func pool(b wire.Bundle) *x509.CertPool {
	roots := x509.NewCertPool()
	for _, der := range b.Infrastructure {
		if root, err := x509.ParseCertificate(der); err == nil {
			roots.AddCert(root)
		}
	}
	return roots
}

// fetchTrust fetches the newest trust bundle, and those before it, over a connection that it
// judges afterwards: a root that pinned accepts must have signed the newest, or one that leads
// to it, and its roots must have vouched for this very connection.
func fetchTrust(ctx context.Context, server string, pinned func([32]byte) bool) (newest wire.Bundle, former []wire.Bundle, err error) {
	conn, err := dial(ctx, server, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true})
	if err != nil {
		return newest, nil, err
	}
	defer conn.Close()
	newest, way, err := openTrust(ctx, through(conn), server, pinned)
	if errors.As(err, new(*wire.Problem)) {
		// Its words, and its hints, are not the server's before it has shown that it is one.
		return newest, nil, &Unreachable{Server: host(server), Err: errors.New("it refuses to say who it is"), Hint: "check the address, and what stands in between"}
	} else if err != nil {
		return newest, nil, err
	}
	intermediates := x509.NewCertPool()
	shown := conn.ConnectionState().PeerCertificates
	for _, c := range shown[1:] {
		intermediates.AddCert(c)
	}
	u, err := url.Parse(server)
	if err != nil {
		return newest, nil, err
	}
	if _, err := shown[0].Verify(x509.VerifyOptions{DNSName: u.Hostname(), Roots: pool(newest), Intermediates: intermediates}); err != nil {
		return newest, nil, unreachable(ctx, server, err)
	}
	for _, s := range way {
		if b, err := wire.ReadBundle(s); err == nil && b.Number < newest.Number {
			former = append(former, b)
		}
	}
	return newest, former, nil
}

func openTrust(ctx context.Context, via *http.Client, server string, pinned func([32]byte) bool) (wire.Bundle, []wire.SignedBundle, error) {
	var newest wire.SignedBundle
	if err := exchange(ctx, via, server, http.MethodGet, wire.PathTrust, nil, &newest, maxTrust); err != nil {
		return wire.Bundle{}, nil, err
	}
	way, err := fetchSteps(ctx, via, server)
	if err != nil {
		return wire.Bundle{}, nil, err
	}
	bundle, refused := wire.OpenBundle(newest, pinned)
	if refused == nil {
		return bundle, way, nil
	}
	if bundle, err = steps.Open(way, pinned); err != nil {
		return wire.Bundle{}, nil, &Unreachable{Server: host(server), Err: refused,
			Hint: "this is another server than the one that is trusted here"}
	}
	return bundle, way, nil
}

// fetchSteps fetches every bundle that the server keeps, in order.
func fetchSteps(ctx context.Context, via *http.Client, server string) (all []wire.SignedBundle, err error) {
	for after := int64(0); ; {
		var some wire.TrustSteps
		path := wire.PathTrust + "?after=" + strconv.FormatInt(after, 10)
		if err := exchange(ctx, via, server, http.MethodGet, path, nil, &some, maxTrust); err != nil {
			return nil, err
		}
		if all = append(all, some.Bundles...); len(some.Bundles) == 0 || len(all) > wire.MaxSteps {
			return all, nil
		}
		last, err := wire.ReadBundle(some.Bundles[len(some.Bundles)-1])
		if err != nil {
			return nil, err
		}
		if last.Number <= after || last.Number >= some.Newest {
			return all, nil
		}
		after = last.Number
	}
}
