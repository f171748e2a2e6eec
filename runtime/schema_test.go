package runtime_test

import (
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

const orderSchema = `{
	"$defs": {"amount": {"type": "integer", "minimum": 1}},
	"type": "object", "required": ["order"], "additionalProperties": false,
	"properties": {"order": {"$ref": "#/$defs/amount"}, "card": {"type": "string", "pattern": "^[0-9]{4}$"}}
}`

func TestBodyIsComparedWithItsSchema(t *testing.T) {
	for body, want := range map[string]string{
		`{"order":17}`:               "",
		`{"order":17,"card":"1234"}`: "",
		`{}`:                         ": missing property 'order'",
		`{"order":"x"}`:              "/order: got string, want integer",
		`{"order":0}`:                "/order: does not meet minimum",
		`{"order":1,"a/b":1}`:        ": additional properties 'a/b' not allowed",
		`[`:                          "it is not JSON",
		``:                           "it is not JSON",
	} {
		err := runtime.CheckSchema([]byte(orderSchema), []byte(body))
		if want == "" {
			require.NoError(t, err, body)
			continue
		}
		require.ErrorIs(t, err, messages.ErrInvalid, body)
		require.ErrorContains(t, err, want, body)
	}
}

func TestErrorOfASchemaToldASecret(t *testing.T) {
	err := runtime.CheckSchema([]byte(orderSchema), []byte(`{"order":1,"card":"4111-secret"}`))
	require.EqualError(t, err, `the body does not meet schema "s": /card: does not meet pattern`)
}

func TestErrorOfASchemaIsBounded(t *testing.T) {
	body := `{"` + strings.Repeat("k", 1000) + `":[` + strings.Repeat(`"x",`, 999) + `"x"]}`
	err := runtime.CheckSchema([]byte(`{"additionalProperties":{"items":{"type":"integer"}}}`), []byte(body))
	var e *runtime.SchemaError
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Problems, 8)
	require.Equal(t, 992, e.More)
	require.Less(t, len(err.Error()), 2000)
}

func TestSchemaThatDoesNotCompileIsRefused(t *testing.T) {
	rt, _ := node(t)
	p := pipeline(t, rt, runtime.Spec{})
	fn := func(context.Context, runtime.Task[order]) (receipt, error) { return receipt{}, nil }
	err := runtime.HandleWith(rt, runtime.TaskConfig{Type: "charge", Schemas: map[string][]byte{
		"a": []byte(`{"type":"nonsense"}`), "b": []byte(`{`), "c d": []byte(`{}`), "file": []byte(`{"$ref":"file:///etc/passwd"}`),
		"net": []byte(`{"$ref":"http://127.0.0.1:1/x.json"}`), "ok": []byte(orderSchema), "re": []byte(`{"pattern":"("}`),
	}}, p, fn)
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, name := range []string{`schema "a"`, `schema "b"`, `schema "c d"`, `schema "file": `, `schema "net": `, `schema "re"`, "is not loaded"} {
		require.ErrorContains(t, err, name)
	}
	require.NotContains(t, err.Error(), `schema "ok"`)
	require.NoError(t, runtime.HandleWith(rt, runtime.TaskConfig{Type: "charge", Schemas: map[string][]byte{"ok": []byte(orderSchema)}}, p, fn), "nothing of it stayed")
}

func TestTaskThatDoesNotMeetItsSchemaIsADeadLetter(t *testing.T) {
	srv := clustertest.Server(t)
	rt, c := nodeOf(t, srv)
	p := pipeline(t, rt, runtime.Spec{})
	ran := make(chan string, 8)
	require.NoError(t, runtime.HandleWith(rt, runtime.TaskConfig{Type: "charge", Schemas: map[string][]byte{"charge/2": []byte(orderSchema)}}, p,
		func(_ context.Context, t runtime.Task[order]) (receipt, error) {
			ran <- t.ID
			return receipt{t.Value.Order}, nil
		}))
	for _, w := range []struct{ id, schema, body, text string }{
		{"wrong", "charge/2", `{"order":0}`, "/order: does not meet minimum"},
		{"unknown", "charge/3", `{"order":1}`, "known are charge/2"},
		{"fits", "charge/2", `{"order":1}`, ""},
		{"unchecked", "", `{"order":0}`, ""},
	} {
		task := send(t, c, messages.Task{ID: w.id, Type: "charge", Schema: w.schema, Body: []byte(w.body)})
		r := result(t, c, task.ID, 0)
		if w.text == "" {
			require.Equal(t, messages.Success, r.Outcome, w.id)
			require.Equal(t, w.id, <-ran)
			continue
		}
		require.Equal(t, messages.ReasonSchema, r.Reason)
		require.Contains(t, r.Error, w.text)
		letter, err := c.DeadLetter(t.Context(), r.DeadLetterID)
		require.NoError(t, err)
		require.Equal(t, messages.ReasonSchema, letter.Letter.Reason)
		require.Equal(t, w.schema, letter.Letter.Schema)
		again := letter.Letter.Task("ann")
		require.Equal(t, w.schema, again.Schema, "a replay is checked, too")
	}
	require.Empty(t, ran)

	nc, err := nats.Connect(srv.URL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	bad := request(t, nc, "charge", `{"order":0}`, "forseti-schema", "charge/2")
	require.Equal(t, "400", head(bad, "Nats-Service-Error-Code"))
	require.Equal(t, "schema", head(bad, "forseti-reason"))
	require.Equal(t, "success", head(request(t, nc, "charge", `{"order":1}`, "forseti-schema", "charge/2"), "forseti-outcome"))
}

func FuzzSchema(f *testing.F) {
	f.Add([]byte(orderSchema), []byte(`{"order":17}`))
	f.Add([]byte(`{"$ref":"#"}`), []byte(`{}`))
	f.Add([]byte(`{"$dynamicRef":"#a","$dynamicAnchor":"a","not":{}}`), []byte(`[[[]]]`))
	f.Add([]byte(`{"unevaluatedProperties":false,"allOf":[{"$ref":"#/allOf/0"}]}`), []byte(`{"a":1e400}`))
	f.Fuzz(func(t *testing.T, schema, body []byte) {
		if err := runtime.CheckSchema(schema, body); err != nil {
			require.ErrorIs(t, err, messages.ErrInvalid)
			require.Less(t, len(messages.ErrorText(err)), 64<<10)
		}
	})
}
