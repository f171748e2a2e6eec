package actors

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/forseti-go/forseti/actors/policy"
)

// Setting is one of a layer's settings in the words it is written with: "attempts", "4".
type Setting struct {
	Key   string `json:"key"` // empty for settings that describe themselves
	Value string `json:"value"`
}

// String is the two words.
func (s Setting) String() string {
	switch {
	case s.Key == "":
		return s.Value
	case s.Value == "":
		return s.Key
	}
	return s.Key + " " + s.Value
}

// describe lists the exported fields of settings that are in use, in their order. Settings with a method Describe describe
// themselves.
func describe(cfg policy.Config) (list []Setting) {
	if own, ok := cfg.(described); ok {
		if _, ok = own.Custom.(describer); !ok {
			return own.settings
		}
		cfg = own.Custom
	}
	if d, ok := cfg.(describer); ok {
		return []Setting{{Value: said(d.Describe)}}
	}
	if k, ok := cfg.(policy.Keyed); ok {
		return keyedSettings(k)
	}
	return fields(reflect.ValueOf(inUse(cfg)), 0)
}

// keyedSettings are those of each key, and then those of the keys.
func keyedSettings(k policy.Keyed) (list []Setting) {
	if k.Each != nil {
		for _, s := range describe(k.Each) {
			s.Key = "each " + s.Key
			list = append(list, s)
		}
	}
	k.Each = nil
	return append(list, fields(reflect.ValueOf(k), 0)...)
}

// describer is what describes itself.
type describer interface{ Describe() string }

// said is what a method of the user's says, unless it panics.
func said(method func() string) (s string) {
	defer func() {
		if recover() != nil {
			s = "custom"
		}
	}()
	return method()
}

// inUse takes out of settings what they hold and is not used.
func inUse(cfg policy.Config) policy.Config {
	switch c := cfg.(type) {
	case policy.Breaker:
		if c.Calls > 0 {
			c.Window = 0
		}
		if c.FailureRate == 0 && c.SlowRate == 0 { // no rate is judged
			c.MinCalls, c.Window, c.Calls = 0, 0, 0
		}
		if c.OpenMax == c.OpenFor && c.OpenJitter == 0 {
			c.OpenMax, c.OpenGrowth = 0, 0
		}
		return c
	case policy.Hedge:
		if c.Quantile == 0 { // none is learnt
			c.MinCalls, c.Window = 0, 0
		}
		return c
	}
	return cfg
}

// maxDepth is how deep settings are looked into.
const maxDepth = 3

func fields(v reflect.Value, depth int) (list []Setting) {
	v = reflect.Indirect(v)
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		switch {
		case !field.IsExported() || locked(field.Type) || value.IsZero() || field.Name == "Seed": // which says nothing to anybody
		case field.Anonymous && value.Kind() == reflect.Struct:
			list = append(list, fields(value, depth)...)
		case value.Kind() == reflect.Bool:
			list = append(list, Setting{Key: words(field.Name)})
		default:
			list = append(list, Setting{words(field.Name), text(value, depth)})
		}
	}
	return list
}

// locked reports whether a type is one for state that is shared, or holds one: that is no setting.
func locked(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return locked(t.Elem())
	case reflect.Struct:
		if p := t.PkgPath(); p == "sync" || p == "sync/atomic" {
			return true
		}
		for i := range t.NumField() {
			if locked(t.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// maxListed is how many elements of a list are written out.
const maxListed = 8

// text is a value as a user would write it.
func text(v reflect.Value, depth int) string {
	if depth++; depth > maxDepth || locked(v.Type()) {
		return "custom"
	}
	if v.Kind() == reflect.Pointer {
		return pointed(v, depth)
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return short(x)
	case policy.Backoff:
		return backoff(x)
	case describer:
		return said(x.Describe)
	case fmt.Stringer:
		return said(x.String)
	}
	switch v.Kind() {
	case reflect.Func, reflect.Interface, reflect.Chan:
		return "custom"
	case reflect.Float32, reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, v.Type().Bits())
	case reflect.Struct:
		list := fields(v, depth)
		if len(list) == 0 {
			return "custom"
		}
		return "(" + joined(list) + ")"
	case reflect.Slice, reflect.Array:
		if v.Len() > maxListed {
			return fmt.Sprintf("%d of them", v.Len())
		}
		var list []string
		for i := range v.Len() {
			list = append(list, text(v.Index(i), depth))
		}
		return strings.Join(list, " ")
	case reflect.Map:
		return fmt.Sprintf("of %d", v.Len())
	}
	return fmt.Sprint(v.Interface())
}

// pointed is what a pointer points to, unless that is a struct that does not say what it is: it may be anything, and
// large, and change.
func pointed(v reflect.Value, depth int) string {
	if v.IsNil() {
		return "none"
	}
	if v.Type().Elem() != reflect.TypeFor[time.Duration]() {
		switch x := v.Interface().(type) {
		case describer:
			return said(x.Describe)
		case fmt.Stringer:
			return said(x.String)
		}
	}
	if v.Elem().Kind() == reflect.Struct {
		return "custom"
	}
	return text(v.Elem(), depth)
}

func joined(list []Setting) string {
	var parts []string
	for _, s := range list {
		parts = append(parts, s.String())
	}
	return strings.Join(parts, ", ")
}

// short is a duration without the zeros at its end: 1m, not 1m0s.
func short(d time.Duration) string {
	s := d.String()
	if d%time.Minute == 0 && d != 0 {
		s = strings.TrimSuffix(s, "0s")
	}
	if d%time.Hour == 0 && d != 0 {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// rounded is how long something takes, as exactly as anybody wants to know.
func rounded(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		d = d.Round(time.Second)
	case d >= 10*time.Millisecond:
		d = d.Round(time.Millisecond)
	}
	return d.String()
}

// percent is a share.
func percent(share float64) string { return strconv.FormatFloat(100*share, 'g', 3, 64) + "%" }

// backoff is a schedule in one phrase: "50ms x2 up to 2s, full jitter".
func backoff(b policy.Backoff) string {
	if b.Base <= 0 && b.Max <= 0 {
		return "none"
	}
	s, rest := short(b.Base), []string(nil)
	if b.Factor != 1 {
		s += fmt.Sprintf(" x%g", b.Factor)
	}
	v := reflect.ValueOf(b)
	for i := range v.NumField() {
		switch name, x := v.Type().Field(i).Name, v.Field(i); {
		case name == "Base" || name == "Max" || name == "Factor" || x.IsZero():
		case name == "Step":
			s += " +" + text(x, 0)
		case name == "Jitter":
			rest = append(rest, jitter(x))
		default:
			rest = append(rest, Setting{words(name), text(x, 0)}.String())
		}
	}
	if b.Max > b.Base || b.Factor != 1 || b.Step > 0 || b.Jitter == policy.DecorrelatedJitter {
		s += " up to " + short(b.Max)
	}
	return strings.Join(append([]string{s}, rest...), ", ")
}

// jitter is a kind of jitter, or the share of the wait that it is.
func jitter(v reflect.Value) string {
	if v.Kind() != reflect.Float64 {
		return text(v, 0) + " jitter"
	}
	if v.Float() >= 1 {
		return "full jitter"
	}
	return "jitter " + text(v, 0)
}

// words makes "min calls" of MinCalls.
func words(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if i > 0 && unicode.IsUpper(r) && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
