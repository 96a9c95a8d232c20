package keys

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/pkcs11"
	"go.step.sm/crypto/kms/uri"
)

// attributes are those of a pkcs11 URI (RFC 7512 §2.3) that mean something here, and two of
// go.step.sm/crypto: slot-id is the RFC's, max-sessions its own.
var attributes = []string{"token", "serial", "slot-id", "object", "id", "type", "module-path", "pin-source", "max-sessions"}

// inToken is a key in a PKCS #11 token: an HSM, a smart card, SoftHSM.
type inToken struct {
	token tokenURI
	label string
	id    string
}

const scheme11 = "pkcs11"

// tokenURI says how to reach a token: its URI without a key, and the file of its PIN.
type tokenURI struct{ uri, pinFile string }

func newInToken(text string) (inToken, error) {
	text = strings.ReplaceAll(text, "+", "%2B") // no blank, as it is in a form
	u, err := uri.ParseWithScheme(scheme11, text)
	if err != nil {
		return inToken{}, errors.New("the pkcs11 key URI is malformed")
	}
	given, err := url.ParseQuery(u.RawQuery)
	if err != nil || strings.Contains(text, "#") {
		return inToken{}, errors.New("the pkcs11 key URI is malformed: write %23 for #, and & between what follows ?")
	}
	for name, values := range u.Values {
		given[name] = append(given[name], values...)
	}
	for name, values := range given {
		switch {
		case strings.HasPrefix(name, "pin-") && name != "pin-source":
			return inToken{}, errors.New("a PIN does not belong into a key URI: write it to a file of mode 0600, and pin-source=/PATH")
		case !slices.Contains(attributes, name) || len(values) != 1 || values[0] == "":
			return inToken{}, fmt.Errorf("the pkcs11 key URI gives %q, which means nothing here, or not once; it takes %s", name, strings.Join(attributes, ", "))
		}
	}
	k := inToken{label: given.Get("object"), id: given.Get("id"), token: tokenURI{pinFile: strings.TrimPrefix(given.Get("pin-source"), "file:")}}
	sessions, err := strconv.Atoi(cmp.Or(given.Get("max-sessions"), strconv.Itoa(places+1))) // one keeps the login
	switch {
	case k.label == "" && k.id == "":
		return k, errors.New("the pkcs11 key URI names no key: object=NAME")
	case k.token.pinFile != "" && !filepath.IsAbs(k.token.pinFile):
		return k, errors.New("pin-source in the pkcs11 key URI takes a path that begins with /")
	case cmp.Or(given.Get("type"), "private") != "private":
		return k, errors.New("the pkcs11 key URI names no private key: type=private")
	case err != nil || sessions < 2:
		return k, errors.New("max-sessions in the pkcs11 key URI is a number, at least 2")
	}
	for _, name := range []string{"object", "id", "type", "pin-source"} {
		given.Del(name)
	}
	given.Set("max-sessions", strconv.Itoa(sessions))
	k.token.uri = uri.New(scheme11, given).String()
	return k, nil
}

// name is the URI of the key in its token.
func (k inToken) name() string {
	v := url.Values{}
	if k.label != "" {
		v.Set("object", k.label)
	}
	if k.id != "" {
		v.Set("id", k.id)
	}
	return uri.New(scheme11, v).String()
}

func (k inToken) open() (crypto.Signer, error) {
	t, err := openToken(k.token)
	if err != nil {
		return nil, err
	}
	signer, err := t.find(k.name())
	switch {
	case errors.Is(err, apiv1.NotFoundError{}):
		return nil, fmt.Errorf("the PKCS #11 token shows no key %s: is it another token, or pin-source missing?", cmp.Or(k.label, k.id))
	case err != nil:
		return nil, fmt.Errorf("the key in the PKCS #11 token: %w", err)
	}
	return tokenKey{t, k.name(), signer.Public()}, nil
}

// create makes a key that its token does not give away (CKA_SENSITIVE, not CKA_EXTRACTABLE).
func (k inToken) create() (crypto.Signer, error) {
	if k.label == "" {
		return nil, errors.New("a new key in a PKCS #11 token needs a name: object=NAME")
	}
	t, err := openToken(k.token)
	if err != nil {
		return nil, err
	}
	switch _, err := t.find(inToken{label: k.label}.name()); {
	case err == nil:
		return nil, fmt.Errorf("%w: the PKCS #11 token holds a key named %s; name another object, or delete that one if nothing needs it: pkcs11-tool --delete-object --type privkey --label %[2]s", fs.ErrExist, k.label)
	case !errors.Is(err, apiv1.NotFoundError{}):
		return nil, fmt.Errorf("the PKCS #11 token, asked for a key named %s: %w", k.label, err)
	}
	if k.id == "" {
		// By its id the token tells which halves of keys belong together.
		id := make([]byte, 8)
		rand.Read(id)
		k.id = hex.EncodeToString(id)
	}
	if err := t.make(k.name()); err != nil {
		return nil, fmt.Errorf("make a key in the PKCS #11 token: %w", err)
	}
	return k.open()
}

