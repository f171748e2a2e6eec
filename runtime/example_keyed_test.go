package runtime_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// A breaker for each host, and a bulkhead for each tenant.
func ExamplePipeline_With_keyed() {
	ctx := context.Background()
	rt, err := runtime.Start(ctx, runtime.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = rt.Shutdown(ctx) }()
	tenant := func(c messages.Context) string { return c.Tenant }
	get := func(context.Context) (string, error) { return "page", nil }

	p, err := rt.Pipeline("fetch", runtime.Spec{Layers: []policy.Config{
		policy.Keyed{Each: policy.Breaker{Consecutive: 5}},           // by the calls' Target: for each host
		policy.Keyed{Each: policy.Bulkhead{Permits: 8}, Key: tenant}, // for each tenant
	}})
	page, err := runtime.Do(ctx, p.With(messages.Context{Target: "a.example.com", Tenant: "acme"}), get)
	host, _ := p.KeyState("keyed_breaker", "a.example.com")

	fmt.Println(page, err, host.Key, host.State)
	// Output: page <nil> a.example.com closed
}

// The README shows code of the Example.
func TestREADMEShowsKeys(t *testing.T) {
	source, err := os.ReadFile("example_keyed_test.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, code, found := strings.Cut(string(readme), "```go\n\tp, err := rt.Pipeline(\"fetch\"")
	require.True(t, found)
	code, _, _ = strings.Cut(code, "\n```")
	require.Contains(t, string(source), "\tp, err := rt.Pipeline(\"fetch\""+code)
}
