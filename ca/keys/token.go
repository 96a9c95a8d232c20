package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/pkcs11"
)

// ErrPIN: the token refuses the PIN. It is not tried again, since tokens lock themselves after a
// few attempts.
var ErrPIN = errors.New("the PKCS #11 token refuses the PIN")

var (
	errAway = errors.New("the PKCS #11 token is away")
	errLate = errors.New("the PKCS #11 token does not answer")
)

const (
	// patience is how long a signature may take; a network HSM takes milliseconds.
	patience = 5 * time.Second
	// loginPatience is how long finding the token and the first login may take, makePatience how
	// long making a key may take; a smart card needs seconds.
	loginPatience = 30 * time.Second
	makePatience  = 2 * time.Minute
	// places is how many operations a token is given at once.
	places = 16
	// loginEvery is the least time between two logins to a token that fails.
	loginEvery = 10 * time.Second
)

// module is a PKCS #11 module, which may serve several tokens.
type module struct {
	mu     sync.RWMutex // write-locked during a login to one of them
	tokens []*token     // guarded by mu
}

// token is a token with its login, which is shared by all its keys in the process.
type token struct {
	at     tokenURI
	module *module
	places chan struct{}
	late   atomic.Int32 // operations still holding a place although their caller gave up

	// The module's lock guards these.
	kms     *pkcs11.PKCS11 // nil while it is away
	signers sync.Map       // by name, so that each key is searched for once
	logins  int
	soon    atomic.Int64 // the number of the last login, 0 once loginEvery has passed since
	away    error        // why the last login failed
}

var tokens = struct {
	mu      sync.Mutex
	known   map[tokenURI]*token
	modules map[string]*module
}{known: map[tokenURI]*token{}, modules: map[string]*module{}}

func tokenAt(at tokenURI) *token {
	tokens.mu.Lock()
	defer tokens.mu.Unlock()
	t := tokens.known[at]
	if t == nil {
		m := tokens.modules[at.module]
		if m == nil {
			m = new(module)
			tokens.modules[at.module] = m
		}
		t = &token{at: at, module: m, places: make(chan struct{}, places)}
		tokens.known[at] = t
	}
	return t
}

func openToken(at tokenURI) (*token, error) {
	t := tokenAt(at)
	return inTime(t, loginPatience, func() (*token, error) {
		if t.isOpen() {
			return t, nil
		}
		t.module.mu.Lock()
		defer t.module.mu.Unlock()
		if t.kms != nil {
			return t, nil
		}
		if t.logins == 0 {
			t.module.tokens = append(t.module.tokens, t)
		}
		return t, t.login()
	})
}

// inTime runs an operation of a token and gives up after limit, so that a token that hangs does
// not hang its callers. While it hangs, other callers wait a tenth as long.
func inTime[T any](t *token, limit time.Duration, do func() (T, error)) (T, error) {
	type answer struct {
		result T
		err    error
	}
	if t.late.Load() > 0 {
		limit /= 10
	}
	var none T
	enough := time.After(limit)
	select {
	case t.places <- struct{}{}:
	case <-enough:
		return none, errLate
	}
	done := make(chan answer, 1)
	go func() {
		var a answer
		defer func() { <-t.places; done <- a }()
		defer caught(&a.err) // nothing else recovers in this goroutine
		a.result, a.err = do()
	}()
	select {
	case a := <-done:
		return a.result, a.err
	case <-enough:
		t.late.Add(1)
		go func() { <-done; t.late.Add(-1) }()
		return none, errLate
	}
}

// login logs in; the module is write-locked.
func (t *token) login() error {
	t.logins++
	n := int64(t.logins)
	t.soon.Store(n)
	time.AfterFunc(loginEvery, func() { t.soon.CompareAndSwap(n, 0) })
	t.kms, t.away = t.at.login()
	return t.away
}

