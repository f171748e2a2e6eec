package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// Spans leave the process: what must not is not in them.
func TestSpansToldWhatIsWithheld(t *testing.T) {
	rules, err := messages.NewRedaction(messages.RedactionRules{Values: []*regexp.Regexp{regexp.MustCompile(`4111\d+`)}})
	require.NoError(t, err)
	spans := tracetest.NewSpanRecorder()
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)),
		runtime.WithTracerProvider(trace.NewTracerProvider(trace.WithSpanProcessor(spans))), runtime.WithRedaction(rules))
	require.NoError(t, err)
	defer func() { require.NoError(t, rt.Shutdown(context.Background())) }()
	p := pipeline(t, rt, runtime.Spec{})
	for _, failure := range []error{
		errors.New("card 41112222 was refused"),
		errors.New(strings.Repeat("x", messages.MaxErrorLen-6) + "41112222"),
		&messages.RejectedError{By: "bank", Reason: "card 41112222"},
	} {
		_, err = runtime.Do(t.Context(), p, func(context.Context) (int, error) { return 0, failure })
		require.Error(t, err)
	}
	require.Len(t, spans.Ended(), 6)
	for _, s := range spans.Ended() {
		require.NotContains(t, fmt.Sprint(s.Attributes(), s.Events()), "4111")
	}
}

// A task that is passed on is part of the new trace only.
func TestTraceLeftTheStateOfAnotherTrace(t *testing.T) {
	rt, _, provider := traced(t)
	task := messages.Task{TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "vendor=17", Baggage: "a=1"}
	before := task
	rt.Trace(t.Context(), &task)
	require.Equal(t, before, task, "there is no trace")
	ctx, span := provider.Tracer("test").Start(t.Context(), "sends")
	defer span.End()
	rt.Trace(ctx, &task)
	require.Contains(t, task.TraceParent, span.SpanContext().TraceID().String())
	require.Empty(t, task.TraceState)
	require.Empty(t, task.Baggage)
}

func TestHooksThatMissAreMetrics(t *testing.T) {
	rt := metered(t)
	release := make(chan struct{})
	p := pipeline(t, rt, runtime.Spec{Hooks: []actors.Hook{{Name: "stuck", Queue: 2, OnEnd: func(actors.Moment) { <-release }}, {Name: "fine", OnEnd: func(actors.Moment) {}}}})
	for range 20 {
		_, _ = runtime.Do(t.Context(), p, func(context.Context) (int, error) { return 1, nil })
	}
	m := collect(t, rt)["forseti.hook.dropped"]
	require.GreaterOrEqual(t, sum(t, m, "hook", "stuck"), int64(17))
	require.Len(t, sets(m), 2)
	close(release)
}

// Orders for tenants share a label, and take no other's place.
func TestKillsOfTenantsTookThePlacesOfPipelines(t *testing.T) {
	rt := metered(t)
	require.NoError(t, rt.Kill(t.Context(), messages.KillState{Scope: messages.PipelineScope("pay"), On: true, Reason: "test", By: "op"}))
	for i := range 250 {
		scope := messages.ScopeOf(messages.ScopeTenant, fmt.Sprintf("t%d", i))
		require.NoError(t, rt.Kill(t.Context(), messages.KillState{Scope: scope, On: true, Reason: "test", By: "op"}))
		scope = messages.ScopeOf(messages.ScopeDomain, fmt.Sprintf("d%d", i))
		require.NoError(t, rt.Kill(t.Context(), messages.KillState{Scope: scope, On: true, Reason: "test", By: "op"}))
	}
	var scopes []string
	for _, point := range collect(t, rt)["forseti.killswitch.active"].Data.(metricdata.Gauge[float64]).DataPoints {
		v, _ := point.Attributes.Value("scope")
		scopes = append(scopes, v.AsString())
	}
	require.ElementsMatch(t, []string{"tenant", "domain", string(messages.PipelineScope("pay"))}, scopes)
}
