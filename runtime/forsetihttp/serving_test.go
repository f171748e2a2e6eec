package forsetihttp

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// A pipeline becomes Detached after a request was begun without that: its handler writes to the client's side itself, so
// it is waited for.
func TestPipelineThatBecameDetachedRacedWithItsHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Start(context.Background(), runtime.Config{})
		require.NoError(t, err)
		defer func() { require.NoError(t, rt.Shutdown(context.Background())) }()
		p, err := rt.Pipeline("p", runtime.Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Second, Detached: true}}})
		require.NoError(t, err)
		deaf := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Hour)
			_, _ = io.WriteString(w, "late but whole")
		})
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		s := &serving{handler: &handler{p: p, next: deaf}, w: w, r: r, out: &writer{ResponseWriter: w}}
		answer, err := runtime.Do(t.Context(), p.With(messages.Context{Once: true}), s.run)
		require.ErrorIs(t, err, messages.ErrTimeout)
		s.end(answer, err)
		require.Equal(t, "late but whole", w.Body.String())
		require.Equal(t, 200, w.Code)
	})
}

// A call that was answered before its handler began never begins it.
func TestHandlerThatComesTooLateDoesNotBegin(t *testing.T) {
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
	s := &serving{handler: &handler{next: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("begun") })}, w: w, r: r, out: newHeld(w), detached: true}
	s.end(nil, context.Canceled)
	_, err := s.run(context.Background())
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 503, w.Code)
}
