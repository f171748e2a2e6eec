package actors

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func TestCallThatMustNotBeMadeTwiceIsNotRetried(t *testing.T) {
	p := pipelineOf(t, policy.Retry{
		Attempts: 3, Backoff: policy.Constant(0), OnResult: func(any) bool { return true },
		Budget: policy.RetryBudget{MinPerSecond: 0.001, Ratio: 0.001}, // exhausted: a call that is not retried is not marked either
	})
	once := &messages.Context{Once: true}
	r := Try(t.Context(), p, once, fails)
	require.Equal(t, 1, r.Attempts)
	require.Equal(t, errBoom, r.Err, "the attempt's own error, unmarked")
	r = Try(t.Context(), p, once, succeeds)
	require.Equal(t, 1, r.Attempts, "a value that is no good neither")
	require.Equal(t, 7, r.Value)
	require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 3, Backoff: policy.Constant(0)}))
	require.Equal(t, 3, Try(t.Context(), p, nil, fails).Attempts, "others are")
	require.NoError(t, p.Observe("retry", true))
	require.Empty(t, Try(t.Context(), p, once, fails).Observed(), "it would not have retried it")
	require.True(t, messages.Context{}.With(*once).Once)
	require.True(t, once.With(messages.Context{}).Once)
}

func TestCallThatMustNotBeMadeTwiceIsNotHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 10 * ms})
		slow := func(context.Context) (int, error) { time.Sleep(time.Second); return 7, nil }
		once := &messages.Context{Once: true}
		r := Try(t.Context(), p, once, slow)
		require.Equal(t, 1, r.Attempts)
		require.Equal(t, time.Second, r.Duration)
		require.Equal(t, 2, Try(t.Context(), p, nil, slow).Attempts, "others are")
		require.NoError(t, p.Observe("hedge", true))
		require.Empty(t, Try(t.Context(), p, once, slow).Observed(), "it would not have hedged it")
		time.Sleep(time.Minute)
		quietHedge(t, p)
	})
}
