package actors

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

type panickyTracer struct{ starts bool }

func (t panickyTracer) Start(ctx context.Context, _ SpanStart) (context.Context, Span) {
	if t.starts {
		panic("start")
	}
	return ctx, panickySpan{}
}

type panickySpan struct{}

func (panickySpan) TraceParent() string { return "" }
func (panickySpan) Event(SpanEvent)     { panic("event") }
func (panickySpan) End(SpanEnd)         { panic("end") }

func TestTracerThatPanickedFailedTheCall(t *testing.T) {
	for _, starts := range []bool{true, false} {
		sys, err := NewSystem(Options{Logger: slog.New(slog.DiscardHandler), Tracer: panickyTracer{starts}})
		require.NoError(t, err)
		p := newPipeline(t, sys, Spec{Layers: fiveLayers()})
		v, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
		require.Equal(t, 7, v)
		v, err = Go(t.Context(), p, nil, fails).Await(t.Context())
		require.NoError(t, err)
		require.Equal(t, 7, v, "the fallback's")
		require.NoError(t, sys.Close(t.Context()))
	}
}
