package runtime_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetiprom"
	"github.com/forseti-go/forseti/sinks"
)

// What the README shows of guards, hooks and sinks is this, and it works.
func TestREADMEShowsWhatStandsBesideTheLayers(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	c, dir, mux := clustertest.Connect(t, clustertest.Server(t), "n1"), t.TempDir(), http.NewServeMux()
	alerted := make(chan string, 1)
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { alerted <- r.Method }))
	defer web.Close()
	url := web.URL
	quota := actors.GuardFunc("quota", func(*messages.Context) messages.GuardResult { return messages.Allow() })

	rt := must(runtime.Start(ctx, runtime.Config{StateDir: dir}, runtime.WithCluster(c), // orders of the kill switch outlive the process
		runtime.WithSpool(sinks.SpoolConfig{Dir: dir + "/spool"}), // dead letters outlive an outage of NATS
		runtime.WithTracerProvider(otel.GetTracerProvider())))     // a span of each call and attempt
	must(0, rt.ErrorBudget(policy.ErrorBudget{Name: "checkout", Objective: 0.999, Latency: 800 * time.Millisecond}))
	p := must(rt.Pipeline("charge", runtime.Spec{
		Guards: []actors.Guard{actors.KillSwitch(), actors.ErrorBudget("checkout"), actors.FailClosed(quota)},
		Layers: []policy.Config{policy.Timeout{Limit: time.Second}, policy.Retry{Attempts: 2}},
		Hooks:  []actors.Hook{actors.LogHook(nil)},
		Sinks:  []sinks.Sink{sinks.DeadLetters(c), must(rt.Webhook("alerts", sinks.WebhookConfig{URL: url}))},
		Redact: []string{"card.number", "*.password"},
	}))
	mux.Handle("/metrics", forsetiprom.Handler(rt))
	breakers := must(rt.Watch(64, messages.EventFilter{Kinds: []messages.Kind{"breaker.*"}})) // breakers.All(ctx) yields them

	breakers.Close()
	_, err := runtime.Do(ctx, p, func(context.Context) (int, error) { return 0, os.ErrDeadlineExceeded })
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, http.MethodPost, <-alerted)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Contains(t, w.Body.String(), `forseti_pipeline_calls_total{outcome="failure",pipeline="charge"} 1`)
	for _, family := range []string{`forseti_errorbudget_remaining{slo="checkout"} `, `forseti_errorbudget_burn{slo="checkout",window="1h0m0s"} `, "forseti_spool_size_bytes ", "forseti_shutdown_phase 0"} {
		require.Contains(t, w.Body.String(), family)
	}
	go end()
	require.NoError(t, rt.ServeUntilSignal(ctx, 30*time.Second))

	source, err := os.ReadFile("beside_test.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, code, _ := strings.Cut(string(source), "\n\n\trt := must(")
	code, _, _ = strings.Cut("\trt := must("+code, "\n\n\tbreakers.Close")
	require.Contains(t, string(readme), code)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
