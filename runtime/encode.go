package runtime

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/forseti-go/forseti/messages"
)

const (
	maxArgDepth    = 32
	maxArgElements = 1000
	truncated      = "[truncated]"
)

// encoder makes bounded JSON of arguments, of the kind that encoding/json reads.
type encoder struct {
	out      []byte
	limit    int
	key      []byte
	depth    int
	cut      bool // something is missing
	redacted []string
}

func (p *argPlan) encode(args reflect.Value, c *Capture) *encoder {
	e := &encoder{limit: c.MaxBytes - 512, key: c.HashKey} // room for what closes it
	e.value(args)
	return e
}

// full reports whether there is no room for n more bytes; then the place of the value is marked.
func (e *encoder) full(n int) bool {
	if len(e.out)+n <= e.limit {
		return false
	}
	e.truncate()
	return true
}

func (e *encoder) truncate() {
	e.cut = true
	e.out = append(e.out, `"`+truncated+`"`...)
}

// lose notes that a value could not be had.
func (e *encoder) lose() {
	e.cut = true
	e.out = append(e.out, "null"...)
}

func (e *encoder) value(v reflect.Value) {
	if !v.IsValid() {
		e.out = append(e.out, "null"...)
		return
	}
	if e.depth >= maxArgDepth || e.full(32) {
		if e.depth >= maxArgDepth {
			e.truncate()
		}
		return
	}
	e.depth++
	defer func() { e.depth-- }()
	if marshals(v.Type()) {
		e.foreign(v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			e.out = append(e.out, "null"...)
			return
		}
		e.value(v.Elem())
	case reflect.Bool:
		e.out = strconv.AppendBool(e.out, v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		e.out = strconv.AppendInt(e.out, v.Int(), 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		e.out = strconv.AppendUint(e.out, v.Uint(), 10)
	case reflect.Float32, reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			e.lose()
			return
		}
		b, _ := json.Marshal(v.Interface())
		e.out = append(e.out, b...)
	case reflect.String:
		e.text(v.String())
	case reflect.Struct:
		e.object(v)
	case reflect.Map:
		e.entries(v)
	case reflect.Slice:
		switch {
		case v.IsNil():
			e.out = append(e.out, "null"...)
		case v.Type().Elem().Kind() == reflect.Uint8 && !marshals(v.Type().Elem()):
			e.binary(v.Bytes())
		default:
			e.list(v)
		}
	case reflect.Array:
		e.list(v)
	default:
		e.lose()
	}
}

func (e *encoder) text(s string) {
	if !utf8.ValidString(s) {
		e.cut = true
	}
	if room := e.limit - len(e.out) - len(truncated) - 2; len(s) > room {
		s = s[:max(room, 0)]
		for len(s) > 0 && !utf8.ValidString(s[max(len(s)-utf8.UTFMax, 0):]) && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		s = strings.ToValidUTF8(s, "") + truncated
		e.cut = true
	}
	b, _ := json.Marshal(s)
	if e.full(len(b)) { // its escapes need more room than there is
		return
	}
	e.out = append(e.out, b...)
}

func (e *encoder) binary(b []byte) {
	if e.full(base64.StdEncoding.EncodedLen(len(b)) + 2) {
		return
	}
	e.out = append(e.out, '"')
	e.out = base64.StdEncoding.AppendEncode(e.out, b)
	e.out = append(e.out, '"')
}

func (e *encoder) list(v reflect.Value) {
	e.out = append(e.out, '[')
	for i := range v.Len() {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		if i == maxArgElements || len(e.out)+32 > e.limit {
			e.truncate()
			break
		}
		e.value(v.Index(i))
	}
	e.out = append(e.out, ']')
}

func (e *encoder) object(v reflect.Value) {
	e.out = append(e.out, '{')
	first := true
	for _, f := range fieldsOf(v.Type()) {
		x, ok := fieldOf(v, f.index)
		if !ok || f.omitEmpty && empty(x) || f.omitZero && zero(x) {
			continue
		}
		if len(e.out)+len(f.prefix)+32 > e.limit {
			e.cut = true
			break
		}
		if !first {
			e.out = append(e.out, ',')
		}
		first = false
		e.out = append(e.out, f.prefix...)
		e.field(&f, x)
	}
	e.out = append(e.out, '}')
}

func (e *encoder) field(f *argField, x reflect.Value) {
	switch {
	case f.redact:
		if rule := f.rule(); !slices.Contains(e.redacted, rule) {
			e.redacted = append(e.redacted, rule)
		}
		var key, value []byte
		if f.hash {
			inner := &encoder{limit: e.limit, depth: e.depth}
			inner.value(x)
			key, value = e.key, inner.out
		}
		e.text(messages.Mask(key, value))
	case f.quoted:
		begin := len(e.out)
		e.value(x)
		if made := string(e.out[begin:]); made != "null" && made != `"`+truncated+`"` {
			e.out = e.out[:begin]
			e.text(made)
		}
	default:
		e.value(x)
	}
}

// fieldOf finds a field; false when it is in an embedded struct that is not there.
func fieldOf(v reflect.Value, index []int) (reflect.Value, bool) {
	for i, n := range index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return v, false
			}
			v = v.Elem()
		}
		v = v.Field(n)
	}
	return v, true
}

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

