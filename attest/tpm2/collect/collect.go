// Package collect is the device half of TPM attestation: it opens a TPM 2.0, makes
// the keys of TCG's "TPM 2.0 Keys for Device Identity and Attestation", certifies
// them and answers credential challenges.
//
// It needs no resource manager (three transient slots are enough), leaves nothing behind in the
// TPM, and authorises with policy sessions wherever a password would count towards the
// dictionary-attack lockout, so that power cuts never lock a device out of its identity.
// Processes share a TPM by taking turns (turn.go), so that one can sign while another renews.
// Errors are of type [*trouble.Error] and written for a technician.
package collect

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest/tpm2"
)

// DefaultSpec is the TPM behind the kernel's resource manager.
const DefaultSpec = "/dev/tpmrm0"

// slots is how many transient objects every TPM 2.0 holds at once (TCG PC Client
// Platform TPM Profile, MAX_LOADED_OBJECTS).
const slots = 3

// Device is one TPM. Its methods may be called from several goroutines.
type Device struct {
	mu   sync.Mutex
	spec string
	// link is nil while another process may use the TPM.
	link *link
	// resting is the timer that ends our turn, which began at begun; used is when the TPM was
	// last needed, and notBefore the earliest start of our next turn.
	resting                *time.Timer
	begun, used, notBefore time.Time
	closed                 bool
	// past is how many commands were sent in earlier turns.
	past int
	// loaded are the transient objects, the least recently used first.
	loaded []*object
	// sessions are the policy sessions begun in the operation under way.
	sessions []gotpm.TPMHandle
	// ek is the endorsement key; nil until it was looked for.
	ek *endorsement
}

// object is a key in a transient slot, or a persistent one, which takes a slot
// whenever a command uses it.
type object struct {
	id     string
	handle gotpm.TPMHandle
	name   gotpm.TPM2BName
	public gotpm.TPMTPublic
	busy   bool
}

// Open opens a TPM: a device file ("/dev/tpmrm0", "/dev/tpm0"), "unix:PATH" or "tcp:HOST:PORT"
// (the socket of a software TPM); empty means DefaultSpec. Without a resource manager, objects
// that an earlier process left behind are flushed.
func Open(spec string) (*Device, error) {
	if spec == "" {
		spec = DefaultSpec
	}
	d := &Device{spec: spec}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(); err != nil {
		return nil, err
	}
	d.rest()
	return d, nil
}

