package messages

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Redacted stands where a value was withheld; one that was hashed is "[redacted:" and 16 hexadecimal digits.
const Redacted = "[redacted]"

// WithheldBody is listed among the rules in [DeadLetter.Redacted] when there were rules and the body was not JSON: then
// none of it is kept.
const WithheldBody = "(body)"

// Limits of a [Redaction].
const (
	MaxRedactionRules = 128 // of each kind
	maxRuleLen        = 256
	maxRuleDepth      = 16
)

// RedactionRules say what must not leave the process.
type RedactionRules struct {
	// Fields are paths of names, without regard to case: "card.number". "*" stands for any one name, "**" for any number
	// of names, none too: "**.password". The elements of an array need no mention; "items[].secret" is one of an array's
	// elements only. A name with dots in it, as attributes and flattened documents have, is a path as well. At most 128 paths, each of at most 16 names and 256 bytes.
	Fields []string
	// Values are patterns of text that is withheld wherever it stands: in strings, numbers, names, attributes and errors.
	// At most 128; none may match the empty text.
	Values []*regexp.Regexp
	// HashKey makes that equal values can be found without being seen: what is withheld leaves an HMAC-SHA-256 under
	// this key, cut to 64 bits. Empty: it leaves no trace. Not empty: 16 bytes or more.
	HashKey []byte
}

// Redaction is a set of compiled rules. It is immutable and safe for concurrent use; nil redacts nothing.
type Redaction struct {
	fields []fieldRule
	values []*regexp.Regexp
	key    []byte
}

type fieldRule struct {
	text     string
	segments []segment
}

type segment struct {
	kind segmentKind
	name string
}

type segmentKind uint8

const (
	named segmentKind = iota
	anyName
	anyDepth
	element
)

