package device

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/device/state"
)

// Identity is the device's current working certificate. It follows renewals, whichever process
// makes them: new connections use the new certificate, and existing ones go on. The key is needed
// only for handshakes, and the TPM is free for others in between. It is safe for concurrent use.
type Identity struct {
	o   Options
	dir *state.Dir

	mu      sync.Mutex
	version string // of the state that current is from
	current *Credential
}

// OpenIdentity reads the state folder and loads the key, so that errors in either are reported at
// once. Of the options only State, TPM, Built and Now are used.
func OpenIdentity(o Options) (*Identity, error) {
	i := &Identity{o: o, dir: state.At(o.State)}
	if _, err := i.Credential(); err != nil {
		return nil, err
	}
	return i, nil
}

// Credential is the newest working certificate with its key. It stays usable after the next
// renewal; to get the newest call Credential again.
func (i *Identity) Credential() (*Credential, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	version, err := i.dir.Version()
	if err != nil {
		return nil, err
	}
	if i.current != nil && version == i.version {
		return i.current, nil
	}
	// If the set is replaced between Version and here, it is read again next time. The old
	// credential is not closed: a handshake may be signing with it, and an idle key holds no
	// resources.
	current, err := OpenCredential(i.o.State, i.o.TPM)
	if err != nil {
		return nil, err
	}
	i.version, i.current = version, current
	return current, nil
}

// Close closes the TPM; keys obtained from the identity cannot sign afterwards.
func (i *Identity) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == nil {
		return nil
	}
	return i.current.Close()
}

// TLSConfig is for the client side of mutual TLS and shows the current certificate in each
// handshake. roots are the trusted roots (see Roots). It works with a clock that was never set.
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

// Now is the system clock, or the latest time that has certainly passed if that is later.
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

// Names that Roots accepts besides those of files.
const (
	SystemRoots         = "system"
	InfrastructureRoots = "infrastructure"
)

// Roots are the certificates that a server's chain may end in: those of a PEM file, which may be
// the server's own certificate, of the system (SystemRoots), of the newest trust bundle
// (InfrastructureRoots), or of the latter two if which is empty. They may change: call it for
// each connection.
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

// maxRoots bounds a file of roots, in bytes; a system's has about 220 KiB.
const maxRoots = 4 << 20

// ReadRoots reads a PEM file that holds only CA certificates (DER each).
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
