package vendorca

import "math/big"

// rocaPrimes are the primes modulo which keys of Infineon's faulty RSA library can be recognised.
var rocaPrimes = [...]int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157}

// rocaMarks holds for each prime the residues that are powers of 65537.
var rocaMarks = func() (marks [len(rocaPrimes)][157]bool) {
	for i, p := range rocaPrimes {
		for x := int64(1); !marks[i][x]; x = x * 65537 % p {
			marks[i][x] = true
		}
	}
	return marks
}()

// ROCA reports whether an RSA modulus was made by Infineon's faulty library, so that it can be
// factored (CVE-2017-15361): modulo each of the primes it is a power of 65537. One sound modulus
// in 240 million looks the same.
func ROCA(n *big.Int) bool {
	var r, prime big.Int
	for i, p := range rocaPrimes {
		if !rocaMarks[i][r.Mod(n, prime.SetInt64(p)).Int64()] {
			return false
		}
	}
	return true
}