func zero(v reflect.Value) (is bool) {
	defer func() {
		if recover() != nil {
			is = false
		}
	}()
	if z, ok := v.Interface().(interface{ IsZero() bool }); ok && (v.Kind() != reflect.Pointer || !v.IsNil()) {
		return z.IsZero()
	}
	return v.IsZero()
}

func (e *encoder) entries(v reflect.Value) {
	if v.IsNil() {
		e.out = append(e.out, "null"...)
		return
	}
	type entry struct {
		name string
		v    reflect.Value
	}
	var list []entry
	for it := v.MapRange(); it.Next(); {
		if len(list) == maxArgElements {
			e.cut = true
			break
		}
		name, ok := keyOf(it.Key())
		if !ok || !keepable(v.Type()) {
			e.cut = true
			continue
		}
		list = append(list, entry{name, it.Value()})
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	e.out = append(e.out, '{')
	for i, x := range list {
		if len(x.name) > e.limit { // no room, and no need to look
			e.cut = true
			break
		}
		name, _ := json.Marshal(x.name)
		if len(e.out)+len(name)+32 > e.limit {
			e.cut = true
			break
		}
		if i > 0 {
			e.out = append(e.out, ',')
		}
		e.out = append(append(e.out, name...), ':')
		e.value(x.v)
	}
	e.out = append(e.out, '}')
}

func keyOf(k reflect.Value) (name string, ok bool) {
	if k.Kind() == reflect.String {
		return k.String(), utf8.ValidString(k.String())
	}
	if m, is := k.Interface().(encoding.TextMarshaler); is {
		defer func() {
			if recover() != nil {
				name, ok = "", false
			}
		}()
		b, err := m.MarshalText()
		return string(b), err == nil
	}
	switch {
	case k.CanInt():
		return strconv.FormatInt(k.Int(), 10), true
	case k.CanUint():
		return strconv.FormatUint(k.Uint(), 10), true
	}
	return "", false
}

// foreign asks the type itself.
func (e *encoder) foreign(v reflect.Value) {
	b := marshaled(v)
	switch {
	case b == nil:
		e.lose()
	case !e.full(len(b)):
		e.out = append(e.out, bytes.ToValidUTF8(b, []byte("\ufffd"))...)
	}
}

func marshaled(v reflect.Value) (b []byte) {
	defer func() {
		if recover() != nil {
			b = nil
		}
	}()
	x := v.Interface()
	if v.CanAddr() && !v.Type().Implements(marshalerType) && !v.Type().Implements(textMarshalerType) {
		x = v.Addr().Interface()
	}
	b, err := json.Marshal(x)
	if err != nil {
		return nil
	}
	return b
}
