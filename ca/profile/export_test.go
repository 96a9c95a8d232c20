package profile

import (
	"maps"
	"slices"
)

// Kinds lists every leaf shape.
func Kinds() []Kind { return slices.Sorted(maps.Keys(specs)) }
