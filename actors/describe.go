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

// describe lists the exported fields of settings that are not zero, in their order. Settings with a method Describe
// describe themselves.
func describe(cfg policy.Config) []Setting {
	if d, ok := cfg.(interface{ Describe() string }); ok {
		return []Setting{{Value: d.Describe()}}
	}
	return fields(reflect.ValueOf(cfg))
}

func fields(v reflect.Value) (list []Setting) {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		switch {
		case !field.IsExported() || value.IsZero() || field.Name == "Seed": // which says nothing to anybody
		case field.Anonymous && value.Kind() == reflect.Struct:
			list = append(list, fields(value)...)
		case value.Kind() == reflect.Bool:
			list = append(list, Setting{Key: words(field.Name)})
		default:
			list = append(list, Setting{words(field.Name), text(value)})
		}
	}
	return list
}

// maxListed is how many elements of a list are written out.
const maxListed = 8

// text is a value as a user would write it.
func text(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		return text(v.Elem())
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return short(x)
	case policy.Backoff:
		return backoff(x)
	case interface{ Describe() string }:
		return x.Describe()
	case fmt.Stringer:
		return fmt.Sprint(x)
	}
	switch v.Kind() {
	case reflect.Func, reflect.Interface, reflect.Chan:
		return "custom"
	case reflect.Float32, reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case reflect.Struct:
		list := fields(v)
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
			list = append(list, text(v.Index(i)))
		}
		return strings.Join(list, " ")
	case reflect.Map:
		return fmt.Sprintf("of %d", v.Len())
	}
	return fmt.Sprint(v.Interface())
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
			s += " +" + text(x)
		case name == "Jitter":
			rest = append(rest, jitter(x))
		default:
			rest = append(rest, Setting{words(name), text(x)}.String())
		}
	}
	if b.Max > b.Base {
		s += " up to " + short(b.Max)
	}
	return strings.Join(append([]string{s}, rest...), ", ")
}

// jitter is a kind of jitter, or the share of the wait that it is.
func jitter(v reflect.Value) string {
	if v.Kind() != reflect.Float64 {
		return text(v) + " jitter"
	}
	if v.Float() >= 1 {
		return "full jitter"
	}
	return "jitter " + text(v)
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
