package page

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/internal/crl"
)

const (
	// listTimeout bounds fetching a list, while clients wait; failedTimeout is how long they wait
	// if the server did not answer last time.
	listTimeout   = 5 * time.Second
	failedTimeout = time.Second
	// maxList bounds a list, in bytes: a shard of 65,536 certificates, all revoked. maxHeader
	// bounds the HTTP header.
	maxList   = 4 << 20
	maxHeader = 16 << 10
	// listAge is how long a list is cached before it is fetched again, failureAge the pause after
	// a failed fetch.
	listAge    = 5 * time.Minute
	failureAge = time.Minute
	// maxLists bounds how many are cached, of at most 6 MB each, and how many are fetched at
	// once: a client's certificate names one, its CA's another.
	maxLists = 4
	// skew is how far the CA's clock may be ahead.
	skew = 5 * time.Minute
)

// errNoList: a certificate names no list.
var errNoList = errors.New("the certificate names no CRL")

// Lists knows which certificates were revoked: it fetches the CRLs that they name, and caches
// them. The zero value is ready to use. It is safe for concurrent use; callers that need the same
// list wait for the same fetch, and only briefly if the server has failed before.
type Lists struct {
	mu    sync.Mutex
	known map[string]*list // by URL and issuer
	busy  int              // fetches in progress
	freed chan struct{}    // closed when a fetch ends; nil if nobody waits for that
	told  time.Time
	// dial replaces net.DialTimeout unless nil.
	dial dialer
}

// tell reports whether it is time to report again that lists are unavailable.
func (l *Lists) tell() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.told.IsZero() && time.Since(l.told) < listAge {
		return false
	}
	l.told = time.Now()
	return true
}

type dialer func(network, address string, timeout time.Duration) (net.Conn, error)

type list struct {
	asked   time.Time // with the monotonic clock
	err     error
	until   time.Time
	number  *big.Int
	revoked map[string]bool // serial numbers
	// fetching is closed when the fetch in progress ends; nil if there is none.
	fetching chan struct{}
}

// revoked reports whether issuer has revoked a certificate as of now. An error means that this is
// unknown.
func (l *Lists) revoked(c, issuer *x509.Certificate, now time.Time) (bool, error) {
	i := slices.IndexFunc(c.CRLDistributionPoints, func(u string) bool { return strings.HasPrefix(u, "http://") })
	if i < 0 {
		return false, errNoList
	}
	url := c.CRLDistributionPoints[i]
	key := url + "\n" + string(issuer.Raw) // another CA may name the same URL for a list of its own
	have, fetched, patience, full := l.ask(key, url, issuer, now)
	for late := time.After(failedTimeout); full != nil; {
		select {
		case <-full:
			have, fetched, patience, full = l.ask(key, url, issuer, now)
		case <-late:
			full = nil
		}
	}
	if patience > 0 {
		select {
		case <-fetched:
		case <-time.After(patience):
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case have.revoked[string(c.SerialNumber.Bytes())]: // also by an expired list
		return true, nil
	case have.number != nil && now.Before(have.until):
		return false, nil
	case have.err != nil:
		return false, fmt.Errorf("%s: %w", url, have.err)
	}
	return false, fmt.Errorf("%s: no CRL is to be had yet, or it has ended", url)
}

// ask finds a list and has it fetched if due. patience is how long to wait for that: until the
// timeout if the server answered last time or was never asked; briefly, and not every time, if it
// failed. full, unless nil, means that no fetch could start and nothing valid is known: it is
// closed when there may be room for one.
func (l *Lists) ask(key, url string, issuer *x509.Certificate, now time.Time) (have *list, fetched <-chan struct{}, patience time.Duration, full <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have = l.known[key]
	if have == nil {
		if len(l.known) >= maxLists {
			clear(l.known)
		}
		if l.known == nil {
			l.known = map[string]*list{}
		}
		have = &list{}
		l.known[key] = have
	}
	age, failed := time.Since(have.asked), have.err != nil
	due := have.fetching == nil && (have.asked.IsZero() || age > listAge || failed && age > failureAge)
	if due && l.busy < maxLists {
		have.fetching = make(chan struct{})
		l.busy++
		go l.fetch(have, url, issuer, now)
	}
	switch {
	case have.fetching == nil && due && !failed && !now.Before(have.until):
		if l.freed == nil {
			l.freed = make(chan struct{})
		}
		return have, nil, 0, l.freed
	case have.fetching == nil:
		return have, nil, 0, nil
	case !failed:
		patience = listTimeout
	case age > listAge:
		patience = failedTimeout
	}
	return have, have.fetching, patience, nil
}

// fetch updates a list; on failure the old content stays.
func (l *Lists) fetch(have *list, url string, issuer *x509.Certificate, now time.Time) {
	fresh, dial := &list{}, l.dial
	if dial == nil {
		dial = net.DialTimeout
	}
	err := fresh.fetch(dial, url, issuer, now)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && have.number != nil && fresh.number.Cmp(have.number) < 0 {
		err = errors.New("an older CRL than before: somebody in between repeats old answers")
	}
	if err == nil {
		have.until, have.number, have.revoked = fresh.until, fresh.number, fresh.revoked
	}
	have.err, have.asked = err, time.Now()
	close(have.fetching)
	have.fetching = nil
	l.free()
}

// free makes room for another fetch; l.mu is held.
func (l *Lists) free() {
	l.busy--
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
}

// fetch downloads a list over plain HTTP and follows no redirects: the list is signed, but
// requests go only where the CA's certificates say.
func (l *list) fetch(dial dialer, url string, issuer *x509.Certificate, now time.Time) error {
	answer, err := get(dial, url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %d", answer.StatusCode) // its own words may be megabytes
	}
	der, err := io.ReadAll(io.LimitReader(answer.Body, maxList+1))
	if err == nil && len(der) > maxList {
		err = fmt.Errorf("more than %d bytes", maxList)
	}
	if err != nil {
		return err
	}
	return l.read(der, url, issuer, now)
}

// get makes a request without net/http's client, which would be a tenth of the whole agent.
// Closing the body closes the connection.
func get(dial dialer, address string) (*http.Response, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	conn, err := dial("tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")), listTimeout)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(listTimeout))
	answer, err := ask(conn, u)
	if err != nil {
		conn.Close()
		return nil, err
	}
	answer.Body = struct {
		io.Reader
		io.Closer
	}{answer.Body, conn}
	return answer, nil
}

