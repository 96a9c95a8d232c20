package tpm2

import (
	"bytes"

	gotpm "github.com/google/go-tpm/tpm2"
)

// IDevIDTemplate is the template of the IDevID key: H-2 of TCG's "TPM 2.0 Keys for Device
// Identity and Attestation", a primary of the endorsement hierarchy that signs anything. The TPM
// derives the same key from it each time.
func IDevIDTemplate() gotpm.TPMTPublic {
	return identityTemplate("IDEVID", false, idevidPolicyIndex, gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgNull})
}

// AKTemplate is the template of the attestation key (TCG: IAK): H-2 like IDevIDTemplate, but
// restricted, so that it signs only what the TPM itself made.
func AKTemplate() gotpm.TPMTPublic {
	return identityTemplate("IAK", true, akPolicyIndex, gotpm.TPMTECCScheme{
		Scheme:  gotpm.TPMAlgECDSA,
		Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDSA, &gotpm.TPMSSigSchemeECDSA{HashAlg: gotpm.TPMAlgSHA256}),
	})
}

func identityTemplate(unique string, restricted bool, policyIndex uint32, scheme gotpm.TPMTECCScheme) gotpm.TPMTPublic {
	return gotpm.TPMTPublic{
		Type:    gotpm.TPMAlgECC,
		NameAlg: gotpm.TPMAlgSHA256,
		ObjectAttributes: gotpm.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, AdminWithPolicy: true, Restricted: restricted, SignEncrypt: true,
		},
		AuthPolicy: policyOr(gotpm.TPMAlgSHA256, identityBranches(policyIndex)),
		Parameters: gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{Scheme: scheme, CurveID: gotpm.TPMECCNistP256}),
		Unique:     gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{X: gotpm.TPM2BECCParameter{Buffer: []byte(unique)}}),
	}
}

// LDevIDTemplate is the template of a working key: a child of the storage root, new at each
// renewal, that signs anything. It is exempt from dictionary-attack lockout, so a power cut
// cannot lock a device out of its own certificate.
func LDevIDTemplate() gotpm.TPMTPublic {
	return gotpm.TPMTPublic{
		Type:    gotpm.TPMAlgECC,
		NameAlg: gotpm.TPMAlgSHA256,
		ObjectAttributes: gotpm.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, SignEncrypt: true,
		},
		Parameters: gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{
			Scheme: gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgNull}, CurveID: gotpm.TPMECCNistP256}),
		Unique: gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{}),
	}
}

// SRKTemplate is the template of the P-256 storage root with an empty unique field, which is what
// a TSS2 PEM file means by parent 0x40000001. go-tpm's ECCSRKTemplate has 32 zero bytes there and
// gives another key.
func SRKTemplate() gotpm.TPMTPublic {
	t := storageECC(gotpm.TPMECCNistP256, gotpm.TPMAlgSHA256, 128, 0)
	t.ObjectAttributes.UserWithAuth = true
	t.ObjectAttributes.NoDA = true
	return t
}

// EKTemplate is one endorsement key template of the TCG EK Credential Profile, with
// the places where a TPM keeps what belongs to it.
type EKTemplate struct {
	// Name is the profile's name: "L-2".
	Name string
	// Public is the template; its unique field is the default, which Nonce may replace.
	Public gotpm.TPMTPublic
	// Certificate, Nonce and Template are NV indices; 0 if the profile defines none. A
	// filled Template replaces Public: the EK is then another key.
	Certificate, Nonce, Template uint32
	// Persistent is the handle where the EK is commonly kept; 0 if there is none.
	Persistent uint32
}

