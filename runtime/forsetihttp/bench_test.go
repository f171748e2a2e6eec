package forsetihttp_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetihttp"
)

// nothing is a base that costs nothing: what is measured is the transport's own.
type nothing struct{ response http.Response }

func (n *nothing) RoundTrip(*http.Request) (*http.Response, error) {
	r := n.response
	return &r, nil
}

func fiveLayers(t testing.TB) runtime.Pipeline {
	return pipelineOf(t,
		policy.Timeout{Limit: time.Hour},
		policy.Retry{Attempts: 4},
		policy.Breaker{MinCalls: 100, OpenFor: time.Hour},
		policy.Bulkhead{Permits: 1 << 16},
		policy.AttemptTimeout{Limit: time.Hour},
	)
}

// roundTrips are what is measured: the bare base, no layer, five layers, five layers and a body each way.
func roundTrips(t testing.TB) map[string]func() {
	base := &nothing{http.Response{StatusCode: 200, Body: http.NoBody}}
	trip := func(tr http.RoundTripper, body bool) func() {
		req, err := http.NewRequest(http.MethodGet, "http://a.example:80/", nil)
		require.NoError(t, err)
		return func() {
			if body {
				req, _ = http.NewRequest(http.MethodPut, "http://a.example:80/", strings.NewReader("x"))
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		}
	}
	over := func(p runtime.Pipeline) http.RoundTripper {
		tr, err := forsetihttp.NewTransport(p, base)
		require.NoError(t, err)
		return tr
	}
	return map[string]func(){
		"bare":                  trip(base, false),
		"no layer":              trip(over(pipelineOf(t)), false),
		"five layers":           trip(over(fiveLayers(t)), false),
		"five layers, PUT":      trip(over(fiveLayers(t)), true),
		"bare, PUT":             trip(base, true),
		"middleware, no answer": middlewareTrip(t),
	}
}

func middlewareTrip(t testing.TB) func() {
	protect, err := forsetihttp.Middleware(fiveLayers(t))
	require.NoError(t, err)
	h := protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
	return func() { h.ServeHTTP(w, r) }
}

func BenchmarkTransport(b *testing.B) {
	for name, do := range roundTrips(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}

// What the doc of NewTransport says is allocated, counted. The bare base makes one: its response. Of the five layers two are
// limits.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own pools allocate; the counts are asserted by the run without it")
	}
	trips := roundTrips(t)
	for name, want := range map[string]float64{
		"bare": 1, "no layer": 1 + 6, "five layers": 1 + 25, "middleware, no answer": 6,
	} {
		require.Equal(t, want, testing.AllocsPerRun(1000, trips[name]), name)
	}
}
