package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// What the work noted before it failed, and why its letter cannot be replayed, was stored and never shown.
func TestSnapshotResponseAndRedactionWereNotShown(t *testing.T) {
	info := cluster.DeadLetterInfo{Letter: messages.DeadLetter{
		ID: "l1", Snapshot: []byte(`{"stock":3}`), Response: []byte(`{"code":"declined"}`), Redacted: []string{"card.number", "values[0]"},
	}}
	show := func(json bool) string {
		var out bytes.Buffer
		s := &session{output: &output{out: &out, err: &out, json: json}}
		require.NoError(t, s.letter(&info, nil, false))
		return out.String()
	}
	for _, text := range []string{`{"stock":3}`, `{"code":"declined"}`, "card.number, values[0] (cannot be replayed)"} {
		require.Contains(t, show(false), text)
	}
	document := show(true)
	for _, text := range []string{`"stock": 3`, `"code": "declined"`, `"card.number"`} {
		require.Contains(t, document, text)
	}
	info.Letter.Snapshot = []byte("no\x1b[2JJSON")
	require.NotContains(t, show(false), "\x1b")
	require.Contains(t, show(true), `"no\u001b[2JJSON"`)
}