// EKTemplates lists the templates in order of preference: P-256 first, because an RSA
// key takes a TPM seconds to make and P-384 costs the server seven times P-256.
func EKTemplates() []EKTemplate {
	const sha256, sha384 = gotpm.TPMAlgSHA256, gotpm.TPMAlgSHA384
	low, high := ekPolicyA, ekPolicyB
	return []EKTemplate{
		{"L-2", ekTemplate(storageECC(gotpm.TPMECCNistP256, sha256, 128, 32), low(sha256), false), 0x01C0000A, 0x01C0000B, 0x01C0000C, 0},
		{"H-2", ekTemplate(storageECC(gotpm.TPMECCNistP256, sha256, 128, 0), high(sha256), true), 0x01C00014, 0, 0x01C00015, 0},
		{"L-1", ekTemplate(storageRSA(256), low(sha256), false), 0x01C00002, 0x01C00003, 0x01C00004, 0x81010001},
		{"H-1", ekTemplate(storageRSA(0), high(sha256), true), 0x01C00012, 0, 0x01C00013, 0},
		{"H-3", ekTemplate(storageECC(gotpm.TPMECCNistP384, sha384, 256, 0), high(sha384), true), 0x01C00016, 0, 0x01C00017, 0x81010016},
	}
}

// ekTemplate turns a storage key template into an EK's: with a policy instead of a password (low
// range, EK profile B.3) or besides one (high range, B.4).
func ekTemplate(t gotpm.TPMTPublic, policy gotpm.TPM2BDigest, userWithAuth bool) gotpm.TPMTPublic {
	t.ObjectAttributes.UserWithAuth = userWithAuth
	t.ObjectAttributes.AdminWithPolicy = true
	t.AuthPolicy = policy
	return t
}

func storageKey(alg, nameAlg gotpm.TPMAlgID) gotpm.TPMTPublic {
	return gotpm.TPMTPublic{
		Type:    alg,
		NameAlg: nameAlg,
		ObjectAttributes: gotpm.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, Restricted: true, Decrypt: true,
		},
	}
}

// storageECC sets unique to two coordinates of that many zero bytes.
func storageECC(curve gotpm.TPMECCCurve, nameAlg gotpm.TPMAlgID, aes gotpm.TPMKeyBits, unique int) gotpm.TPMTPublic {
	t := storageKey(gotpm.TPMAlgECC, nameAlg)
	t.Parameters = gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{Symmetric: aesCFB(aes), CurveID: curve})
	t.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{
		X: gotpm.TPM2BECCParameter{Buffer: make([]byte, unique)}, Y: gotpm.TPM2BECCParameter{Buffer: make([]byte, unique)}})
	return t
}

func storageRSA(unique int) gotpm.TPMTPublic {
	t := storageKey(gotpm.TPMAlgRSA, gotpm.TPMAlgSHA256)
	t.Parameters = gotpm.NewTPMUPublicParms(gotpm.TPMAlgRSA, &gotpm.TPMSRSAParms{Symmetric: aesCFB(128), KeyBits: 2048})
	t.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: make([]byte, unique)})
	return t
}

func aesCFB(bits gotpm.TPMKeyBits) gotpm.TPMTSymDefObject {
	return gotpm.TPMTSymDefObject{
		Algorithm: gotpm.TPMAlgAES,
		KeyBits:   gotpm.NewTPMUSymKeyBits(gotpm.TPMAlgAES, bits),
		Mode:      gotpm.NewTPMUSymMode(gotpm.TPMAlgAES, gotpm.TPMAlgCFB),
	}
}

// NV indices whose owner may authorise further policies for the keys
// (TPM2_PolicyAuthorizeNV), SHA-256; the next index is for SHA-384.
const (
	ekPolicyIndex     = 0x01C07F01
	idevidPolicyIndex = 0x01C90010
	akPolicyIndex     = 0x01C90018
)

// ekPolicyA is TPM2_PolicySecret(TPM_RH_ENDORSEMENT): the whole policy of a
// low-range EK and the first step of all others. alg is SHA-256 or SHA-384.
func ekPolicyA(alg gotpm.TPMIAlgHash) gotpm.TPM2BDigest {
	return policy(alg, gotpm.PolicySecret{AuthHandle: gotpm.TPMRHEndorsement})
}

// ekPolicyB is the policy of a high-range EK: PolicyOR(PolicyA, PolicyC).
func ekPolicyB(alg gotpm.TPMIAlgHash) gotpm.TPM2BDigest {
	return policyOr(alg, []gotpm.TPM2BDigest{ekPolicyA(alg), ekPolicyC(alg)})
}

// ekPolicyC is the branch of a high-range EK that whoever may write its policy index uses.
func ekPolicyC(alg gotpm.TPMIAlgHash) gotpm.TPM2BDigest {
	return policyNV(alg, ekPolicyIndex)
}

