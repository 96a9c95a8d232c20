package device

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/device/state"
)

// Identity is the device's working certificate as it is at each moment. It follows
// renewals, whichever process makes them: what begins after a renewal uses the new
// certificate, what has begun goes on. The key is needed for handshakes only, and the
// TPM is free for others in between. It may be used from several goroutines.
type Identity struct {
	o   Options
	dir *state.Dir

	mu      sync.Mutex
	set     string // the state's set that current is of
	current *Credential
}

// OpenIdentity reads the state folder and loads the key, so that what is wrong with
// either is told at once. Only State, TPM, Built and Now of the options are used.
func OpenIdentity(o Options) (*Identity, error) {
	i := &Identity{o: o, dir: state.At(o.State)}
	if _, err := i.Credential(); err != nil {
		return nil, err
	}
	return i, nil
}

// Credential is the newest working certificate with its key. It stays usable after the
// next renewal; who needs the newest asks again.
func (i *Identity) Credential() (*Credential, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	set, err := i.dir.Current()
	if err != nil {
		return nil, err
	}
	if i.current != nil && set == i.set {
		return i.current, nil
	}
	// A set that is replaced between the two lines is read again the next time. The old
	// credential is not closed: a handshake may be signing with it, and a key at rest
	// holds nothing.
	current, err := OpenCredential(i.o.State, i.o.TPM)
	if err != nil {
		return nil, err
	}
	i.set, i.current = set, current
	return current, nil
}

// Signer is the key of the certificate: an ECDSA key that signs in the TPM, or wherever
// it is kept.
func (c *Credential) Signer() crypto.Signer { return c.Certificate.PrivateKey.(crypto.Signer) }

// Close lets go of the TPM; the keys that the identity has given cannot sign afterwards.
func (i *Identity) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == nil {
		return nil
	}
	return i.current.Close()
}

// TLSConfig is for the client's side of mutual TLS, in each handshake of which the
// certificate of that moment is shown. roots are whom to believe (see Roots); a clock
// that was never set does not keep the device from its servers.
func (i *Identity) TLSConfig(roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		Time:       i.Now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := i.Credential()
			if err != nil {
				return nil, err
			}
			return &c.Certificate, nil
		},
	}
}

// Now is the system clock, or what has passed for certain if that is later.
func (i *Identity) Now() time.Time {
	now := time.Now
	if i.o.Now != nil {
		now = i.o.Now
	}
	times := []time.Time{now(), i.o.Built}
	if c, err := i.Credential(); err == nil {
		times = append(times, c.Trust.Created)
		if leaf, err := x509.ParseCertificate(c.Certificate.Certificate[0]); err == nil {
			times = append(times, leaf.NotBefore)
		}
	}
	return slices.MaxFunc(times, time.Time.Compare)
}

// Names that Roots knows, beside those of files.
const (
	SystemRoots         = "system"
	InfrastructureRoots = "infrastructure"
)

// Roots are the certificates that a server's chain may end in: of a PEM file, which may
// be the server's own certificate, of the system (SystemRoots), of the newest trust
// bundle (InfrastructureRoots), or of these two if which is empty. They are those of this
// moment: ask again for each connection.
func (i *Identity) Roots(which string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	var list [][]byte
	switch which {
	case "", SystemRoots:
		system, err := x509.SystemCertPool()
		if err == nil {
			pool = system
		} else if which == SystemRoots {
			return nil, fmt.Errorf("the system's roots: %w", err)
		}
	case InfrastructureRoots:
	default:
		var err error
		if list, err = readCertificates(which); err != nil {
			return nil, err
		}
	}
	if which == "" || which == InfrastructureRoots {
		c, err := i.Credential()
		if err != nil {
			return nil, err
		}
		list = c.Trust.Infrastructure
	}
	for _, der := range list {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		pool.AddCert(root)
	}
	return pool, nil
}

// maxRoots bounds a file of roots, in bytes; a whole system's has about 220 KiB.
const maxRoots = 4 << 20

// ReadRoots reads a PEM file of CA certificates and nothing else (DER each).
func ReadRoots(path string) ([][]byte, error) {
	list, err := readCertificates(path)
	for _, der := range list {
		if root, err := x509.ParseCertificate(der); err != nil || !root.IsCA {
			return nil, fmt.Errorf("%s holds something else than CA certificates", path)
		}
	}
	return list, err
}

// readCertificates reads a PEM file of certificates (DER each).
func readCertificates(path string) ([][]byte, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxRoots {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxRoots)
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := state.DecodeChain(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}
