package forsetiprom_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetiprom"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scrape asks a server as Prometheus does.
func scrape(t testing.TB, server *httptest.Server) map[string]*dto.MetricFamily {
	t.Helper()
	resp, err := server.Client().Get(server.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	require.NoError(t, err)
	return families
}

func started(t testing.TB) (*runtime.Runtime, *httptest.Server) {
	t.Helper()
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	server := httptest.NewServer(forsetiprom.Handler(rt))
	t.Cleanup(server.Close)
	return rt, server
}

// value is that of the one point of a family that has the label.
func value(t testing.TB, f *dto.MetricFamily, label, want string) *dto.Metric {
	t.Helper()
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == label && l.GetValue() == want {
				return m
			}
		}
	}
	require.Fail(t, "no such point", "%s %s=%s", f.GetName(), label, want)
	return nil
}

func TestScrapeOfARuntimeAtWork(t *testing.T) {
	rt, server := started(t)
	p, err := rt.Pipeline("pay", runtime.Spec{Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.Bulkhead{Permits: 64}}})
	require.NoError(t, err)
	var callers sync.WaitGroup
	for g := range 4 {
		callers.Go(func() {
			for range 50 {
				_, _ = runtime.Do(t.Context(), p, func(context.Context) (int, error) {
					if g == 0 {
						return 0, errors.New("boom")
					}
					return 1, nil
				})
			}
		})
	}
	scrape(t, server) // while calls run
	callers.Wait()
	f := scrape(t, server)

	calls := f["forseti_pipeline_calls_total"]
	require.Equal(t, dto.MetricType_COUNTER, calls.GetType())
	require.EqualValues(t, 150, value(t, calls, "outcome", "success").GetCounter().GetValue())
	require.EqualValues(t, 50, value(t, calls, "outcome", "failure").GetCounter().GetValue())
	took := value(t, f["forseti_pipeline_duration_seconds"], "outcome", "success").GetHistogram()
	require.EqualValues(t, 150, took.GetSampleCount())
	bounds := []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}
	for i, bound := range bounds {
		require.InDelta(t, bound, took.GetBucket()[i].GetUpperBound(), 1e-12)
	}
	require.EqualValues(t, 100, value(t, f["forseti_attempt_duration_seconds"], "result", "failure").GetHistogram().GetSampleCount())
	require.EqualValues(t, 50, value(t, f["forseti_retry_attempts_total"], "pipeline", "pay").GetCounter().GetValue())
	require.EqualValues(t, 64, value(t, f["forseti_bulkhead_limit"], "pipeline", "pay").GetGauge().GetValue())
	require.Contains(t, f, "forseti_build_info")
	require.NotContains(t, f, "target_info")
	for name, family := range f {
		require.Regexp(t, "^forseti_", name)
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				require.NotContains(t, l.GetName(), "otel_scope")
			}
		}
	}
}

// A pipeline that is closed keeps its counts: a counter that goes back looks like a restart.
func TestCountsOfAClosedPipelineWentBack(t *testing.T) {
	rt, server := started(t)
	p, err := rt.Pipeline("pay", runtime.Spec{})
	require.NoError(t, err)
	_, err = runtime.Do(t.Context(), p, func(context.Context) (int, error) { return 1, nil })
	require.NoError(t, err)
	require.NoError(t, p.Close(t.Context()))
	require.EqualValues(t, 1, value(t, scrape(t, server)["forseti_pipeline_calls_total"], "outcome", "success").GetCounter().GetValue())
}
