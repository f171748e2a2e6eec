package actors

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// loadedLayers is every kind of layer, with what must hold of it while it is told other settings.
func loadedLayers() map[string]loaded {
	never := policy.Breaker{MinCalls: 1 << 20}
	return map[string]loaded{
		"closed breaker": {
			layer: "breaker", failing: 30, allowed: plainEnds,
			settings: []policy.Config{
				never,
				policy.Breaker{Consecutive: 1 << 20, Calls: 100, FailureRate: 1, MinCalls: 100},
				policy.Breaker{MinCalls: 1 << 20, SlowCall: time.Nanosecond, SlowRate: 1, Window: time.Second, Classify: func(any, error) policy.Class { return policy.Success }},
			},
			rest: func(t *testing.T, l *load) {
				v := layerOf[*breaker](l.p).view.Load()
				require.Equal(t, policy.Closed, v.State)
				require.Zero(t, v.Trips)
			},
		},
		"breaker that trips": {
			layer: "breaker", failing: 40, allowed: refusals,
			settings: []policy.Config{
				policy.Breaker{Consecutive: 2, OpenFor: 100 * time.Microsecond, Probes: 3, Successes: 3, Dwell: time.Minute},
				policy.Breaker{Consecutive: 2, OpenFor: time.Millisecond, Probes: 1, Ramp: []float64{0.2, 0.5}, RampStep: time.Millisecond, Dwell: time.Minute},
			},
			rest: func(t *testing.T, l *load) {
				b := layerOf[*breaker](l.p)
				require.Eventually(t, func() bool { return b.probes.Load() == 0 }, 5*time.Second, time.Millisecond)
				require.Positive(t, b.view.Load().Trips)
			},
		},
		"bulkhead": {
			layer: "bulkhead", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.Bulkhead{Permits: 64}, policy.Bulkhead{Permits: 32}},
			rest:     permitsAreBack(64),
		},
		"bulkhead with a queue": {
			layer: "bulkhead", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.Bulkhead{Permits: 6, Queue: 64}, policy.Bulkhead{Permits: 2, Queue: 80}, policy.Bulkhead{Permits: 1, Queue: 64, MaxWait: time.Minute}},
			rest:     permitsAreBack(6),
		},
		"rate limit": {
			layer: "rate_limit", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.RateLimit{Limit: 1_000_000}, policy.RateLimit{Limit: 500_000, Burst: 800_000}, policy.RateLimit{Limit: 1_000_000_000, Per: time.Hour}},
			rest:     tokensAreSpent,
		},
		"rate limit with a queue": {
			layer: "rate_limit", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.RateLimit{Limit: 20_000, Smooth: true, Queue: 64}, policy.RateLimit{Limit: 10_000, Burst: 3, Queue: 64, MaxWait: time.Minute}},
			rest:     tokensAreSpent,
		},
		"throttle": {
			layer: "throttle", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.Throttle{}, policy.Throttle{K: 3, Window: time.Second}, policy.Throttle{Window: time.Minute, MinRequests: 100}},
			rest: func(t *testing.T, l *load) {
				require.Eventually(t, func() bool {
					c := layerOf[*throttle](l.p).view.Load().traffic()
					return c.Refused == 0 && c.Admitted == c.Accepted+c.Failed+c.Neutral && (l.hedged || c.Admitted == uint64(l.begun.Load()))
				}, 5*time.Second, time.Millisecond)
			},
		},
		"shed": {
			layer: "shed", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.Shed{Limit: 64}, policy.Shed{Limit: 40, Standard: 0.8}, policy.Shed{Limit: 100, NonEssential: 0.1, Standard: 0.5}},
			rest: func(t *testing.T, l *load) {
				require.Eventually(t, func() bool { return layerOf[*shed](l.p).inFlight.Load() == 0 }, 5*time.Second, time.Millisecond)
			},
		},
		"adaptive": {
			layer: "adaptive", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.Adaptive{Initial: 64, Min: 64, Max: 64}, policy.Adaptive{Min: 40, Max: 40}, policy.Adaptive{Min: 40, Max: 200, Initial: 50, Window: time.Second}},
			rest:     limitIsBack,
		},
		"adaptive with a queue": {
			layer: "adaptive", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.Adaptive{Min: 4, Max: 4, Queue: 64}, policy.Adaptive{Min: 2, Max: 2, Queue: 64, MaxWait: time.Minute}, policy.Adaptive{Queue: 100}},
			rest:     limitIsBack,
		},
		"retry": {
			layer: "retry", failing: 20, allowed: asManyAttempts,
			settings: []policy.Config{retryBy(4, policy.RetryBudget{Ratio: 1, MinPerSecond: 1e6}), retryBy(2, policy.RetryBudget{MinPerSecond: 1e6})},
			rest: func(t *testing.T, l *load) {
				b := layerOf[*retry](l.p).budget.current.Load()
				if l.hedged {
					require.LessOrEqual(t, b.calls.sum(), 2*uint64(l.begun.Load()))
					return
				}
				require.EqualValues(t, l.begun.Load()-l.permits.Load(), b.calls.sum(), "each call was counted once")
				require.EqualValues(t, l.retried.Load(), b.retries(), "and each retry")
			},
		},
		"retry with one budget after another": {
			layer: "retry", failing: 20, allowed: asManyAttempts,
			settings: []policy.Config{
				retryBy(4, policy.RetryBudget{Ratio: 1, MinPerSecond: 1e6}), retryBy(2, policy.RetryBudget{}), retryBy(2, policy.RetryBudget{Name: "db", MinPerSecond: 1e6}),
			},
		},
		"hedge": {
			layer: "hedge", failing: 10, allowed: plainEnds,
			settings: []policy.Config{
				policy.Hedge{Idempotent: true, Delay: 300 * time.Microsecond, MaxLosers: 4},
				policy.Hedge{Idempotent: true, Quantile: 0.9, MinCalls: 10, Delay: time.Millisecond, Max: 2, Budget: policy.RetryBudget{MinPerSecond: 1e6}},
				policy.Hedge{Idempotent: true, Delay: time.Minute},
			},
		},
		"timeout": {
			layer: "timeout", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.Timeout{Limit: time.Minute}, policy.Timeout{Limit: time.Hour}, policy.Timeout{Limit: 2 * time.Minute, Detached: true}},
		},
		"attempt timeout": {
			layer: "attempt_timeout", failing: 10, allowed: plainEnds,
			settings: []policy.Config{policy.AttemptTimeout{Limit: time.Minute}, policy.AttemptTimeout{Limit: time.Hour}},
		},
		"cache": {
			layer: "cache", allowed: plainEnds,
			settings: []policy.Config{
				policy.Cache{Key: orderKey, TTL: time.Millisecond, Max: 8},
				policy.Cache{Key: orderKey, TTL: 100 * time.Microsecond, Max: 40},
				policy.Cache{Key: orderKey, TTL: time.Hour, Collapse: true, Max: 3},
			},
			rest: func(t *testing.T, l *load) {
				s := layerOf[*cache](l.p).store
				require.LessOrEqual(t, s.size.Load(), int64(8))
				for i := range s.parts {
					require.Empty(t, s.parts[i].flights)
				}
			},
		},
		"idempotency": {
			layer: "idempotency", allowed: plainEnds,
			settings: []policy.Config{policy.Idempotency{Wait: time.Minute, Max: 200}, policy.Idempotency{Wait: time.Hour, Max: 100, Hold: time.Hour}},
			rest: func(t *testing.T, l *load) {
				s := layerOf[*idempotency](l.p).memory
				for i := range s.parts {
					for key, c := range s.parts[i].byKey {
						require.True(t, c.done, "nobody holds %s", key)
					}
				}
				require.LessOrEqual(t, s.size.Load(), int64(64))
			},
		},
		"fallback": {
			layer: "fallback", failing: 50,
			settings: []policy.Config{answering(-1), answering(-2)},
			allowed: func(l *load, s seen) string {
				switch {
				case s.kind == "permit":
					return plainEnds(l, s) // nobody answers for it
				case !l.fails(s.id):
					return plainEnds(l, s)
				case s.outcome != messages.Fallback || s.value != -1 && s.value != -2:
					return "neither answered it"
				}
				return ""
			},
		},
		"policy of one's own": {
			layer: "own", failing: 10, around: true, allowed: plainEnds,
			settings: []policy.Config{policy.Func("own", straight), policy.Func("own", func(ctx context.Context, _ policy.Call, next next) error { return next(ctx) })},
		},
	}
}

