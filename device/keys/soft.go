package keys

import (
	"crypto"
	"errors"
	"fmt"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/softkey/collect"
	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/wire"
)

// soft holds keys without attestation.
type soft struct {
	birth Key
	// make and load give working keys.
	make  func() (Key, error)
	load  func(stored []byte) (Key, error)
	count func() int
}

func openFile(path string, create bool) (Holder, error) {
	open := collect.Open
	if create {
		open = collect.Create
	}
	birth, err := open(path)
	if err != nil {
		return nil, err
	}
	return &soft{
		birth: birth,
		make:  func() (Key, error) { return collect.New() },
		load:  func(stored []byte) (Key, error) { return collect.Parse(stored) },
		count: func() int { return 0 },
	}, nil
}

// openExternal uses one key for everything, which is certified again and again: many secure
// elements have no other, and cannot make one.
func openExternal(command string) (Holder, error) {
	key, err := collect.OpenExternal(command)
	if err != nil {
		return nil, err
	}
	return &soft{
		birth: key,
		make:  func() (Key, error) { return key, nil },
		load:  func([]byte) (Key, error) { return key, nil },
		count: key.Runs,
	}, nil
}

func (s *soft) Kind() string { return wire.KindSoftKey }

func (s *soft) Birth() (Key, error) { return s.birth, nil }

func (s *soft) Identify() (Identity, error) {
	return Identity{Message: wire.Enrol{Kind: wire.KindSoftKey, Key: s.birth.Wire()}}, nil
}

func (s *soft) NewWorking() (Key, error)               { return s.make() }
func (s *soft) LoadWorking(stored []byte) (Key, error) { return s.load(stored) }

func (s *soft) Prove(k Key, binding [32]byte) (statement, signature []byte, err error) {
	return collect.Prove(s.birth, k, binding)
}

func (s *soft) Activate(attest.Challenge) ([]byte, error) {
	return nil, errors.New("the server challenges a chip, and there is none")
}

func (s *soft) Check(certified crypto.PublicKey, folder, device string) error {
	if same(certified, s.birth) {
		return nil
	}
	return &trouble.Error{Kind: collect.ErrOther,
		Detail: fmt.Sprintf("the state folder %s belongs to %s, whose key is another", folder, device),
		Hint:   "bring the device's own key back, or give this one an identity of its own: hallmark-device enrol TICKET"}
}

func (s *soft) Commands() int { return s.count() }
func (s *soft) Close() error  { return nil }
