package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

var _ sdkmetric.Producer = (*runtime.Metrics)(nil)

func metered(t testing.TB) *runtime.Runtime {
	t.Helper()
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	return rt
}

// collect asks as a reader does.
func collect(t testing.TB, rt *runtime.Runtime) map[string]metricdata.Metrics {
	t.Helper()
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(rt.Metrics()))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	defer func() { require.NoError(t, provider.Shutdown(context.Background())) }()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	found := map[string]metricdata.Metrics{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			found[m.Name] = m
		}
	}
	return found
}

// sum adds the points of a counter that have the label.
func sum(t testing.TB, m metricdata.Metrics, label, value string) (n int64) {
	t.Helper()
	data, ok := m.Data.(metricdata.Sum[int64])
	require.True(t, ok, m.Name)
	require.True(t, data.IsMonotonic)
	for _, p := range data.DataPoints {
		if v, _ := p.Attributes.Value(attr(label)); v.AsString() == value {
			n += p.Value
		}
	}
	return n
}

func TestMetricsAreThoseOfTheTable(t *testing.T) {
	text, err := os.ReadFile("METRICS.md")
	require.NoError(t, err)
	require.Contains(t, string(text), runtime.MetricsTable(), "write it anew")

	rt := metered(t)
	p, err := rt.Pipeline("pay", runtime.Spec{Layers: []policy.Config{
		policy.FallbackValue(1), policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.Breaker{Consecutive: 1}, policy.Bulkhead{Permits: 2},
	}})
	require.NoError(t, err)
	_, err = runtime.Do(t.Context(), p, func(context.Context) (int, error) { return 0, errors.New("boom") })
	require.NoError(t, err)
	require.NoError(t, rt.Kill(t.Context(), messages.KillState{Scope: messages.PipelineScope("none"), On: true, Reason: "test", By: "op"}))
	table := runtime.LabelsOf()
	all := collect(t, rt)
	require.Greater(t, len(all), 15)
	for name, m := range all {
		labels, ok := table[name]
		require.True(t, ok, name)
		for _, set := range sets(m) {
			require.Equal(t, len(labels), set.Len(), name)
			for _, label := range labels {
				require.True(t, set.HasValue(attr(label)), "%s: %s", name, label)
			}
		}
	}
	require.EqualValues(t, 1, sum(t, all["forseti.pipeline.calls"], "outcome", "fallback"))
	require.EqualValues(t, 1, sum(t, all["forseti.fallback.served"], "cause", "failure")+sum(t, all["forseti.fallback.served"], "cause", "rejected"))
	require.EqualValues(t, 1, sum(t, all["forseti.breaker.transitions"], "to", "open"))
}

// Pipelines beyond the first 200 share a label; each of the first keeps its own.
func TestPipelinesBeyondTheCapShareALabel(t *testing.T) {
	rt := metered(t)
	for i := range 203 {
		p, err := rt.Pipeline(fmt.Sprintf("p-%d", 500-i), runtime.Spec{})
		require.NoError(t, err)
		_, err = runtime.Do(t.Context(), p, func(context.Context) (int, error) { return 1, nil })
		require.NoError(t, err)
	}
	all := collect(t, rt)
	calls := all["forseti.pipeline.calls"]
	require.EqualValues(t, 3, sum(t, calls, "pipeline", "__other__"))
	require.EqualValues(t, 1, sum(t, calls, "pipeline", "p-500"))
	require.Zero(t, sum(t, calls, "pipeline", "p-300"), "the 201st")
	require.EqualValues(t, 3, sum(t, all["forseti.telemetry.overflow"], "label", "pipeline"))
	names := map[string]bool{}
	for _, set := range sets(calls) {
		v, _ := set.Value("pipeline")
		names[v.AsString()] = true
	}
	require.Len(t, names, 201)
}

func TestMetricsTellNothingOfTheUsers(t *testing.T) {
	rt := metered(t)
	p, err := rt.Pipeline("pay", runtime.Spec{})
	require.NoError(t, err)
	meta := messages.Context{OrderID: "secret-order", IdempotencyKey: "secret-key"}
	_, err = runtime.Do(t.Context(), p.With(meta), func(context.Context) (int, error) { return 0, errors.New("secret-error") })
	require.Error(t, err)
	require.NotContains(t, strings.ToLower(fmt.Sprintf("%+v", collect(t, rt))), "secret")
}

func attr(label string) attribute.Key { return attribute.Key(label) }

// sets are the labels of each point of a family.
func sets(m metricdata.Metrics) (all []attribute.Set) {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			all = append(all, p.Attributes)
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			all = append(all, p.Attributes)
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			all = append(all, p.Attributes)
		}
	}
	return all
}
