package installation

import (
	"reflect"
	"regexp"
	"testing"

	"github.com/hallmark-pki/hallmark/config"
)

// The configuration that init writes has every setting, so that nobody need look elsewhere.
func TestConfigurationHasEverySetting(t *testing.T) {
	files := make(map[string][]byte)
	if err := (Founding{Name: "Acme"}).addConfig(files, address{}); err != nil {
		t.Fatal(err)
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[config.Config]()) {
		name := field.Tag.Get("yaml")
		if name == "-" {
			continue
		}
		if found, err := regexp.Match("(?m)^"+name+":", files[ConfigFile]); err != nil || !found {
			t.Errorf("%s is not there", name)
		}
	}
}