// start makes sure that a TPM 2.0 answers and, if this process has it alone, flushes what a
// crashed one left.
func (d *Device) start() error {
	probe := gotpm.GetCapability{Capability: gotpm.TPMCapTPMProperties, Property: uint32(gotpm.TPMPTFamilyIndicator), PropertyCount: 1}
	_, err := probe.Execute(d.link)
	if is(err, gotpm.TPMRCInitialize) {
		// A bare TPM without firmware in front of it: nobody has started it yet.
		_, err = gotpm.Startup{StartupType: gotpm.TPMSUClear}.Execute(d.link)
	}
	if err != nil || !d.alone() {
		return err
	}
	// Transient objects, loaded sessions, saved sessions. Both lists of sessions hold HMAC and
	// policy handles.
	for _, r := range []struct{ first, last uint32 }{{0x80000000, 0x80FFFFFF}, {0x02000000, 0x03FFFFFF}, {0x03000000, 0x03FFFFFF}} {
		handles, err := d.handles(r.first, r.last)
		if err != nil {
			return err
		}
		for _, h := range handles {
			if err := d.flush(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close flushes every object and closes the TPM; its keys cannot sign afterwards.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.end()
}

// Commands is how many TPM commands were sent.
func (d *Device) Commands() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.link == nil {
		return d.past
	}
	return d.past + d.link.commands
}

// operation runs f with exclusive use of the TPM. Afterwards the objects that f used may be
// evicted, and the sessions of a failed f are flushed.
func (d *Device) operation(doing string, f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(); err != nil {
		return err
	}
	defer d.rest()
	err := f()
	if err != nil {
		for _, s := range d.sessions {
			d.flush(s) // fails for those that the TPM has already ended
		}
		err = explain(doing, err)
	}
	d.sessions = nil
	for _, o := range d.loaded {
		o.busy = false
	}
	return err
}

// use returns the object with this id, calling load if it is not in the TPM, and pins it there
// until the operation ends. load must call room.
func (d *Device) use(id string, load func() (*object, error)) (*object, error) {
	for i, o := range d.loaded {
		if o.id == id {
			d.loaded = append(append(d.loaded[:i:i], d.loaded[i+1:]...), o)
			o.busy = true
			return o, nil
		}
	}
	o, err := load()
	if err != nil {
		return nil, err
	}
	o.id, o.busy = id, true
	d.loaded = append(d.loaded, o)
	return o, nil
}

// room frees a slot.
func (d *Device) room() error {
	d.evict(len(d.loaded) + 1 - slots)
	if len(d.loaded) >= slots {
		return fmt.Errorf("a slot is needed beside %d keys in use: %w", len(d.loaded), gotpm.TPMRCObjectMemory)
	}
	return nil
}

// evict flushes up to n objects that are not in use, the least recently used first.
func (d *Device) evict(n int) {
	kept := d.loaded[:0:0]
	for _, o := range d.loaded {
		if n > 0 && !o.busy {
			n--
			d.flush(o.handle) // if it fails the next command will, too
			continue
		}
		kept = append(kept, o)
	}
	d.loaded = kept
}

// flush frees a transient object or a session, and ignores a persistent object.
func (d *Device) flush(h gotpm.TPMHandle) error {
	if h>>24 == 0x81 {
		return nil
	}
	_, err := gotpm.FlushContext{FlushHandle: h}.Execute(d.link)
	return err
}

// primary makes a primary key from its template. The TPM derives the same key from the same
// template as long as the hierarchy's seed does not change.
func (d *Device) primary(id string, hierarchy gotpm.TPMHandle, template gotpm.TPMTPublic) (*object, error) {
	return d.use(id, func() (*object, error) {
		if err := d.room(); err != nil {
			return nil, err
		}
		r, err := gotpm.CreatePrimary{PrimaryHandle: hierarchy, InPublic: gotpm.New2B(template)}.Execute(d.link)
		if err != nil {
			return nil, err
		}
		public, err := r.OutPublic.Contents()
		if err != nil {
			d.flush(r.ObjectHandle)
			return nil, err
		}
		return &object{handle: r.ObjectHandle, name: r.Name, public: *public}, nil
	})
}

func (d *Device) ak() (*object, error) {
	return d.primary("ak", gotpm.TPMRHEndorsement, tpm2.AKTemplate())
}

func (d *Device) idevid() (*object, error) {
	return d.primary("idevid", gotpm.TPMRHEndorsement, tpm2.IDevIDTemplate())
}

func (d *Device) srk() (*object, error) {
	return d.primary("srk", gotpm.TPMRHOwner, tpm2.SRKTemplate())
}

// handles lists the TPM's handles from first to last; no real TPM has maxHandles of them.
func (d *Device) handles(first, last uint32) ([]gotpm.TPMHandle, error) {
	const maxHandles = 1024
	var all []gotpm.TPMHandle
	for len(all) < maxHandles {
		r, err := gotpm.GetCapability{Capability: gotpm.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(d.link)
		if err != nil {
			return nil, err
		}
		some, err := r.CapabilityData.Data.Handles()
		if err != nil {
			return nil, err
		}
		for _, h := range some.Handle {
			if uint32(h) > last { // after a range a TPM continues with the next one
				return all, nil
			}
			all = append(all, h)
			first = uint32(h) + 1
		}
		if !r.MoreData || len(some.Handle) == 0 {
			return all, nil
		}
	}
	return nil, fmt.Errorf("the TPM lists no end of handles from 0x%08X", first)
}

// certificateSize bounds what is read from one NV index, in bytes; the largest known EK
// certificate area is 4 KiB.
const certificateSize = 16 << 10

// readNV reads a whole NV index with its own empty password, or the owner's.
func (d *Device) readNV(index gotpm.TPMHandle) ([]byte, error) {
	r, err := gotpm.NVReadPublic{NVIndex: index}.Execute(d.link)
	if err != nil {
		return nil, err
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	if public.DataSize > certificateSize {
		return nil, fmt.Errorf("NV index 0x%08X holds %d bytes, more than any certificate", uint32(index), public.DataSize)
	}
	auth := gotpm.AuthHandle{Handle: index, Name: r.NVName, Auth: gotpm.PasswordAuth(nil)}
	if !public.Attributes.AuthRead {
		auth = gotpm.AuthHandle{Handle: gotpm.TPMRHOwner, Auth: gotpm.PasswordAuth(nil)}
	}
	var out bytes.Buffer
	for out.Len() < int(public.DataSize) {
		const chunk = 512 // no TPM's TPM_PT_NV_BUFFER_MAX is smaller
		r, err := gotpm.NVRead{
			AuthHandle: auth,
			NVIndex:    gotpm.NamedHandle{Handle: index, Name: r.NVName},
			Size:       min(chunk, public.DataSize-uint16(out.Len())),
			Offset:     uint16(out.Len()),
		}.Execute(d.link)
		if err != nil {
			return nil, err
		}
		if len(r.Data.Buffer) == 0 {
			return nil, fmt.Errorf("NV index 0x%08X ends after %d of %d bytes", uint32(index), out.Len(), public.DataSize)
		}
		out.Write(r.Data.Buffer)
	}
	return out.Bytes(), nil
}