func ask(conn net.Conn, u *url.URL) (*http.Response, error) {
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: hallmark-device\r\nConnection: close\r\n\r\n", u.RequestURI(), u.Host)
	if err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxHeader+maxList)), nil)
}

// read accepts a list if issuer signed it for the shard at url and it has not expired.
func (l *list) read(der []byte, url string, issuer *x509.Certificate, now time.Time) error {
	if !crl.Signed(der, issuer) { // and parsed, 4 MiB would be 80
		return errors.New("a CRL that its issuer has not signed")
	}
	list, err := x509.ParseRevocationList(der)
	if err == nil && !bytes.Equal(list.RawIssuer, issuer.RawSubject) {
		err = errors.New("another issuer's CRL")
	}
	if err == nil {
		err = list.CheckSignatureFrom(issuer)
	}
	switch {
	case err != nil:
		return err
	case list.Number == nil: // RFC 5280 §5.2.3
		return errors.New("a CRL without a number")
	case !now.Before(list.NextUpdate):
		return fmt.Errorf("a CRL that ended on %s", list.NextUpdate.Format(time.RFC3339))
	case list.ThisUpdate.After(now.Add(skew)):
		return errors.New("a CRL of the future")
	}
	if err := scope(list.Extensions, url); err != nil {
		return err
	}
	l.number, l.until, l.revoked = list.Number, list.NextUpdate, make(map[string]bool, len(list.RevokedCertificateEntries))
	for _, e := range list.RevokedCertificateEntries {
		l.revoked[string(e.SerialNumber.Bytes())] = true
	}
	return nil
}

// point is issuingDistributionPoint (RFC 5280 §5.2.5).
type point struct {
	Point struct {
		Full []asn1.RawValue `asn1:"optional,tag:0"`
	} `asn1:"optional,tag:0"`
	OnlyUser bool           `asn1:"optional,tag:1"`
	OnlyCA   bool           `asn1:"optional,tag:2"`
	Reasons  asn1.BitString `asn1:"optional,tag:3"`
	Indirect bool           `asn1:"optional,tag:4"`
}

// scope refuses a list for another shard than url's, which the issuer has signed as well, but
// which does not cover the certificate.
func scope(extensions []pkix.Extension, url string) error {
	for _, e := range extensions {
		switch {
		case e.Id.Equal([]int{2, 5, 29, 28}):
			var p point
			rest, err := asn1.Unmarshal(e.Value, &p)
			if err != nil || len(rest) > 0 || p.Indirect || p.OnlyCA || p.Reasons.BitLength > 0 {
				return errors.New("a CRL of a kind that is not understood")
			}
			const uri = 6 // GeneralName.uniformResourceIdentifier
			if !slices.ContainsFunc(p.Point.Full, func(n asn1.RawValue) bool {
				return n.Class == asn1.ClassContextSpecific && n.Tag == uri && string(n.Bytes) == url
			}) {
				return errors.New("the CRL of another shard")
			}
		case e.Critical: // as in a delta, or an unknown extension
			return errors.New("a CRL of a kind that is not understood")
		}
	}
	return nil
}
