// Package tpm2 judges evidence made by a TPM 2.0: it promises that an
// [attest.Pending] leaves it only if a chip whose endorsement key the caller can see
// holds the attestation key and the certified key, provided that the chip then
// returns the secret of [Verifier.Challenge].
//
// It parses untrusted structures strictly (only the accepted shapes, to the last byte), checks
// everything that TCG's "TPM 2.0 Keys for Device Identity and Attestation" §6 asks of a CA, and
// needs neither a TPM nor a network. The device half is in collect, the peculiarities of TPM
// makers in vendorca.
package tpm2
