package forsetihttp_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetihttp"
)

func TestProbesFollowTheNode(t *testing.T) {
	rt, err := runtime.Start(t.Context(), runtime.Config{})
	require.NoError(t, err)
	_, err = rt.Pipeline("pay", runtime.Spec{Layers: []policy.Config{policy.Breaker{}}})
	require.NoError(t, err)
	draining, let := make(chan struct{}), make(chan struct{})
	require.NoError(t, rt.OnShutdown(runtime.ShutdownHandler{Name: "balancer", Start: func(context.Context) error {
		close(draining)
		<-let
		return nil
	}}))
	probes := forsetihttp.Probes(rt)
	ask := func(path string) (int, string) {
		w := httptest.NewRecorder()
		probes.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	requireAnswer := func(path string, status int, body string) {
		t.Helper()
		got, text := ask(path)
		require.Equal(t, status, got, path)
		require.Equal(t, body, text, path)
	}
	requireAnswer("/livez", 200, "live\n")
	requireAnswer("/readyz", 200, "ready\n")
	status, body := ask("/healthz")
	require.Equal(t, 200, status)
	var report runtime.HealthReport
	require.NoError(t, json.Unmarshal([]byte(body), &report))
	require.Equal(t, runtime.Up, report.Status)
	require.Contains(t, report.Parts, runtime.Health{Kind: "policy", Pipeline: "pay", Name: "breaker", Status: runtime.Up})

	ended := make(chan error)
	go func() { ended <- rt.Shutdown(context.Background()) }()
	<-draining
	requireAnswer("/livez", 200, "live\n")
	requireAnswer("/readyz?verbose", 503, "not ready\ndraining\n")
	close(let)
	require.NoError(t, <-ended)
	requireAnswer("/livez", 503, "terminated\n")
	requireAnswer("/readyz", 503, "not ready\n")
}
