// Package origin tells hosts apart by the addresses that they come from.
package origin

import "net/netip"

// Of is the host behind an address with a port; of IPv6 the network, which one host has to
// itself (RFC 6177). It is the zero Prefix for what is no such address.
func Of(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	address := at.Addr().Unmap().WithZone("")
	return netip.PrefixFrom(address, min(address.BitLen(), 64)).Masked()
}
