package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	api "go.opentelemetry.io/otel/trace"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

// traced starts a runtime whose spans are recorded.
func traced(t testing.TB) (*runtime.Runtime, *tracetest.SpanRecorder, *trace.TracerProvider) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	rt, err := runtime.Start(t.Context(), runtime.Config{Node: "n1"}, runtime.WithLogger(slog.New(slog.DiscardHandler)), runtime.WithTracerProvider(provider))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	return rt, spans, provider
}

func spanAttr(s trace.ReadOnlySpan, key string) string {
	for _, a := range s.Attributes() {
		if a.Key == attribute.Key(key) {
			return a.Value.String()
		}
	}
	return ""
}

// tree draws the spans that ended: "name outcome status [events](children)", children in the order of their attempts.
func tree(spans []trace.ReadOnlySpan) string {
	under := map[api.SpanID][]trace.ReadOnlySpan{}
	known := map[api.SpanID]bool{}
	for _, s := range spans {
		known[s.SpanContext().SpanID()] = true
	}
	for _, s := range spans {
		parent := s.Parent().SpanID()
		if !known[parent] {
			parent = api.SpanID{}
		}
		under[parent] = append(under[parent], s)
	}
	var draw func(api.SpanID) string
	draw = func(id api.SpanID) string {
		var all []string
		kids := under[id]
		sort.SliceStable(kids, func(i, j int) bool {
			return spanAttr(kids[i], "forseti.attempt") < spanAttr(kids[j], "forseti.attempt")
		})
		for _, s := range kids {
			text := s.Name()
			if n := spanAttr(s, "forseti.attempt"); n != "" {
				text += " " + n
			}
			text += " " + spanAttr(s, "forseti.outcome")
			if s.Status().Code == codes.Error {
				text += "!"
			}
			for _, e := range s.Events() {
				text += " +" + strings.TrimPrefix(e.Name, "forseti.")
			}
			if inside := draw(s.SpanContext().SpanID()); inside != "" {
				text += " (" + inside + ")"
			}
			all = append(all, text)
		}
		return strings.Join(all, ", ")
	}
	return draw(api.SpanID{})
}

func TestShapesOfTraces(t *testing.T) {
	hangs := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
	failing := func(context.Context) (int, error) { return 0, errBoom }
	retry := policy.Retry{Attempts: 2, Backoff: policy.Constant(time.Second)}
	for name, c := range map[string]struct {
		layers []policy.Config
		fn     func(context.Context) (int, error)
		async  bool
		want   string
	}{
		"success":     {fn: func(context.Context) (int, error) { return 1, nil }, want: "charge success (charge attempt 1 success)"},
		"retry":       {layers: []policy.Config{retry}, fn: failing, want: "charge failure! +retry +exception (charge attempt 1 failure! +exception, charge attempt 2 failure! +exception)"},
		"fallback":    {layers: []policy.Config{policy.FallbackValue(3)}, fn: failing, want: "charge fallback (charge attempt 1 failure! +exception)"},
		"rejection":   {layers: []policy.Config{policy.RateLimit{Limit: 1, Per: 24 * time.Hour}}, fn: failing, want: "charge rejected"},
		"timeout":     {layers: []policy.Config{policy.Timeout{Limit: time.Second}}, fn: hangs, want: "charge timeout! +exception (charge attempt 1 timeout! +exception)"},
		"panic":       {fn: func(context.Context) (int, error) { panic("secret") }, want: "charge failure! +exception (charge attempt 1 failure! +exception)"},
		"async":       {layers: []policy.Config{retry}, fn: failing, async: true, want: "charge failure! +retry +exception (charge attempt 1 failure! +exception, charge attempt 2 failure! +exception)"},
		"async limit": {layers: []policy.Config{policy.Timeout{Limit: time.Second}, policy.FallbackValue(1)}, async: true, fn: func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil }, want: "charge timeout! +exception (charge attempt 1 timeout!)"},
		"hedge": {layers: []policy.Config{policy.Hedge{Delay: time.Second, Idempotent: true}}, fn: func(ctx context.Context) (int, error) {
			if api.SpanFromContext(ctx).(trace.ReadOnlySpan).Attributes()[1].Value.AsInt64() == 1 {
				return hangs(ctx)
			}
			return 1, nil
		}, want: "charge success (charge attempt 1 canceled, charge attempt 2 success)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt, spans, provider := traced(t)
				p := pipeline(t, rt, runtime.Spec{Layers: c.layers})
				if name == "rejection" {
					_, _ = runtime.Do(t.Context(), p, failing)
					spans.Reset()
				}
				ctx, around := provider.Tracer("test").Start(t.Context(), "around")
				if c.async {
					_ = runtime.Go(ctx, p, c.fn).Result(t.Context())
				} else {
					_, _ = runtime.Do(ctx, p, c.fn)
				}
				time.Sleep(time.Hour)
				require.Equal(t, c.want, tree(spans.Ended()))
				for _, s := range spans.Ended() {
					require.Equal(t, around.SpanContext().TraceID(), s.SpanContext().TraceID())
				}
			})
		})
	}
}

