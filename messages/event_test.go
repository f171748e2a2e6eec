package messages

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// filled is a value of a kind's data with something in every field.
func filled(zero any) any {
	if zero == nil {
		return nil
	}
	v := reflect.New(reflect.TypeOf(zero)).Elem()
	fill(v)
	return v.Interface()
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(8)
	case reflect.Float64:
		v.SetFloat(0.5)
	default:
		panic("no sample for " + v.Type().String())
	}
}

func sampleEvent(k KindInfo) Event {
	return Event{
		ID: "e1", Kind: k.Kind, At: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC), Node: "n1", Sequence: 17, Incarnation: "i1",
		Version: k.Version, Pipeline: "pay", Source: "layer", Reason: "why", Data: filled(k.Data),
	}
}

// Golden files are the contract: what one holds is read for ever, and every one of its fields.
func TestGoldenEventsAreRead(t *testing.T) {
	for _, k := range EventKinds() {
		t.Run(string(k.Kind), func(t *testing.T) {
			path := filepath.Join("testdata", "events", fmt.Sprintf("%s.v%d.json", k.Kind, k.Version))
			want := sampleEvent(k)
			text, err := json.MarshalIndent(want, "", "  ")
			require.NoError(t, err)
			if *rewrite {
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, append(text, '\n'), 0o644))
			}
			golden, err := os.ReadFile(path)
			require.NoError(t, err, "a kind's golden file is written by -rewrite")
			require.JSONEq(t, string(golden), string(text))
			var got Event
			require.NoError(t, json.Unmarshal(golden, &got))
			require.Equal(t, want, got)
		})
	}
	old, err := filepath.Glob("testdata/events/*.json")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(old), len(EventKinds()))
	for _, path := range old { // those of earlier versions, too
		golden, err := os.ReadFile(path)
		require.NoError(t, err)
		var e Event
		require.NoError(t, json.Unmarshal(golden, &e), path)
	}
}

// What a node of before wrote has no version and lacks the newer fields; what a newer one writes has more of them.
func TestEventsOfOlderAndNewerNodesAreRead(t *testing.T) {
	var e Event
	require.NoError(t, json.Unmarshal([]byte(`{"id":"1","kind":"breaker.opened","data":{"bad":11}}`), &e))
	change, ok := DataOf[BreakerChange](e)
	require.True(t, ok)
	require.Equal(t, BreakerChange{Bad: 11}, change)
	require.NoError(t, json.Unmarshal([]byte(`{"id":"1","kind":"breaker.opened","version":1,"data":{"bad":11,"new":1}}`), &e))
	require.Equal(t, BreakerChange{Bad: 11}, e.Data)
	require.NoError(t, json.Unmarshal([]byte(`{"id":"1","kind":"breaker.opened","version":2,"data":{"bad":11}}`), &e))
	require.Equal(t, json.RawMessage(`{"bad":11}`), e.Data, "a version of its own")
	_, ok = DataOf[BreakerChange](e)
	require.False(t, ok)
	require.NoError(t, json.Unmarshal([]byte(`{"id":"1","kind":"breaker.opened","version":1,"data":{"bad":"many"}}`), &e))
	require.Equal(t, json.RawMessage(`{"bad":"many"}`), e.Data)
	require.NoError(t, json.Unmarshal([]byte(`{"id":"1","kind":"moon.rose","data":{"phase":3}}`), &e))
	require.Equal(t, map[string]any{"phase": json.Number("3")}, e.Fields())
	mine, ok := DataOf[struct{ Phase int }](e)
	require.True(t, ok)
	require.Equal(t, 3, mine.Phase)
	require.NoError(t, json.Unmarshal([]byte(`{"id":"1","kind":"node.started","data":null}`), &e))
	require.Nil(t, e.Data)
	_, ok = DataOf[EventCount](Event{Data: BreakerChange{}})
	require.False(t, ok)
}

func TestEveryKindIsRegisteredAndDocumented(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	require.NoError(t, err)
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, is := spec.Type.(*ast.Ident); !is || typ.Name != "Kind" {
			return true
		}
		declared++
		name, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		require.NoError(t, err)
		k, known := LookupKind(Kind(name))
		require.True(t, known, "%s is not in the registry", name)
		require.Equal(t, Kind(name), k.Kind)
		require.NotEmpty(t, k.Doc)
		require.Positive(t, k.Version)
		require.True(t, k.Kind.pattern())
		return true
	})
	require.Equal(t, declared, len(EventKinds()))
	require.Equal(t, declared, len(kindIndex), "a kind is registered once")
}

// EVENTS.md is made from the registry; -rewrite makes it anew.
func TestEventsTableIsThatOfTheRegistry(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Events\n\nMade from the registry in eventkinds.go. Fields of a kind's data may be added; any other change makes a new version.\n\n")
	b.WriteString("| kind | version | data | what happened |\n|---|---|---|---|\n")
	for _, k := range EventKinds() {
		data := "-"
		if k.Data != nil {
			data = fmt.Sprintf("[%s](eventdata.go): %s", reflect.TypeOf(k.Data).Name(), strings.Join(fieldNames(reflect.TypeOf(k.Data)), ", "))
		}
		fmt.Fprintf(&b, "| <a id=%q></a>`%s` | %d | %s | %s |\n", fmt.Sprintf("%s.v%d", k.Kind, k.Version), k.Kind, k.Version, data, k.Doc)
	}
	if *rewrite {
		require.NoError(t, os.WriteFile("EVENTS.md", []byte(b.String()), 0o644))
	}
	text, err := os.ReadFile("EVENTS.md")
	require.NoError(t, err)
	require.Equal(t, b.String(), string(text), "go test ./messages -run Event -rewrite")
}

func fieldNames(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			names = append(names, fieldNames(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, "`"+name+"`")
	}
	return names
}

func TestEventFilter(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	e := Event{Kind: BreakerOpened, Pipeline: "pay", Source: "breaker", Node: "n1", At: at}
	for _, row := range []struct {
		f    EventFilter
		want bool
	}{
		{EventFilter{}, true},
		{EventFilter{Kinds: []Kind{"*"}}, true},
		{EventFilter{Kinds: []Kind{NodeStarted, "breaker.*"}}, true},
		{EventFilter{Kinds: []Kind{"break.*"}}, false},
		{EventFilter{Kinds: []Kind{NodeStarted}}, false},
		{EventFilter{Pipelines: []string{"a", "pay"}, Sources: []string{"breaker"}, Nodes: []string{"n1"}, Since: at}, true},
		{EventFilter{Pipelines: []string{"a"}}, false},
		{EventFilter{Sources: []string{"a"}}, false},
		{EventFilter{Nodes: []string{"a"}}, false},
		{EventFilter{Since: at.Add(1)}, false},
	} {
		require.NoError(t, row.f.Validate())
		require.Equal(t, row.want, row.f.Matches(&e), "%+v", row.f)
	}
	for _, k := range []Kind{"", "*.opened", "breaker*", ".*", "Breaker.opened", "a..b", "a b"} {
		f := EventFilter{Kinds: []Kind{k}}
		require.ErrorIs(t, f.Validate(), ErrInvalid, "%q", k)
	}
	many := EventFilter{Kinds: []Kind{"A"}, Nodes: make([]string, MaxEventFilter+1)}
	require.Len(t, many.Validate().(interface{ Unwrap() []error }).Unwrap(), 2, "all problems at once")
}