// NewRedaction compiles rules. All that is wrong with them is told at once, as *FieldError with the rule's position. Rules that
// say nothing are nil.
func NewRedaction(rules RedactionRules) (*Redaction, error) {
	var errs []error
	bad := func(field string, value any, allowed string) {
		errs = append(errs, &FieldError{Field: field, Value: value, Allowed: allowed})
	}
	r := &Redaction{values: slices.Clone(rules.Values), key: slices.Clone(rules.HashKey)}
	if len(rules.Fields) > MaxRedactionRules {
		bad("redact.fields", len(rules.Fields), fmt.Sprintf("at most %d paths", MaxRedactionRules))
	}
	if len(rules.Values) > MaxRedactionRules {
		bad("redact.values", len(rules.Values), fmt.Sprintf("at most %d patterns", MaxRedactionRules))
	}
	if n := len(rules.HashKey); n > 0 && n < 16 {
		bad("redact.hash_key", fmt.Sprintf("%d bytes", n), "16 bytes or more, or none")
	}
	for i, path := range rules.Fields {
		segments, allowed := parseRule(path)
		if allowed != "" {
			bad(fmt.Sprintf("redact[%d]", i), path, allowed)
		}
		r.fields = append(r.fields, fieldRule{path, segments})
	}
	for i, v := range rules.Values {
		if v == nil {
			bad(fmt.Sprintf("redact.values[%d]", i), nil, "a pattern")
		} else if v.MatchString("") {
			bad(fmt.Sprintf("redact.values[%d]", i), v.String(), "a pattern that does not match the empty text")
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(r.fields)+len(r.values) == 0 {
		return nil, nil
	}
	return r, nil
}

// parseRule reads a path; allowed says what it should have been.
func parseRule(path string) (segments []segment, allowed string) {
	const want = `names of a path, divided by dots: "card.number", "*.password", "**.token", "items[].secret"`
	if path == "" || len(path) > maxRuleLen || !printable(path) || strings.Contains(path, ",") {
		return nil, want + fmt.Sprintf("; at most %d bytes, no commas", maxRuleLen)
	}
	for i, part := range strings.Split(path, ".") {
		name := part
		elements := 0
		for strings.HasSuffix(name, "[]") {
			name, elements = strings.TrimSuffix(name, "[]"), elements+1
		}
		switch {
		case strings.ContainsAny(name, "[]"), name == "" && (i > 0 || elements == 0), strings.TrimSpace(name) != name:
			return nil, want
		case name == "":
		case name == "*":
			segments = append(segments, segment{kind: anyName})
		case name == "**":
			segments = append(segments, segment{kind: anyDepth})
		case strings.Contains(name, "*"):
			return nil, want + "; a star stands alone"
		default:
			segments = append(segments, segment{named, name})
		}
		for range elements {
			segments = append(segments, segment{kind: element})
		}
	}
	if len(segments) > maxRuleDepth {
		return nil, fmt.Sprintf("at most %d names", maxRuleDepth)
	}
	if segments[len(segments)-1].kind == anyDepth {
		return nil, want + `; what is withheld is named last, by "*" if need be`
	}
	return segments, ""
}

// With returns the rules of both. The hash key is that of r, or of other if r has none.
func (r *Redaction) With(other *Redaction) *Redaction {
	if r == nil {
		return other
	}
	if other == nil {
		return r
	}
	key := r.key
	if len(key) == 0 {
		key = other.key
	}
	return &Redaction{fields: slices.Concat(r.fields, other.fields), values: slices.Concat(r.values, other.values), key: key}
}

// Keyed returns the rules of r with the hash key of other.
func (r *Redaction) Keyed(other *Redaction) *Redaction {
	if r == nil || other == nil {
		return r
	}
	return &Redaction{fields: r.fields, values: r.values, key: other.key}
}

// JSON returns body without what the rules withhold, and the rules that found something, in their order. All other bytes
// are as they were: order, spaces, numbers to their last digit. A body that no rule touches is returned itself. One that is
// not JSON cannot be searched: nil is returned, and WithheldBody as the rule. An empty one is left alone.
func (r *Redaction) JSON(body []byte) (redacted []byte, rules []string) {
	if r == nil || len(bytes.TrimSpace(body)) == 0 {
		return body, nil
	}
	if !json.Valid(body) {
		return nil, []string{WithheldBody}
	}
	return r.scan(body, r.root())
}

func (r *Redaction) scan(body []byte, at []cursor) (redacted []byte, rules []string) {
	s := &redactor{r: r, in: body, hits: map[string]bool{}}
	s.value(at)
	if len(s.hits) == 0 {
		return body, nil
	}
	return append(s.out, body[s.copied:]...), r.listed(s.hits)
}

// Text returns s without what the patterns of Values match. It costs nothing when there are none.
func (r *Redaction) Text(s string) string { return r.text(s, nil) }

func (r *Redaction) text(s string, hits map[string]bool) string {
	if r == nil || s == "" {
		return s
	}
	for i, v := range r.values {
		if v.MatchString(s) {
			s = v.ReplaceAllStringFunc(s, func(found string) string { return r.mask([]byte(found)) })
			if hits != nil {
				hits[valueRule(i)] = true
			}
		}
	}
	return s
}

func valueRule(i int) string { return fmt.Sprintf("values[%d]", i) }

// Attributes returns a copy of extra without what the rules withhold, as if its entries were the fields of a body, and the
// rules that found something. An attribute that holds structured data, or text that is JSON, is searched as a body is. What
// cannot be read is withheld. An extra that no rule touches is returned itself. The data of the call (RequestData,
// SnapshotData, ResponseData) is a body each.
func (r *Redaction) Attributes(extra map[string]any) (redacted map[string]any, rules []string) {
	if r == nil || len(extra) == 0 {
		return extra, nil
	}
	hits := map[string]bool{}
	own := false // a copy was made
	redacted = extra
	for _, k := range slices.Sorted(maps.Keys(extra)) {
		v, changed := r.attribute(k, extra[k], hits)
		if !changed {
			continue
		}
		if !own {
			redacted, own = maps.Clone(extra), true
		}
		redacted[k] = v
	}
	return redacted, r.listed(hits)
}

// attribute gives what is left of an attribute.
func (r *Redaction) attribute(name string, v any, hits map[string]bool) (left any, changed bool) {
	at, hit := r.root(), -1
	if name != RequestData && name != SnapshotData && name != ResponseData {
		at, hit = r.step(at, name)
	}
	if hit >= 0 {
		hits[r.fields[hit].text] = true
		return r.mask(marshaled(v)), true
	}
	text, isText := v.(string)
	if isText {
		if body := []byte(text); structuredJSON(body) {
			redacted, rules := r.scan(body, at)
			note(hits, rules)
			return string(redacted), len(rules) > 0
		}
		redacted := r.text(text, hits)
		return redacted, redacted != text
	}
	body := marshaled(v)
	if body == nil {
		hits[name] = true
		return Redacted, true
	}
	redacted, rules := r.scan(body, at)
	note(hits, rules)
	if len(rules) == 0 {
		return v, false
	}
	return json.RawMessage(redacted), true
}

// structured reports whether text is a JSON object or array.
func structuredJSON(text []byte) bool {
	trimmed := bytes.TrimSpace(text)
	return len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') && json.Valid(trimmed)
}

func note(hits map[string]bool, rules []string) {
	for _, rule := range rules {
		hits[rule] = true
	}
}

// marshaled is v as JSON; nil if it cannot be had.
func marshaled(v any) (b []byte) {
	defer func() {
		if recover() != nil {
			b = nil
		}
	}()
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}

// listed puts the rules that found something in the order in which they were given; attributes that could not be read
// come last.
func (r *Redaction) listed(hits map[string]bool) (rules []string) {
	take := func(rule string) {
		if hits[rule] {
			rules = append(rules, rule)
			delete(hits, rule)
		}
	}
	for _, f := range r.fields {
		take(f.text)
	}
	for i := range r.values {
		take(valueRule(i))
	}
	return append(rules, slices.Sorted(maps.Keys(hits))...)
}

// mask is what is left of a value, as text.
func (r *Redaction) mask(value []byte) string { return Mask(r.key, value) }

// Mask is the text that stands for a value that was withheld: Redacted, or with a key one that is the same for equal
// values only.
func Mask(key, value []byte) string {
	if len(key) == 0 || string(value) == `"`+Redacted+`"` {
		return Redacted
	}
	sum := hmac.New(sha256.New, key)
	sum.Write(value)
	return Redacted[:len(Redacted)-1] + ":" + hex.EncodeToString(sum.Sum(nil)[:8]) + "]"
}
