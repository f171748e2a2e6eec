package runtime_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

func TestBreakerOrders(t *testing.T) {
	rt, err := runtime.Start(t.Context(), runtime.Config{Node: "n1"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	p, err := rt.Pipeline("p", runtime.Spec{Layers: []policy.Config{policy.Breaker{}}})
	require.NoError(t, err)
	call := func() error {
		return runtime.Try(t.Context(), p, func(context.Context) (int, error) { return 1, nil }).Err
	}
	require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "test", By: "ops", TTL: time.Hour}))
	require.ErrorIs(t, call(), messages.ErrBreakerOpen)
	require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.Reset, Reason: "test"}))
	require.NoError(t, call())
	require.ErrorIs(t, runtime.Pipeline{}.Order("breaker", policy.BreakerOrder{}), messages.ErrStopped)
}
