package actors

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// What of a layer's state stays under new settings, and what does not: the list at Pipeline.Configure, line by line.

func reconfigure(t *testing.T, p *Pipeline, layer string, cfg policy.Config) {
	t.Helper()
	require.NoError(t, p.Configure(layer, cfg))
}

// A breaker keeps its state, for how long it is open, its trips and an operator's order; its evidence starts anew, over
// calls, over time and in a row.
func TestConfigureBreakerKeepsItsStateAndForgetsItsEvidence(t *testing.T) {
	for name, cfg := range map[string]policy.Breaker{
		"in a row":   {Consecutive: 3, OpenFor: time.Minute},
		"over calls": {Calls: 10, MinCalls: 3, FailureRate: 0.9, OpenFor: time.Minute},
		"over time":  {Window: time.Hour, MinCalls: 3, FailureRate: 0.9, OpenFor: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, cfg)
				b := layerOf[*breaker](p)
				failing := func(n int) {
					for range n {
						_, _ = Do(t.Context(), p, nil, fails)
					}
				}
				failing(2)
				reconfigure(t, p, "breaker", cfg)
				failing(2)
				require.Equal(t, policy.Closed, state(p), "two before count no more")
				slow := Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Second); return 0, errBoom })
				synctest.Wait()
				reconfigure(t, p, "breaker", cfg)
				_, _ = slow.Await(t.Context())
				failing(2)
				require.Equal(t, policy.Closed, state(p), "nor does one that came before and failed after")
				failing(1)
				require.Equal(t, policy.Open, state(p))
				require.EqualValues(t, 3, b.view.Load().Bad, "the counts that led to it")

				before := b.view.Load().BreakerSnapshot
				cfg.OpenFor = time.Hour
				reconfigure(t, p, "breaker", cfg)
				after := b.view.Load().BreakerSnapshot
				require.Equal(t, before.Epoch+1, after.Epoch)
				before.Epoch, before.Settings, after.Settings = after.Epoch, policy.Breaker{}, policy.Breaker{}
				require.Equal(t, before, after, "all else stays")
				refused(t, p, "open", time.Minute)

				require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.ForceClosed, Reason: "test"}))
				reconfigure(t, p, "breaker", cfg)
				passes(t, p)
				require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.Automatic, Reason: "test"}))
				require.Equal(t, policy.Open, state(p))
				time.Sleep(time.Minute)
				probe := Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Second); return 0, errBoom })
				synctest.Wait()
				require.Equal(t, policy.HalfOpen, state(p))
				reconfigure(t, p, "breaker", cfg)
				require.EqualValues(t, 1, b.probes.Load(), "a probe that runs keeps its place")
				_, _ = probe.Await(t.Context())
				require.Equal(t, policy.HalfOpen, state(p), "and decides nothing")
				require.Zero(t, b.probes.Load())
			})
		})
	}
}

// A retry budget of a layer's own keeps its calls and retries under another ratio or floor; over another window it keeps its
// retries, and its calls count anew. A budget that takes the place of another begins empty.
func TestConfigureRetryBudgetKeepsItsBalance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, retryBy(2, policy.RetryBudget{Ratio: 1, MinPerSecond: 1, Window: 10 * time.Second}))
		r := layerOf[*retry](p)
		left := func() float64 { return r.budget.current.Load().available() }
		for range 4 {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		require.InDelta(t, 10+4-4, left(), 1e-6)
		reconfigure(t, p, "retry", retryBy(2, policy.RetryBudget{Ratio: 2, MinPerSecond: 3, Window: 10 * time.Second}))
		require.InDelta(t, 30+2*4-4, left(), 1e-6)
		reconfigure(t, p, "retry", retryBy(2, policy.RetryBudget{Ratio: 2, MinPerSecond: 3, Window: 20 * time.Second}))
		require.InDelta(t, 60-4, left(), 1e-6, "its four calls are forgotten, its four retries are not")
		reconfigure(t, p, "retry", retryBy(2, policy.RetryBudget{Name: "db", Ratio: 2, MinPerSecond: 1, Window: 10 * time.Second}))
		require.InDelta(t, 10, left(), 1e-6)
		_, _ = Do(t.Context(), p, nil, fails)
		reconfigure(t, p, "retry", retryBy(2, policy.RetryBudget{}))
		reconfigure(t, p, "retry", retryBy(2, policy.RetryBudget{Name: "db"}))
		require.InDelta(t, 10+2-1, left(), 1e-6, "one of a name is what its other users left")
		time.Sleep(time.Minute)
	})
}