func (at tokenURI) login() (kms *pkcs11.PKCS11, err error) {
	defer caught(&err)
	options := apiv1.Options{URI: at.uri}
	if at.pinFile != "" {
		pin, err := file{at.pinFile}.read()
		if err != nil {
			return nil, fmt.Errorf("the PIN of the PKCS #11 token: %w", err)
		}
		if options.Pin = string(bytes.TrimSpace(pin)); options.Pin == "" {
			return nil, fmt.Errorf("the PIN of the PKCS #11 token: %s is empty", at.pinFile)
		}
	}
	kms, err = pkcs11.New(context.Background(), options)
	switch {
	case err == nil:
		return kms, nil
	case strings.Contains(err.Error(), "compiled without cgo"):
		return nil, errors.New("this hallmarkd was built without PKCS #11: make build HSM=1 makes one that has it")
	case strings.Contains(err.Error(), "CKR_PIN_"):
		return nil, fmt.Errorf("%w: %w", ErrPIN, err)
	}
	return nil, fmt.Errorf("the PKCS #11 token: %w", err)
}

// caught, deferred, turns a panic of the PKCS #11 libraries into an error. crypto11 panics if the
// token allows only one read/write session (ulMaxRwSessionCount, PKCS #11 v2.40 §3.2), because it
// keeps one session for the login and needs another to sign.
func caught(err *error) {
	switch p := recover(); {
	case p == nil:
	case strings.Contains(fmt.Sprint(p), "invalid/out of range capacity"):
		*err = errors.New("the PKCS #11 token allows one read/write session at a time, and two are needed, of which one keeps the login: where it can be set, raise ulMaxRwSessionCount")
	default:
		*err = fmt.Errorf("the PKCS #11 library panicked: %v", p)
	}
}

// loginAfter logs in again, unless another caller has since that login, it is too soon, or the
// PIN was refused. It reports whether to retry.
func (t *token) loginAfter(login int) bool {
	t.module.mu.Lock()
	defer t.module.mu.Unlock()
	switch {
	case t.logins != login:
		return t.kms != nil
	case errors.Is(t.away, ErrPIN) || t.soon.Load() != 0:
		return false
	}
	t.close()
	if err := t.login(); err == nil || errors.Is(err, ErrPIN) {
		return err == nil
	}
	// Some modules find their HSM again only when reinitialised, which happens once none of their
	// tokens is open.
	for _, other := range t.module.tokens {
		other.close()
	}
	return t.login() == nil
}

// close logs out; the module is write-locked. The next login need not wait.
func (t *token) close() {
	t.signers.Clear()
	if kms := t.kms; kms != nil {
		t.kms, t.away = nil, errAway
		t.soon.Store(0)
		kms.Close() // fails if the token is gone
	}
}

func (t *token) isOpen() bool {
	t.module.mu.RLock()
	defer t.module.mu.RUnlock()
	return t.kms != nil
}

// sign also returns the number of the login that it used.
func (t *token) sign(name string, digest []byte, opts crypto.SignerOpts) (signature []byte, login int, err error) {
	t.module.mu.RLock()
	defer t.module.mu.RUnlock()
	login = t.logins
	defer caught(&err)
	signer, err := t.key(name)
	if err == nil {
		signature, err = signer.Sign(rand.Reader, digest, opts)
	}
	return signature, login, err
}

func (t *token) find(name string) (crypto.Signer, error) {
	return inTime(t, patience, func() (crypto.Signer, error) {
		t.module.mu.RLock()
		defer t.module.mu.RUnlock()
		return t.key(name)
	})
}

// key is find while the module is locked.
func (t *token) key(name string) (crypto.Signer, error) {
	if known, ok := t.signers.Load(name); ok {
		return known.(crypto.Signer), nil
	}
	if t.kms == nil {
		return nil, t.away
	}
	signer, err := t.kms.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: name})
	if err == nil {
		t.signers.Store(name, signer)
	}
	return signer, err
}

func (t *token) make(name string) error {
	_, err := inTime(t, makePatience, func() (*apiv1.CreateKeyResponse, error) {
		t.module.mu.RLock()
		defer t.module.mu.RUnlock()
		if t.kms == nil {
			return nil, t.away
		}
		return t.kms.CreateKey(&apiv1.CreateKeyRequest{Name: name, SignatureAlgorithm: apiv1.ECDSAWithSHA256})
	})
	return err
}
