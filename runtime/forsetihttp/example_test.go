package forsetihttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetihttp"
)

// A server that is busy twice and asks to come again at once; the client's caller sees the third answer.
func ExampleNewTransport() {
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n++; n < 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "paid")
	}))
	defer server.Close()
	ctx := context.Background()
	rt := must(runtime.Start(ctx, runtime.Config{}))
	defer func() { _ = rt.Shutdown(ctx) }()

	p := must(rt.Pipeline("payments", runtime.Spec{Layers: []policy.Config{
		policy.Timeout{Limit: 3 * time.Second},
		policy.Retry{Attempts: 4, Backoff: policy.Exponential(time.Millisecond, time.Second)},
		policy.Breaker{},
	}}))
	client := &http.Client{Transport: must(forsetihttp.NewTransport(p, nil))}

	resp := must(client.Get(server.URL))
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode, string(must(io.ReadAll(resp.Body))), "at attempt", n)
	client.CloseIdleConnections()
	// Output: 200 paid at attempt 3
}

// A handler that serves two requests an hour.
func ExampleMiddleware() {
	ctx := context.Background()
	rt := must(runtime.Start(ctx, runtime.Config{}))
	defer func() { _ = rt.Shutdown(ctx) }()
	pay := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "paid") })

	p := must(rt.Pipeline("api", runtime.Spec{Layers: []policy.Config{
		policy.RateLimit{Limit: 2, Per: time.Hour}, policy.Timeout{Limit: time.Second}, policy.Bulkhead{Permits: 64},
	}}))
	protect := must(forsetihttp.Middleware(p, forsetihttp.WithContext(func(r *http.Request) messages.Context {
		return messages.Context{Tenant: r.Header.Get("X-Tenant")}
	})))
	server := httptest.NewServer(protect(pay))
	defer server.Close()

	for range 3 {
		resp := must(http.Get(server.URL))
		fmt.Println(resp.StatusCode, resp.Header.Get("Retry-After"), string(must(io.ReadAll(resp.Body))))
		_ = resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	// Output:
	// 200  paid
	// 200  paid
	// 429 1800 {"type":"about:blank","title":"Too Many Requests","status":429,"detail":"rate limit is reached"}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