// tokenKey signs with a key in a token.
type tokenKey struct {
	token  *token
	name   string
	public crypto.PublicKey
}

// Public is the key's public half.
func (k tokenKey) Public() crypto.PublicKey { return k.public }

// Sign has the token sign a digest. It tries a second time in a new session: an HSM that was
// started anew knows the old one no more. It gives up after a time: one that hangs must not
// hang whoever asks.
func (k tokenKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	type answer struct {
		signature []byte
		err       error
	}
	deadline := time.After(patience)
	select {
	case k.token.places <- struct{}{}:
	case <-deadline:
		return nil, errPatience
	}
	done := make(chan answer, 1)
	go func() {
		defer func() { <-k.token.places }()
		signature, login, err := k.token.sign(k.name, digest, opts)
		if err != nil && k.token.loginAfter(login) {
			signature, _, err = k.token.sign(k.name, digest, opts)
		}
		done <- answer{signature, err}
	}()
	select {
	case a := <-done:
		return a.signature, a.err
	case <-deadline:
		return nil, errPatience
	}
}

const (
	// patience is how long a signature may take; a network HSM takes milliseconds.
	patience = 5 * time.Second
	// places is how many signatures a token makes at once.
	places = 16
	// loginEvery bounds how often a token is logged in to that does not answer.
	loginEvery = 10 * time.Second
)

var errPatience = fmt.Errorf("the PKCS #11 token did not sign within %v", patience)

// token is a token that is logged in to: once a process, whatever number of keys is used.
type token struct {
	at     tokenURI
	places chan struct{}

	mu      sync.RWMutex // held to write while it is logged in to
	kms     *pkcs11.PKCS11
	signers sync.Map // by name: a key is searched for once
	logins  int
	soon    atomic.Bool // after the last login: the next must wait
	locked  bool        // the PIN is wrong: a token that is asked too often locks itself
}

var tokens = struct {
	mu   sync.Mutex
	open map[tokenURI]*token
}{open: map[tokenURI]*token{}}

func openToken(at tokenURI) (*token, error) {
	tokens.mu.Lock()
	defer tokens.mu.Unlock()
	if t := tokens.open[at]; t != nil {
		return t, nil
	}
	t := &token{at: at, places: make(chan struct{}, places)}
	if err := t.login(); err != nil {
		return nil, err
	}
	tokens.open[at] = t
	return t, nil
}

func (t *token) login() error {
	t.logins++
	t.soon.Store(true)
	time.AfterFunc(loginEvery, func() { t.soon.Store(false) })
	options := apiv1.Options{URI: t.at.uri}
	if t.at.pinFile != "" {
		pin, err := file{t.at.pinFile}.read()
		if err != nil {
			return fmt.Errorf("the PIN of the PKCS #11 token: %w", err)
		}
		if options.Pin = string(bytes.TrimSpace(pin)); options.Pin == "" {
			return fmt.Errorf("the PIN of the PKCS #11 token: %s is empty", t.at.pinFile)
		}
	}
	kms, err := pkcs11.New(context.Background(), options)
	switch {
	case err == nil:
		t.kms = kms
		return nil
	case strings.Contains(err.Error(), "compiled without cgo"):
		return errors.New("this hallmarkd was built without PKCS #11: make build HSM=1 makes one that has it")
	}
	t.locked = strings.Contains(err.Error(), "CKR_PIN_")
	return fmt.Errorf("the PKCS #11 token: %w", err)
}

// loginAfter logs in anew, unless somebody has since that login or it is too soon; it reports
// whether to try again.
func (t *token) loginAfter(login int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.logins != login:
		return t.kms != nil
	case t.locked || t.soon.Load():
		return false
	case t.kms != nil:
		t.kms.Close() // fails if the token is gone
		t.kms = nil
	}
	t.signers.Clear()
	return t.login() == nil
}

// sign also says in which login it was tried.
func (t *token) sign(name string, digest []byte, opts crypto.SignerOpts) (signature []byte, login int, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	signer, err := t.key(name)
	if err == nil {
		signature, err = signer.Sign(rand.Reader, digest, opts)
	}
	return signature, t.logins, err
}

func (t *token) find(name string) (crypto.Signer, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.key(name)
}

// key is find for who holds the lock.
func (t *token) key(name string) (crypto.Signer, error) {
	if known, ok := t.signers.Load(name); ok {
		return known.(crypto.Signer), nil
	}
	if t.kms == nil {
		return nil, errAway
	}
	signer, err := t.kms.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: name})
	if err == nil {
		t.signers.Store(name, signer)
	}
	return signer, err
}

func (t *token) make(name string) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.kms == nil {
		return errAway
	}
	_, err := t.kms.CreateKey(&apiv1.CreateKeyRequest{Name: name, SignatureAlgorithm: apiv1.ECDSAWithSHA256})
	return err
}

var errAway = errors.New("the PKCS #11 token is away")
