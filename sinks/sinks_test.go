package sinks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks"
)

func TestLogWritesNoPayload(t *testing.T) {
	var out bytes.Buffer
	sink := sinks.Log(slog.New(slog.NewJSONHandler(&out, nil)))
	id, err := sink.Handle(t.Context(), &messages.DeadLetter{
		ID: "d1", TaskID: "t1", Pipeline: "charge", Reason: "failure", Error: "boom", Body: []byte("4111-secret"),
		Context: messages.Context{Extra: map[string]any{"card": "4112-secret"}},
	})
	require.NoError(t, err)
	require.Equal(t, "d1", id)
	require.Contains(t, out.String(), `"task_id":"t1"`)
	require.NotContains(t, out.String(), "secret")
}

type store func(messages.DeadLetter) (string, error)

func (s store) StoreDeadLetter(_ context.Context, d messages.DeadLetter) (string, error) { return s(d) }

func TestDeadLetters(t *testing.T) {
	boom := errors.New("boom")
	sink := sinks.DeadLetters(store(func(d messages.DeadLetter) (string, error) { return d.ID, nil }))
	require.Equal(t, sinks.DeadLettersName, sink.Name())
	id, err := sink.Handle(t.Context(), &messages.DeadLetter{ID: "d1"})
	require.NoError(t, err)
	require.Equal(t, "d1", id)
	_, err = sinks.DeadLetters(store(func(messages.DeadLetter) (string, error) { return "", boom })).Handle(t.Context(), &messages.DeadLetter{})
	require.ErrorIs(t, err, boom)
}

func ExampleLog() {
	handler := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	id, err := sinks.Log(slog.New(handler)).Handle(context.Background(), &messages.DeadLetter{ID: "d1", Pipeline: "charge", Reason: "failure", Error: "boom"})
	fmt.Println(id, err)
	// Output:
	// level=ERROR msg="dead letter" id=d1 pipeline=charge task_id="" task_type="" reason=failure outcome="" error=boom attempts=0 replay=0
	// d1 <nil>
}