func retryBy(n int, b policy.RetryBudget) policy.Retry {
	return policy.Retry{Attempts: n, Backoff: policy.Constant(0), Budget: b}
}

// asManyAttempts allows as many attempts as one of two settings says, of a call that fails: two, or four.
func asManyAttempts(l *load, s seen) string {
	if why := plainEnds(l, s); why != "" {
		return why
	}
	l.retried.Add(max(s.runs, 1) - 1)
	failed := l.fails(s.id)
	switch {
	case errors.Is(s.err, messages.ErrRetryBudget):
		return "a budget that allows all refused it"
	case l.hedged:
	case s.kind == "permit" || !failed:
		if s.runs != 1 {
			return "it ran more than once"
		}
	case s.runs != 2 && s.runs != 4:
		return "neither settings say so many attempts"
	}
	return ""
}

func permitsAreBack(n int64) func(*testing.T, *load) {
	return func(t *testing.T, l *load) {
		b := layerOf[*bulkhead](l.p)
		require.Eventually(t, func() bool { return b.count() == n }, 5*time.Second, time.Millisecond)
		require.Zero(t, b.queued.Load())
		require.Zero(t, b.owed.waiters())
		require.Zero(t, b.owed.debt())
	}
}

func limitIsBack(t *testing.T, l *load) {
	a := layerOf[*adaptive](l.p)
	require.Eventually(t, func() bool { return a.count() == int64(a.view.Load().Permits) }, 5*time.Second, time.Millisecond)
	require.Zero(t, a.owed.waiters())
}

func tokensAreSpent(t *testing.T, l *load) {
	r := layerOf[*rateLimit](l.p)
	require.Eventually(t, func() bool { return r.inside.Load() == 0 }, 5*time.Second, time.Millisecond)
	require.Zero(t, r.queued.Load())
	require.Zero(t, r.waiting.Load())
	require.True(t, r.queue == nil || r.queue.Len() == 0)
}

// answering is a fallback for calls of more than one type.
func answering(v int64) policy.Fallback {
	return policy.Fallback{Func: func(context.Context, error) (any, error) { return v, nil }}
}
