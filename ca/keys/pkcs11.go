package keys

import (
	"cmp"
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

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/uri"
)

// attributes are the attributes of a pkcs11 URI that are accepted: those of RFC 7512 §2.3, and
// max-sessions of go.step.sm/crypto.
var attributes = []string{"token", "serial", "slot-id", "object", "id", "type", "module-path", "pin-source", "max-sessions"}

// inToken is a key in a PKCS #11 token: an HSM, a smart card, SoftHSM.
type inToken struct {
	token tokenURI
	label string
	id    string
}

const scheme11 = "pkcs11"

// tokenURI says how to reach a token: its URI without a key, the module in that, and the file
// with the PIN.
type tokenURI struct{ uri, module, pinFile string }

func newInToken(text string) (inToken, error) {
	text = strings.ReplaceAll(text, "+", "%2B") // a plus sign, not a blank as in forms
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
			return inToken{}, errors.New("a PIN does not belong in a key URI: write it to a file of mode 0600, and name that with pin-source=/PATH")
		case !slices.Contains(attributes, name) || len(values) != 1 || values[0] == "":
			return inToken{}, fmt.Errorf("the pkcs11 key URI has %q, which is unknown, repeated or empty; it takes %s", name, strings.Join(attributes, ", "))
		}
	}
	k := inToken{label: given.Get("object"), id: given.Get("id")}
	k.token = tokenURI{module: given.Get("module-path"), pinFile: strings.TrimPrefix(given.Get("pin-source"), "file:")}
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

// create makes a key that cannot leave its token (CKA_SENSITIVE, not CKA_EXTRACTABLE).
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
		// The id ties the private key to its public key.
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

// Sign has the token sign a digest. It tries once more after a new login, since a restarted HSM
// does not know the old session.
func (k tokenKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return inTime(k.token, patience, func() ([]byte, error) {
		signature, login, err := k.token.sign(k.name, digest, opts)
		if err != nil && k.token.loginAfter(login) {
			signature, _, err = k.token.sign(k.name, digest, opts)
		}
		return signature, err
	})
}