// PolicyBranches returns the list that TPM2_PolicyOR needs to satisfy the key's
// authPolicy: nil if TPM2_PolicySecret(TPM_RH_ENDORSEMENT) alone does, and ok false
// if the policy is none of those that TCG defines for EK, IDevID and AK (P-256 and
// RSA-2048: SHA-256; P-384 EK: SHA-384).
//
// The sequence is PolicySecret(ENDORSEMENT), then for IDevID and AK
// PolicyCommandCode (Certify or ActivateCredential), then PolicyOR with this list.
func PolicyBranches(public gotpm.TPMTPublic) (branches []gotpm.TPM2BDigest, ok bool) {
	alg := public.NameAlg
	if alg != gotpm.TPMAlgSHA256 && alg != gotpm.TPMAlgSHA384 {
		return nil, false
	}
	if bytes.Equal(public.AuthPolicy.Buffer, ekPolicyA(alg).Buffer) {
		return nil, true
	}
	lists := [][]gotpm.TPM2BDigest{{ekPolicyA(alg), ekPolicyC(alg)}}
	if alg == gotpm.TPMAlgSHA256 {
		lists = append(lists, identityBranches(idevidPolicyIndex), identityBranches(akPolicyIndex))
	}
	for _, list := range lists {
		if bytes.Equal(public.AuthPolicy.Buffer, policyOr(alg, list).Buffer) {
			return list, true
		}
	}
	return nil, false
}

// identityBranches are A to D of "TPM 2.0 Keys for Device Identity and Attestation": use,
// certify, activate, and whatever the policy index allows.
func identityBranches(index uint32) []gotpm.TPM2BDigest {
	const alg = gotpm.TPMAlgSHA256
	secret := gotpm.PolicySecret{AuthHandle: gotpm.TPMRHEndorsement}
	return []gotpm.TPM2BDigest{
		policy(alg, secret),
		policy(alg, secret, gotpm.PolicyCommandCode{Code: gotpm.TPMCCCertify}),
		policy(alg, secret, gotpm.PolicyCommandCode{Code: gotpm.TPMCCActivateCredential}),
		policyNV(alg, index),
	}
}

// policyNV is TPM2_PolicyAuthorizeNV of the index as TCG defines its public area:
// written, readable by everyone, writable by PolicyA (attributes 0x220F1008).
func policyNV(alg gotpm.TPMIAlgHash, index uint32) gotpm.TPM2BDigest {
	if alg == gotpm.TPMAlgSHA384 {
		index++
	}
	authority := ekPolicyA(alg)
	name, err := gotpm.NVName(&gotpm.TPMSNVPublic{
		NVIndex: gotpm.TPMHandle(index),
		NameAlg: alg,
		Attributes: gotpm.TPMANV{
			PolicyWrite: true, WriteAll: true, PPRead: true, OwnerRead: true, AuthRead: true, PolicyRead: true,
			NoDA: true, Written: true,
		},
		AuthPolicy: authority,
		DataSize:   uint16(2 + len(authority.Buffer)), // a TPMT_HA: the algorithm and a digest
	})
	must(err)
	return policy(alg, gotpm.PolicyAuthorizeNV{NVIndex: gotpm.NamedHandle{Handle: gotpm.TPMHandle(index), Name: *name}})
}

func policyOr(alg gotpm.TPMIAlgHash, branches []gotpm.TPM2BDigest) gotpm.TPM2BDigest {
	return policy(alg, gotpm.PolicyOr{PHashList: gotpm.TPMLDigest{Digests: branches}})
}

func policy(alg gotpm.TPMIAlgHash, steps ...interface {
	Update(*gotpm.PolicyCalculator) error
}) gotpm.TPM2BDigest {
	p, err := gotpm.NewPolicyCalculator(alg)
	must(err)
	for _, s := range steps {
		must(s.Update(p))
	}
	return gotpm.TPM2BDigest{Buffer: p.Hash().Digest}
}

// must is for computations on constants, which fail only if this file is wrong.
func must(err error) {
	if err != nil {
		panic("tpm2: " + err.Error())
	}
}
