package messages

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func redaction(t testing.TB, fields ...string) *Redaction {
	t.Helper()
	r, err := NewRedaction(RedactionRules{Fields: fields})
	require.NoError(t, err)
	return r
}

func TestRedactionOfFields(t *testing.T) {
	for _, row := range []struct{ rule, body, want string }{
		{"card.number", `{"card": {"number":"4111", "exp":1.50}, "n":12345678901234567890}`, `{"card": {"number":"[redacted]", "exp":1.50}, "n":12345678901234567890}`},
		{"card.number", `{"CARD":{"Number":4111}}`, `{"CARD":{"Number":"[redacted]"}}`},
		{"card", `{"card":{"a":[1,{"b":"}"}]},"x":1}`, `{"card":"[redacted]","x":1}`},
		{"card.number", `{"card":[{"number":1},[{"number":2}]]}`, `{"card":[{"number":"[redacted]"},[{"number":"[redacted]"}]]}`},
		{"items[].secret", `{"items":[{"secret":1},{"a":2}]}`, `{"items":[{"secret":"[redacted]"},{"a":2}]}`},
		{"items[].secret", `{"items":{"secret":1}}`, `{"items":{"secret":1}}`},
		{"items[]", `{"items":[1, {"a":2}]}`, `{"items":["[redacted]", "[redacted]"]}`},
		{"*.password", `{"a":{"password":null},"password":"top"}`, `{"a":{"password":"[redacted]"},"password":"top"}`},
		{"**.password", `{"a":{"b":{"password":true}},"password":"top"}`, `{"a":{"b":{"password":"[redacted]"}},"password":"[redacted]"}`},
		{"a.**.b", `{"a":{"b":1,"x":{"b":2}},"b":3}`, `{"a":{"b":"[redacted]","x":{"b":"[redacted]"}},"b":3}`},
		{"[].x", `[{"x":1}]`, `[{"x":"[redacted]"}]`},
		{"password", `{"p\u0061ssword":"x","password":"y"}`, `{"p\u0061ssword":"[redacted]","password":"[redacted]"}`},
	} {
		got, rules := redaction(t, row.rule).JSON([]byte(row.body))
		require.Equal(t, row.want, string(got), row.rule)
		require.Equal(t, row.want != row.body, len(rules) == 1, row.rule)
	}
}

func TestRedactionOfValues(t *testing.T) {
	r, err := NewRedaction(RedactionRules{Values: []*regexp.Regexp{regexp.MustCompile(`\b4\d{15}\b`), regexp.MustCompile(`(?i)bearer \S+`)}})
	require.NoError(t, err)
	body, rules := r.JSON([]byte(`{"note":"card 4111111111111111, \u0042earer abc","n":4111111111111111,"4111111111111111":1, "ok":41}`))
	require.Equal(t, `{"note":"card [redacted], [redacted]","n":"[redacted]","[redacted]":1, "ok":41}`, string(body))
	require.Equal(t, []string{"values[0]", "values[1]"}, rules)
	require.Equal(t, "GET with [redacted]", r.Text("GET with Bearer xyz"))
}

func TestRedactionOfAttributes(t *testing.T) {
	r := redaction(t, "authorization", "card.number")
	extra := map[string]any{
		"Authorization": "Bearer x", "card": map[string]any{"number": 4, "exp": 5}, "n": 7,
		RequestData: map[string]any{"card": map[string]any{"number": 4}}, "odd": func() {},
	}
	got, rules := r.Attributes(extra)
	require.Equal(t, []string{"authorization", "card.number", "odd"}, rules)
	require.Equal(t, map[string]any{
		"Authorization": Redacted, "card": json.RawMessage(`{"exp":5,"number":"[redacted]"}`), "n": 7,
		RequestData: json.RawMessage(`{"card":{"number":"[redacted]"}}`), "odd": Redacted,
	}, got)
	require.Equal(t, "Bearer x", extra["Authorization"], "the caller's map is as it was")
	got, _ = r.Attributes(map[string]any{"card": `{"number":"4"}`}) // as it comes in a header
	require.Equal(t, `{"number":"[redacted]"}`, got["card"])
}

