package forsetihttp_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime/forsetihttp"
)

// One host is down, and only its breaker opens.
func TestBreakerOfOneHostRefusedAnother(t *testing.T) {
	p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Consecutive: 2, OpenFor: time.Hour}})
	tr, err := forsetihttp.NewTransport(p, made(func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "down" {
			return answer(503, "down"), nil
		}
		return answer(200, "up"), nil
	}))
	require.NoError(t, err)
	get := func(url string) error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		resp, err := tr.RoundTrip(req)
		if err == nil {
			require.NoError(t, resp.Body.Close())
		}
		return err
	}
	require.NoError(t, get("http://down/1"))
	require.NoError(t, get("http://down/2"))
	require.ErrorIs(t, get("http://DOWN:80/3"), messages.ErrBreakerOpen)
	require.NoError(t, get("http://up/"))
}

// One tenant has spent its tokens, and only that one is told to come back later.
func TestRateLimitOfOneTenantRefusedAnother(t *testing.T) {
	p := pipelineOf(t, policy.Keyed{
		Each: policy.RateLimit{Limit: 1, Per: time.Hour, Burst: 1}, Key: func(c messages.Context) string { return c.Tenant },
	})
	protect, err := forsetihttp.Middleware(p, forsetihttp.WithContext(func(r *http.Request) messages.Context {
		return messages.Context{Tenant: r.Header.Get("Tenant")}
	}))
	require.NoError(t, err)
	h := protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	get := func(tenant string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Tenant", tenant)
		h.ServeHTTP(w, r)
		return w
	}
	require.Equal(t, 200, get("a").Code)
	w := get("a")
	require.Equal(t, 429, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	require.NotContains(t, w.Body.String(), `"a"`)
	require.Equal(t, 200, get("b").Code)
}
