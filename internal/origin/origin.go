// Package origin tells hosts apart by the addresses that they come from.
package origin

import "net/netip"

// Of is the host in ADDRESS:PORT; of IPv6 it is the /64, which one host has to itself
// (RFC 6177). What is no such text gives the zero Prefix.
func Of(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	address := at.Addr().Unmap().WithZone("")
	return netip.PrefixFrom(address, min(address.BitLen(), 64)).Masked()
}