// An attribute named as a rule's path kept its value: names with dots were followed as one name only.
func TestFlattenedNamesWereNotRedacted(t *testing.T) {
	r, err := NewRedaction(RedactionRules{Fields: []string{"card.number", "**.token"}})
	require.NoError(t, err)
	extra, rules := r.Attributes(map[string]any{"card.number": "4111", "Card": map[string]any{"Number": 7}, "auth.x.token": "t", "card.name": "Ann", "card": `{"number":1}`})
	require.Equal(t, "[redacted]", extra["card.number"])
	require.Equal(t, "[redacted]", extra["auth.x.token"])
	require.Equal(t, "Ann", extra["card.name"])
	require.JSONEq(t, `{"number":"[redacted]"}`, extra["card"].(string))
	require.Equal(t, []string{"card.number", "**.token"}, rules)
	body, _ := r.JSON([]byte(`{"card.number":"4111","a.b":{"token":1},"order.card":{"number":2},"card..number":3}`))
	require.JSONEq(t, `{"card.number":"[redacted]","a.b":{"token":"[redacted]"},"order.card":{"number":2},"card..number":3}`, string(body))
}

func TestBodyThatIsNotJSONIsWithheld(t *testing.T) {
	r := redaction(t, "secret")
	for _, body := range []string{"{", `{"a":1} x`, "secret=1", "\xff"} {
		got, rules := r.JSON([]byte(body))
		require.Nil(t, got)
		require.Equal(t, []string{WithheldBody}, rules)
	}
	var none *Redaction
	got, rules := none.JSON([]byte("{"))
	require.Equal(t, "{", string(got))
	require.Empty(t, rules)
}

func TestBadRedactionRulesAreToldAtOnce(t *testing.T) {
	_, err := NewRedaction(RedactionRules{
		Fields: []string{"ok", "", "a..b", "a[0].b", "a*", "a.**", "a,b", strings.Repeat("a.", 17) + "b"},
		Values: []*regexp.Regexp{nil, regexp.MustCompile("x*")}, HashKey: []byte("short"),
	})
	require.ErrorIs(t, err, ErrInvalid)
	for i := 1; i <= 7; i++ {
		require.ErrorContains(t, err, fmt.Sprintf("redact[%d]", i))
	}
	require.NotContains(t, err.Error(), "redact[0]")
	for _, field := range []string{"redact.values[0]", "redact.values[1]", "redact.hash_key"} {
		require.ErrorContains(t, err, field)
	}
	r, err := NewRedaction(RedactionRules{})
	require.NoError(t, err)
	require.Nil(t, r)
}

func TestHashesFindEqualValuesOnly(t *testing.T) {
	keyed := func(key string) *Redaction {
		r, err := NewRedaction(RedactionRules{Fields: []string{"a", "b", "c"}, HashKey: []byte(key)})
		require.NoError(t, err)
		return r
	}
	var v struct{ A, B, C string }
	body, _ := keyed("0123456789abcdef").JSON([]byte(`{"a":"x","b":"x","c":"y"}`))
	require.NoError(t, json.Unmarshal(body, &v))
	require.Equal(t, v.A, v.B)
	require.NotEqual(t, v.A, v.C)
	require.Regexp(t, `^\[redacted:[0-9a-f]{16}\]$`, v.A)
	other, _ := keyed("another key, long").JSON([]byte(`{"a":"x"}`))
	require.NotContains(t, string(other), v.A)
}

func TestLettersMarksTravel(t *testing.T) {
	d := DeadLetter{ID: "l", Type: "charge", Redacted: []string{"card.number", WithheldBody}, Snapshot: []byte(`{"s":1}`), Response: []byte(`"r"`)}
	got, err := DecodeDeadLetter(d.Encode(), nil)
	require.NoError(t, err)
	require.Equal(t, d, got)
	for i := range 200 {
		d.Redacted = append(d.Redacted, fmt.Sprintf("field_%d", i))
	}
	got, err = DecodeDeadLetter(d.Encode(), nil)
	require.NoError(t, err)
	require.Equal(t, "...", got.Redacted[len(got.Redacted)-1])
	task := d.Task("me")
	require.Equal(t, "l", task.ID)
	require.Equal(t, 1, task.Replay)
}

// gone is the slow and obvious model: what a body is without the values at the paths that a rule names.
func gone(v any, path []string, rules [][]string) any {
	for _, rule := range rules {
		if len(path) > 0 && leads(rule, path) {
			return Redacted
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = gone(x, append(path[:len(path):len(path)], k), rules)
		}
	case []any:
		for i, x := range v {
			v[i] = gone(x, append(path[:len(path):len(path)], "[]"), rules)
		}
	}
	return v
}