// What a rate limit has spent stays spent, as far as the new bucket is deep: what does not fit is forgotten.
func TestConfigureRateLimitKeepsWhatWasSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 1, Burst: 100})
		l := layerOf[*rateLimit](p)
		tokens := func() int {
			v := l.view.Load()
			return v.bucket.Tokens(v.mark.Load(), policy.Instant(p.sys.now()))
		}
		for range 40 {
			passes(t, p)
		}
		reconfigure(t, p, "rate_limit", policy.RateLimit{Limit: 1000, Per: time.Hour, Burst: 50})
		require.Equal(t, 10, tokens())
		reconfigure(t, p, "rate_limit", policy.RateLimit{Limit: 1, Burst: 100})
		require.Equal(t, 60, tokens())
		reconfigure(t, p, "rate_limit", policy.RateLimit{Limit: 1, Burst: 5})
		require.Zero(t, tokens())
		reconfigure(t, p, "rate_limit", policy.RateLimit{Limit: 1, Burst: 100})
		require.Equal(t, 95, tokens(), "a bucket of five holds no more than five that are missing")
	})
}

// A cache keeps its values: how old they may be, and how many, is what the new settings say.
func TestConfigureCacheKeepsItsValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := policy.Cache{Key: byOrder, TTL: time.Hour}
		p := pipelineOf(t, cfg)
		for i := range 10 {
			_, _ = Do(t.Context(), p, orderOf(fmt.Sprint(i)), returns(i))
		}
		cfg.StaleFor, cfg.Collapse = time.Hour, true
		reconfigure(t, p, "cache", cfg)
		for i := range 10 {
			v, _ := Do(t.Context(), p, orderOf(fmt.Sprint(i)), never(t))
			require.Equal(t, i, v)
		}
		time.Sleep(time.Minute)
		cfg.TTL = time.Minute
		reconfigure(t, p, "cache", cfg)
		v, err := Do(t.Context(), p, orderOf("1"), fails)
		require.NoError(t, err, "stale by the new settings, and good enough by them")
		require.Equal(t, 1, v)
		cfg.Max = 4
		reconfigure(t, p, "cache", cfg)
		require.EqualValues(t, 4, layerOf[*cache](p).store.size.Load())
		cfg.Key = func(c messages.Context) string { return "of order " + c.OrderID }
		reconfigure(t, p, "cache", cfg)
		v, _ = Do(t.Context(), p, orderOf("1"), returns(100))
		require.Equal(t, 100, v, "a new Key finds what it names itself")
	})
}

// Claims in progress and results stay in the store they were made in; one that takes its place knows nothing of them.
func TestConfigureIdempotencyKeepsItsClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Idempotency{Keep: time.Hour})
		_, _ = Do(t.Context(), p, keyed("done"), succeeds)
		release := make(chan struct{})
		first := Go(t.Context(), p, keyed("busy"), func(context.Context) (int, error) { <-release; return 1, nil })
		synctest.Wait()
		reconfigure(t, p, "idempotency", policy.Idempotency{Keep: time.Minute, Max: 1})
		v, _ := Do(t.Context(), p, keyed("done"), never(t))
		require.Equal(t, 7, v)
		_, err := Do(t.Context(), p, keyed("busy"), never(t))
		require.ErrorIs(t, err, messages.ErrInProgress)
		_, err = Do(t.Context(), p, keyed("more"), never(t))
		require.ErrorIs(t, err, policy.ErrClaimsFull)
		store := newClaims(10, p.sys.now)
		reconfigure(t, p, "idempotency", policy.Idempotency{Store: store})
		_, _ = Do(t.Context(), p, keyed("elsewhere"), succeeds)
		close(release)
		v, _ = first.Await(t.Context())
		require.Equal(t, 1, v)
		require.EqualValues(t, 1, store.size.Load(), "it was completed where it was claimed")
		reconfigure(t, p, "idempotency", policy.Idempotency{Max: 10})
		v, _ = Do(t.Context(), p, keyed("busy"), never(t))
		require.Equal(t, 1, v)
		time.Sleep(59 * time.Minute)
		v, _ = Do(t.Context(), p, keyed("busy"), never(t))
		require.Equal(t, 1, v, "for as long as the settings it came under say")
	})
}

// A hedge keeps the latencies it has seen and the delay it learnt; over another Window it begins to see anew, and for another
// Quantile to learn.
func TestConfigureHedgeKeepsWhatItSaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := policy.Hedge{Idempotent: true, Quantile: 0.9, MinCalls: 10, Window: time.Minute, Delay: time.Hour}
		p := pipelineOf(t, cfg)
		h := layerOf[*hedge](p)
		for range 20 {
			_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(100 * ms); return 1, nil })
		}
		time.Sleep(2 * time.Second)
		learnt := h.view.Load().Delay
		require.InDelta(t, 100*ms, learnt, float64(10*ms))
		cfg.Max = 3
		reconfigure(t, p, "hedge", cfg)
		require.Equal(t, learnt, h.view.Load().Delay)
		require.EqualValues(t, 20, h.view.Load().Calls)
		cfg.Quantile = 0.5
		reconfigure(t, p, "hedge", cfg)
		require.InDelta(t, 100*ms, h.view.Load().Delay, float64(10*ms), "of what it saw")
		cfg.Window = 2 * time.Minute
		reconfigure(t, p, "hedge", cfg)
		require.Zero(t, h.view.Load().Calls)
		require.InDelta(t, 100*ms, h.view.Load().Delay, float64(10*ms), "what was learnt counts until it has seen enough")
		cfg.Quantile = 0.8
		reconfigure(t, p, "hedge", cfg)
		require.Equal(t, time.Hour, h.view.Load().Delay, "not for another quantile")
		time.Sleep(time.Hour)
	})
}

