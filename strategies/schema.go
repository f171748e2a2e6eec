package strategies

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Errors of strategies. What is returned names what is wrong and wraps one of these.
var (
	ErrNotFinite = errors.New("strategies: a value is not finite")
	ErrFeatures  = errors.New("strategies: features are not as the schema says")
)

// CheckFinite returns an error if the value is NaN or infinite.
func CheckFinite(name string, value float64) error {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return fmt.Errorf("%w: %s is %v", ErrNotFinite, name, value)
	}
	return nil
}

// Type is the type of a feature.
type Type string

// The types of features.
const (
	Number Type = "number" // float64, finite
	Text   Type = "text"   // string
	Switch Type = "switch" // bool
)

// Schema names the features that a strategy needs, and their types. More may be given. A nil Schema needs none.
type Schema map[string]Type

// FeatureError tells which feature is not as the schema says. It is an [ErrFeatures].
type FeatureError struct {
	Key  string
	Want Type
	Got  string // the type that it has; "" if it is missing
}

// Error says it in a sentence.
func (e *FeatureError) Error() string {
	if e.Got == "" {
		return fmt.Sprintf("%v: %q is missing, it is a %s", ErrFeatures, e.Key, e.Want)
	}
	return fmt.Sprintf("%v: %q is a %s, and must be a %s", ErrFeatures, e.Key, e.Got, e.Want)
}

// Is says that it is an ErrFeatures.
func (*FeatureError) Is(target error) bool { return target == ErrFeatures }

// Check tells what is wrong with features: a *FeatureError for each key, joined, in the order of the keys; nil if nothing is.
func (s Schema) Check(f Features) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(s)) {
		value, has := f[key]
		got := ""
		if has {
			got = typeOf(value)
		}
		if got != string(s[key]) {
			errs = append(errs, &FeatureError{Key: key, Want: s[key], Got: got})
		}
	}
	return errors.Join(errs...)
}

func typeOf(value any) string {
	switch v := value.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return "number that is not finite"
		}
		return string(Number)
	case string:
		return string(Text)
	case bool:
		return string(Switch)
	case nil:
		return "null"
	}
	return strings.TrimSpace(fmt.Sprintf("%T", value))
}
