package runtime_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

func TestKeysOfAPipeline(t *testing.T) {
	for range (runtime.Pipeline{}).Keys("keyed_breaker") {
		t.Error("the zero pipeline has none")
	}
	_, ok := runtime.Pipeline{}.KeyState("keyed_breaker", "a")
	require.False(t, ok)
	rt, err := runtime.Start(t.Context(), runtime.Config{Node: "n1"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	p, err := rt.Pipeline("p", runtime.Spec{Layers: []policy.Config{policy.Keyed{Each: policy.Breaker{}}}})
	require.NoError(t, err)
	require.NoError(t, p.Order("keyed_breaker/a", policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "test"}))
	call := func(target string) error {
		return runtime.Try(t.Context(), p.With(messages.Context{Target: target}), func(context.Context) (int, error) { return 1, nil }).Err
	}
	require.ErrorIs(t, call("a"), messages.ErrBreakerOpen)
	require.NoError(t, call("b"))
	s, ok := p.KeyState("keyed_breaker", "a")
	require.True(t, ok)
	require.Equal(t, "forced open: test", s.State)
	n := 0
	for range p.Keys("keyed_breaker") {
		n++
	}
	require.Equal(t, 2, n)
}