// A throttle keeps its counts; in a window of another length they begin to age anew.
func TestConfigureThrottleKeepsItsCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Throttle{Window: 10 * time.Second})
		l := layerOf[*throttle](p)
		l.draw = func() float64 { return 1 }
		for range 20 {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		reject := l.view.Load().Reject
		require.Greater(t, reject, 0.9)
		reconfigure(t, p, "throttle", policy.Throttle{Window: 10 * time.Second, MaxReject: 0.5})
		require.InDelta(t, 0.5, l.view.Load().Reject, 1e-9)
		time.Sleep(9 * time.Second)
		reconfigure(t, p, "throttle", policy.Throttle{Window: 20 * time.Second})
		require.InDelta(t, reject, l.view.Load().Reject, 1e-9)
		time.Sleep(15 * time.Second)
		require.InDelta(t, reject, l.view.Load().Reject, 1e-9)
		time.Sleep(time.Minute)
		require.Zero(t, l.view.Load().Reject)
	})
}

// An adaptive limit keeps what it found, within the new bounds; what calls took that came before says nothing any more.
func TestConfigureAdaptiveKeepsItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Initial: 30})
		a := layerOf[*adaptive](p)
		for range 100 {
			_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(10 * ms); return 1, nil })
		}
		before := a.view.Load()
		require.Positive(t, before.Baseline)
		slow := Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil })
		synctest.Wait()
		reconfigure(t, p, "adaptive", policy.Adaptive{Initial: 99, Tolerance: 2})
		after := a.view.Load()
		require.Equal(t, before.Limit, after.Limit)
		require.Equal(t, before.Baseline, after.Baseline)
		require.EqualValues(t, after.Permits-1, a.count(), "what runs keeps its place")
		_, _ = slow.Await(t.Context())
		count, _ := after.sum()
		require.Zero(t, count)
		reconfigure(t, p, "adaptive", policy.Adaptive{Max: 8})
		require.Equal(t, 8, a.view.Load().Limit)
		reconfigure(t, p, "adaptive", policy.Adaptive{Min: 40})
		require.Equal(t, 40, a.view.Load().Limit)
		require.EqualValues(t, 40, a.count())
	})
}

// Calls in flight count on in a bulkhead and in shedding. Who waits for a permit goes on waiting by the settings it came
// under; who waits for a token, by the new ones.
func TestConfigureLimitsCountWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Shed{Limit: 10}, policy.Bulkhead{Permits: 2, Queue: 5})
		release := make(chan struct{})
		var all []Future[int]
		for range 3 {
			all = append(all, Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil }))
			synctest.Wait()
		}
		reconfigure(t, p, "shed", policy.Shed{Limit: 4, Standard: 1})
		reconfigure(t, p, "bulkhead", policy.Bulkhead{Permits: 1, Queue: 1, MaxWait: time.Second})
		require.EqualValues(t, 3, layerOf[*shed](p).inFlight.Load())
		require.EqualValues(t, -1, layerOf[*bulkhead](p).count())
		_, err := Do(t.Context(), p, nil, never(t))
		require.ErrorIs(t, err, messages.ErrBulkheadFull)
		reconfigure(t, p, "shed", policy.Shed{Limit: 3, Standard: 1})
		_, err = Do(t.Context(), p, nil, never(t))
		require.ErrorIs(t, err, messages.ErrShed)
		time.Sleep(time.Hour) // longer than its MaxWait, which came later
		reconfigure(t, p, "bulkhead", policy.Bulkhead{Permits: 3})
		synctest.Wait()
		require.Zero(t, layerOf[*bulkhead](p).count(), "it has its permit")
		close(release)
		for _, f := range all {
			_, err = f.Await(t.Context())
			require.NoError(t, err)
		}
	})
}

// A call that runs keeps its limit; the next one has the new one.
func TestConfigureTimeoutLeavesRunningCallsTheirLimit(t *testing.T) {
	for name, layers := range map[string][2]policy.Config{
		"timeout":         {policy.Timeout{Limit: time.Second}, policy.Timeout{Limit: time.Minute}},
		"attempt_timeout": {policy.AttemptTimeout{Limit: time.Second}, policy.AttemptTimeout{Limit: time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, layers[0])
				hangs := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
				for i, want := range []time.Duration{time.Second, time.Minute, time.Second} {
					begin := time.Now()
					f := Go(t.Context(), p, nil, hangs)
					synctest.Wait()
					reconfigure(t, p, name, layers[1-i%2])
					_, err := f.Await(t.Context())
					require.Equal(t, &messages.TimeoutError{Limit: want, Scope: name}, err)
					require.Equal(t, want, time.Since(begin))
				}
			})
		})
	}
}
