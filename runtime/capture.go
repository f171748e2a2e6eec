package runtime

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// argPlan says how the arguments of one struct type are kept.
type argPlan struct {
	ids     []idField
	foreign bool // code of the user's is asked
}

// idField is a field that fills one of a context's.
type idField struct {
	index []int
	word  string
}

// argField is a field as it goes into JSON.
type argField struct {
	index                       []int
	name                        string
	prefix                      []byte // the name in quotes and the colon
	omitEmpty, omitZero, quoted bool
	redact, hash                bool
	tagged                      bool
}

var idWords = []string{"order_id", "payment_id", "user_id", "tier", "region", "domain", "tenant", "target", "idempotency_key"}

const argWords = "-, redact, redact=hash, order_id, payment_id, user_id, tier, region, domain, tenant, target or idempotency_key"

var (
	marshalerType     = reflect.TypeFor[json.Marshaler]()
	textMarshalerType = reflect.TypeFor[encoding.TextMarshaler]()
	timeType          = reflect.TypeFor[time.Time]()
	rawType           = reflect.TypeFor[json.RawMessage]()
)

// planOf reads the tags of t and of all types that can be reached from it. It tells all that is wrong at once.
func planOf(t reflect.Type, keyed bool) (*argPlan, error) {
	if t.Kind() != reflect.Struct || marshals(t) {
		return nil, &messages.FieldError{Field: "arguments", Value: t.String(), Allowed: "a struct with exported fields, without a MarshalJSON or MarshalText of its own"}
	}
	p := &planner{plan: &argPlan{}, seen: map[reflect.Type]bool{}, keyed: keyed}
	p.visit(t, "")
	p.identify(t, nil, "", map[string]string{})
	return p.plan, errors.Join(p.errs...)
}

type planner struct {
	plan  *argPlan
	seen  map[reflect.Type]bool
	keyed bool
	errs  []error
}

func (p *planner) visit(t reflect.Type, path string) {
	if p.seen[t] {
		return
	}
	p.seen[t] = true
	if marshals(t) {
		p.plan.foreign = p.plan.foreign || t != timeType && t != rawType
		return
	}
	if _, asked := t.MethodByName("IsZero"); asked { // by omitzero
		p.plan.foreign = true
	}
	switch t.Kind() {
	case reflect.Interface:
		p.plan.foreign = true // it may hold anything
	case reflect.Map:
		p.plan.foreign = p.plan.foreign || t.Key().Implements(textMarshalerType)
		p.visit(t.Elem(), path+"[]")
	case reflect.Pointer, reflect.Slice, reflect.Array:
		p.visit(t.Elem(), path)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			at := strings.TrimPrefix(path+"."+f.Name, ".")
			p.check(f, at)
			if f.IsExported() || f.Anonymous {
				p.visit(f.Type, at)
			}
		}
	}
}

// check reads one field's tag.
func (p *planner) check(f reflect.StructField, path string) {
	tag, ok := f.Tag.Lookup("forseti")
	if !ok {
		return
	}
	bad := func(allowed string) {
		p.errs = append(p.errs, &messages.FieldError{Field: path + " `forseti`", Value: tag, Allowed: allowed})
	}
	words := strings.Split(tag, ",")
	ids := 0
	for _, w := range words {
		switch {
		case w == "redact=hash" && !p.keyed:
			bad("redact, or Capture.HashKey")
		case w == "-", w == "redact", w == "redact=hash":
		case slices.Contains(idWords, w):
			ids++
		default:
			bad(argWords)
		}
	}
	_, left, redact := tagWords(tag)
	switch {
	case !f.IsExported():
		bad("an exported field")
	case left && redact:
		bad("either - or redact")
	case ids > 1:
		bad("one id")
	}
}

func tagWords(tag string) (hash, left, redact bool) {
	for _, w := range strings.Split(tag, ",") {
		hash = hash || w == "redact=hash"
		left = left || w == "-"
		redact = redact || w == "redact" || w == "redact=hash"
	}
	return hash, left, redact
}

// identify finds the ids among the arguments, embedded ones too.
func (p *planner) identify(t reflect.Type, index []int, path string, known map[string]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(slices.Clone(index), i)
		name := strings.TrimPrefix(path+"."+f.Name, ".")
		if f.Anonymous && f.Type.Kind() == reflect.Struct && !marshals(f.Type) {
			p.identify(f.Type, at, name, known)
		}
		for _, w := range strings.Split(f.Tag.Get("forseti"), ",") {
			if !slices.Contains(idWords, w) || !f.IsExported() {
				continue
			}
			if !idKind(f.Type) {
				p.errs = append(p.errs, &messages.FieldError{Field: name + " `forseti`", Value: f.Type.String(), Allowed: "a string or an integer, or a pointer to one, for " + w})
				continue
			}
			if first := known[w]; first != "" {
				p.errs = append(p.errs, &messages.FieldError{Field: name + " `forseti`", Value: w, Allowed: "an id that no other argument names: " + first + " does"})
				continue
			}
			known[w] = name
			p.plan.ids = append(p.plan.ids, idField{at, w})
		}
	}
}

