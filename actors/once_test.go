package actors

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

var onlyOnce = &messages.Context{Once: true}

func TestRetryMakesOneAttemptOfWhatMustNotBeMadeTwice(t *testing.T) {
	budget := policy.RetryBudget{Ratio: 1e-9, MinPerSecond: 1e-9, Window: time.Hour}
	for _, row := range []struct {
		name string
		cfg  policy.Retry
	}{
		{"plain", policy.Retry{Attempts: 4}},
		{"with an exhausted budget, which marks nothing", policy.Retry{Attempts: 4, Budget: budget}},
		{"asked to repeat values", policy.Retry{Attempts: 4, OnResult: func(any) bool { return true }}},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.cfg.Backoff = policy.Constant(0)
			p := pipelineOf(t, row.cfg)
			r := Try(t.Context(), p, onlyOnce, fails)
			require.Equal(t, errBoom, r.Err, "the attempt's own error, unmarked")
			require.Equal(t, messages.Failure, r.Outcome)
			require.Equal(t, 1, r.Attempts)
			r = Try(t.Context(), p, onlyOnce, succeeds)
			require.Equal(t, []any{7, 1}, []any{r.Value, r.Attempts})
		})
	}
	t.Run("a retry that looks on would not have tried again", func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Retry{Attempts: 4}}, Observe: true})
		require.Empty(t, Try(t.Context(), p, onlyOnce, fails).Observed())
		require.Equal(t, []string{"retry"}, Try(t.Context(), p, nil, fails).Observed())
	})
	t.Run("the next call with the same record may be made twice", func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)})
		for range 9 {
			require.Equal(t, 1, Try(t.Context(), p, onlyOnce, fails).Attempts)
			require.Equal(t, 2, Try(t.Context(), p, nil, fails).Attempts)
		}
	})
}

func TestHedgeStartsNoCopyOfWhatMustNotBeMadeTwice(t *testing.T) {
	for _, observe := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Hedge{Idempotent: true, Delay: 10 * ms}}, Observe: observe})
			slow := func() *takes { return &takes{times: []time.Duration{time.Second}, left: bodies(2)} }
			f := slow()
			r := Try(t.Context(), p, onlyOnce, f.call)
			require.NoError(t, r.Err)
			require.Same(t, f.left[0], r.Value)
			require.EqualValues(t, 1, f.runs.Load())
			require.Equal(t, 1, r.Attempts)
			require.Empty(t, r.Observed(), "it would not have hedged either")
			f = slow()
			Try(t.Context(), p, nil, f.call)
			if !observe {
				require.EqualValues(t, 2, f.runs.Load(), "others are")
			}
		})
	}
}