// leads reports whether a rule's path is this one. An array's elements are a step that only "[]" must see.
func leads(rule, path []string) bool {
	switch {
	case len(path) == 0:
		return len(rule) == 0
	case len(rule) == 0:
		return false
	case rule[0] == "**":
		return leads(rule[1:], path) || leads(rule, path[1:])
	case path[0] == "[]":
		return rule[0] == "[]" && leads(rule[1:], path[1:]) || rule[0] != "[]" && leads(rule, path[1:])
	}
	return (rule[0] == "*" || strings.EqualFold(rule[0], path[0])) && leads(rule[1:], path[1:])
}

func TestRedactionAgreesWithAModel(t *testing.T) {
	var value func(depth int) *rapid.Generator[any]
	names := rapid.SampledFrom([]string{"a", "B", "c"})
	value = func(depth int) *rapid.Generator[any] {
		leaf := rapid.OneOf(rapid.Just[any](nil), rapid.Just[any](true), rapid.Map(rapid.String(), func(s string) any { return s }), rapid.Map(rapid.Int(), func(n int) any { return json.Number(fmt.Sprint(n)) }))
		if depth == 0 {
			return leaf
		}
		inner := value(depth - 1)
		return rapid.OneOf(
			rapid.Map(rapid.SliceOfN(inner, 0, 3), func(s []any) any { return s }),
			rapid.Map(rapid.MapOfN(names, inner, 0, 3), func(m map[string]any) any { return m }), leaf)
	}
	rapid.Check(t, func(t *rapid.T) {
		var paths []string
		var rules [][]string
		for range rapid.IntRange(1, 3).Draw(t, "rules") {
			rule := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "*", "**", "[]"}), 0, 3).Draw(t, "rule")
			rule = append(rule, rapid.SampledFrom([]string{"a", "b", "*", "[]"}).Draw(t, "last"))
			path := strings.ReplaceAll(strings.Join(rule, "."), ".[]", "[]")
			paths, rules = append(paths, path), append(rules, rule)
		}
		r, err := NewRedaction(RedactionRules{Fields: paths})
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(value(4).Draw(t, "body"))
		if err != nil {
			t.Fatal(err)
		}
		got, hit := r.JSON(body)
		model, err := json.Marshal(gone(decoded(t, body), nil, rules))
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := json.Marshal(decoded(t, got)); !bytes.Equal(again, model) {
			t.Fatalf("%v: %s became %s, want %s", paths, body, got, model)
		}
		if len(hit) == 0 && !bytes.Equal(got, body) {
			t.Fatalf("no rule, but %s became %s", body, got)
		}
	})
}

func decoded(t interface{ Fatal(...any) }, body []byte) (v any) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func FuzzRedaction(f *testing.F) {
	for _, seed := range []string{`{"secret":"s3cr3t-1","x":[1.50,{"secret":{"a":"]"}}]}`, `[" s3cr3t-2\\"]`, `{"s3cr3t-1":null}`, `{"a`, `1`, `"\ud800"`, ``, "{\"\xff\":1}"} {
		f.Add([]byte(seed))
	}
	pattern := regexp.MustCompile(`s3cr3t-\d`)
	fields, err := NewRedaction(RedactionRules{Fields: []string{"**.secret"}})
	require.NoError(f, err)
	values, err := NewRedaction(RedactionRules{Values: []*regexp.Regexp{pattern}})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, body []byte) {
		was := bytes.Clone(body)
		got, rules := fields.With(values).JSON(body)
		require.Equal(t, was, body, "the body itself was changed")
		if len(bytes.TrimSpace(body)) == 0 {
			return
		}
		require.Equal(t, json.Valid(body), json.Valid(got))
		if got == nil {
			return
		}
		if len(rules) == 0 {
			require.Equal(t, body, got)
		}
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				for k, x := range v {
					require.False(t, pattern.MatchString(k))
					if strings.EqualFold(k, "secret") {
						require.Equal(t, Redacted, x)
					}
					walk(x)
				}
			case []any:
				for _, x := range v {
					walk(x)
				}
			case string:
				require.False(t, pattern.MatchString(v))
			}
		}
		walk(decoded(t, got))
		again, more := fields.With(values).JSON(got)
		if len(more) == 0 {
			require.Equal(t, got, again)
		}
	})
}

func TestRedactedErrorIsAFieldError(t *testing.T) {
	_, err := NewRedaction(RedactionRules{Fields: []string{"a..b"}})
	field, ok := errors.AsType[*FieldError](err)
	require.True(t, ok)
	require.Equal(t, "redact[0]", field.Field)
	require.Equal(t, "a..b", field.Value)
}