func idKind(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.String || t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64
}

// fill takes the ids from the arguments.
func (p *argPlan) fill(c *messages.Context, args reflect.Value) {
	for i := range p.ids {
		f := &p.ids[i]
		v := args.FieldByIndex(f.index) // through embedded structs, never through a pointer
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				continue
			}
			v = v.Elem()
		}
		if v.IsZero() {
			continue
		}
		var id string
		switch {
		case v.Kind() == reflect.String:
			id = v.String()
		case v.CanInt():
			id = strconv.FormatInt(v.Int(), 10)
		default:
			id = strconv.FormatUint(v.Uint(), 10)
		}
		set(c, f.word, id)
	}
}

func set(c *messages.Context, word, id string) {
	switch word {
	case "order_id":
		c.OrderID = id
	case "payment_id":
		c.PaymentID = id
	case "user_id":
		c.UserID = id
	case "tier":
		switch tier := messages.Tier(id); tier {
		case messages.Critical, messages.Standard, messages.NonEssential:
			c.Tier = tier
		}
	case "region":
		c.Region = id
	case "domain":
		c.Domain = id
	case "tenant":
		c.Tenant = id
	case "target":
		c.Target = id
	case "idempotency_key":
		c.IdempotencyKey = id
	}
}

// marshals reports whether encoding/json would ask the type itself.
func marshals(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return false // what it points to is asked
	}
	return t.Implements(marshalerType) || t.Implements(textMarshalerType) ||
		reflect.PointerTo(t).Implements(marshalerType) || reflect.PointerTo(t).Implements(textMarshalerType)
}

// keepable reports whether there is JSON for values of the type.
func keepable(t reflect.Type) bool {
	for range 8 {
		if marshals(t) {
			return true
		}
		switch t.Kind() {
		case reflect.Func, reflect.Chan, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128:
			return false
		case reflect.Map:
			k := t.Key()
			if k.Kind() != reflect.String && (k.Kind() < reflect.Int || k.Kind() > reflect.Uintptr) && !k.Implements(textMarshalerType) {
				return false
			}
			t = t.Elem()
		case reflect.Pointer, reflect.Slice, reflect.Array:
			t = t.Elem()
		default:
			return true
		}
	}
	return true
}

var argFields sync.Map // reflect.Type -> []argField; as many as the program has types

// fieldsOf lists a struct's fields as encoding/json sees them, without those that are left out.
func fieldsOf(t reflect.Type) []argField {
	if known, ok := argFields.Load(t); ok {
		return known.([]argField)
	}
	var all []argField
	collect(t, nil, map[reflect.Type]bool{}, &all)
	var fields []argField
	for i, f := range all {
		wins := true
		for j, o := range all {
			if i == j || o.name != f.name {
				continue
			}
			// The shallower one, then the one with a name of its own; of equals none.
			deeper := len(f.index) > len(o.index)
			equal := len(f.index) == len(o.index)
			if deeper || equal && (o.tagged || !f.tagged) {
				wins = false
			}
		}
		if wins && f.prefix != nil {
			fields = append(fields, f)
		}
	}
	known, _ := argFields.LoadOrStore(t, fields)
	return known.([]argField)
}

func collect(t reflect.Type, index []int, above map[reflect.Type]bool, all *[]argField) {
	if above[t] {
		return
	}
	above[t] = true
	defer delete(above, t)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Tag.Get("json") == "-" {
			continue
		}
		at := append(slices.Clone(index), i)
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		hash, left, redact := tagWords(f.Tag.Get("forseti"))
		if f.Anonymous && name == "" && inner.Kind() == reflect.Struct && !marshals(inner) && !redact {
			if !left && (f.IsExported() || f.Type.Kind() != reflect.Pointer) { // a hidden pointer cannot be filled again
				collect(inner, at, above, all)
			}
			continue
		}
		if !f.IsExported() {
			continue
		}
		a := argField{index: at, name: name, tagged: name != "", redact: redact, hash: hash}
		if name == "" {
			a.name = f.Name
		}
		a.omitEmpty = hasOption(options, "omitempty")
		a.omitZero = hasOption(options, "omitzero")
		a.quoted = hasOption(options, "string") && scalar(inner.Kind())
		if !left && keepable(f.Type) {
			quoted, _ := json.Marshal(a.name)
			a.prefix = append(quoted, ':')
		}
		*all = append(*all, a)
	}
}

func hasOption(options, word string) bool { return slices.Contains(strings.Split(options, ","), word) }

func scalar(k reflect.Kind) bool {
	return k >= reflect.Bool && k <= reflect.Float64 || k == reflect.String
}

// rule names what a redact tag withheld.
func (f *argField) rule() string { return fmt.Sprintf("argument %s", f.name) }