// A function without a context has spans too, and a hook and a dead letter know the trace.
func TestTraceIsKnownToHooksAndLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, spans, _ := traced(t)
		var seen messages.Context
		letters := make(chan *messages.DeadLetter, 1)
		p := pipeline(t, rt, runtime.Spec{Hooks: []actors.Hook{{OnEnd: func(m actors.Moment) { seen = m.Context }}}, Sinks: []sinks.Sink{letterBox(letters)}})
		_, err := runtime.Do0(t.Context(), p, func() (int, error) { return 0, errBoom })
		require.ErrorIs(t, err, errBoom)
		synctest.Wait()
		require.Equal(t, "charge failure! +exception (charge attempt 1 failure! +exception)", tree(spans.Ended()))
		call := spans.Ended()[1].SpanContext()
		require.Equal(t, call.TraceID().String(), seen.TraceID)
		require.Equal(t, "00-"+seen.TraceID+"-"+call.SpanID().String()+"-01", (<-letters).TraceParent)
	})
}

func TestTracedTask(t *testing.T) {
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "n1")
	spans := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)), runtime.WithTracerProvider(provider))
	require.NoError(t, err)
	defer func() { require.NoError(t, rt.Shutdown(context.Background())) }()
	p := pipeline(t, rt, runtime.Spec{})
	states := make(chan string, 4)
	require.NoError(t, runtime.Handle(rt, "charge", p, func(ctx context.Context, _ runtime.Task[order]) (receipt, error) {
		states <- api.SpanContextFromContext(ctx).TraceState().String()
		return receipt{}, errors.Join(errBoom)
	}))
	ctx, producer := provider.Tracer("test").Start(t.Context(), "producer")
	task := messages.Task{Type: "charge", Body: []byte(`{}`)}
	rt.Trace(ctx, &task)
	require.Equal(t, fmt.Sprintf("00-%s-%s-01", producer.SpanContext().TraceID(), producer.SpanContext().SpanID()), task.TraceParent)
	task.TraceState = "vendor=17"
	task = send(t, c, task)
	first := result(t, c, task.ID, 0)
	require.Equal(t, "vendor=17", <-states)
	find := func(n int) trace.ReadOnlySpan {
		t.Helper()
		var found []trace.ReadOnlySpan
		for _, s := range spans.Ended() {
			if s.Name() == "process charge" {
				found = append(found, s)
			}
		}
		require.Len(t, found, n)
		return found[n-1]
	}
	one := find(1)
	require.Equal(t, api.SpanKindConsumer, one.SpanKind())
	require.Equal(t, producer.SpanContext().SpanID(), one.Parent().SpanID())
	require.Equal(t, task.ID, spanAttr(one, "messaging.message.id"))
	require.Contains(t, first.TraceParent, one.SpanContext().SpanID().String())

	_, err = c.ReplayDeadLetter(t.Context(), first.DeadLetterID, "ops")
	require.NoError(t, err)
	again := result(t, c, task.ID, 1)
	two := find(2)
	require.False(t, two.Parent().IsValid(), "a trace of its own")
	require.NotEqual(t, one.SpanContext().TraceID(), two.SpanContext().TraceID())
	require.Len(t, two.Links(), 1)
	require.Equal(t, one.SpanContext().SpanID(), two.Links()[0].SpanContext.SpanID())
	require.Contains(t, again.TraceParent, two.SpanContext().TraceID().String())
}

// letterBox is a sink that hands letters on.
type letterBox chan *messages.DeadLetter

func (letterBox) Name() string { return "box" }
func (b letterBox) Handle(_ context.Context, d *messages.DeadLetter) (string, error) {
	b <- d
	return d.ID, nil
}
