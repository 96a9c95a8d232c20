package device

import "github.com/hallmark-pki/hallmark/device/state"

// Through gives options by which the state folder is changed by f.
func (o Options) Through(f state.Files) Options {
	o.files = f
	return o
}
