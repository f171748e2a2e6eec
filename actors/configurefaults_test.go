package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Each test here is named after a fault of new settings that was once there.

// A limit that was met was told as the one that came after it.
func TestLimitThatWasMetWasToldAsANewerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: time.Second})
		release := make(chan struct{})
		f := Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil })
		synctest.Wait()
		require.NoError(t, p.Configure("timeout", policy.Timeout{Limit: time.Hour}))
		begin := time.Now()
		_, err := f.Await(t.Context())
		require.Equal(t, time.Second, time.Since(begin))
		require.Equal(t, &messages.TimeoutError{Limit: time.Second, Scope: "timeout"}, err)
		close(release)
	})
}

// A shorter limit made a timeout of a call that was submitted under a longer one, and whose context knew only of that.
func TestNewLimitReachedIntoACallThatHadBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Bulkhead{Permits: 1, Queue: 1}, policy.Timeout{Limit: 10 * time.Second})
		takes := func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil }
		running, queued := Go(t.Context(), p, nil, takes), Future[int]{}
		synctest.Wait()
		queued = Go(t.Context(), p, nil, takes)
		synctest.Wait()
		require.NoError(t, p.Configure("timeout", policy.Timeout{Limit: 1500 * ms}))
		for _, f := range []Future[int]{running, queued} {
			_, err := f.Await(t.Context())
			require.NoError(t, err)
		}
	})
}

// A call whose retry was told other settings on its way made as many attempts as neither said.
func TestRetryMadeAsManyAttemptsAsNeitherSettingsSay(t *testing.T) {
	p := pipelineOf(t, retryBy(5, policy.RetryBudget{}))
	runs := 0
	r := Try(t.Context(), p, nil, func(context.Context) (int, error) {
		if runs++; runs == 3 {
			require.NoError(t, p.Configure("retry", retryBy(2, policy.RetryBudget{})))
		}
		return 0, errBoom
	})
	require.Equal(t, 5, r.Attempts)
	require.Equal(t, 2, Try(t.Context(), p, nil, fails).Attempts)
}

// A call that one budget had counted took its retries from another, which had not.
func TestRetryWasTakenFromABudgetThatHadNotCountedItsCall(t *testing.T) {
	p := pipelineOf(t, retryBy(2, policy.RetryBudget{Name: "old"}))
	r := layerOf[*retry](p)
	old := r.budget.current.Load()
	_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) {
		require.NoError(t, p.Configure("retry", retryBy(2, policy.RetryBudget{Name: "new"})))
		return 0, errBoom
	})
	b := r.budget.current.Load()
	require.NotSame(t, old, b)
	require.EqualValues(t, 1, old.calls.sum())
	require.EqualValues(t, 1, old.retries())
	require.Zero(t, b.calls.sum()+b.retries())
}

// Of two who configured a retry, or a hedge, at once, one had its attempts in force and the other its budget.
func TestSettingsAndBudgetCameFromTwoWhoConfiguredAtOnce(t *testing.T) {
	p := pipelineOf(t, retryBy(2, policy.RetryBudget{}), policy.Hedge{Idempotent: true, Delay: time.Hour})
	budgets := func(i, k int) policy.RetryBudget {
		return [...]policy.RetryBudget{{Ratio: float64(1+i%5) / 10}, {Name: fmt.Sprint("shared-", i%3)}, {}}[(i+k)%3]
	}
	want := map[int]policy.RetryBudget{}
	for round := range 200 {
		var all sync.WaitGroup
		for k := range 3 {
			i := 3*round + k
			if want[i] = budgets(i, k); !want[i].Zero() {
				want[i] = want[i].Declared()
			}
			all.Go(func() {
				err := p.Configure("retry", retryBy(2+i, budgets(i, k)))
				if err = errors.Join(err, p.Configure("hedge", policy.Hedge{Idempotent: true, Delay: time.Duration(2 + i), Budget: budgets(i, k)})); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		r, h := layerOf[*retry](p).inForce().(policy.Retry), layerOf[*hedge](p).inForce().(policy.Hedge)
		require.Equal(t, want[r.Attempts-2], r.Budget, "round %d", round)
		require.Equal(t, want[int(h.Delay)-2], h.Budget, "round %d", round)
	}
}

// One whose budget was between two incarnations had everybody who configured it wait for the one before, and the end of the
// pipeline for all of them. What they gave up waiting for comes into force together, the last one's as the last.
func TestConfigureWaitedForOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{Restarts: RestartPolicy{Initial: time.Minute, Max: time.Minute}, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer func() { require.NoError(t, sys.Close(context.Background())) }()
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{retryBy(2, policy.RetryBudget{})}})
		r, crash := layerOf[*retry](p), new(atomic.Int64)
		b := newRetryBudget(sys, policy.RetryBudget{}.Declared())
		b.revive = func(cfg policy.RetryBudget, last *policy.RetryBudgetSnapshot, f policy.RetryBudgetFact) retryBudgetCore {
			return crashingBudget{policy.NewRetryBudget(cfg, last, f), crash}
		}
		require.NoError(t, sys.within(func(c actor.SpawnerContext) error { return b.start(c, "budget") }))
		r.budget.current.Store(b)
		crash.Store(1)
		b.host.Tell(b.fact(sys.now()))
		begin := time.Now()
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * ms)
				began := time.Now()
				if err := p.Configure("retry", retryBy(3+i, policy.RetryBudget{Ratio: float64(i+1) / 10})); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v", err)
				}
				if took := time.Since(began); took != settleWait {
					t.Errorf("it took %v", took)
				}
			})
		}
		time.Sleep(time.Second)
		p.giveBackNothing(t)
		all.Wait()
		require.Less(t, time.Since(begin), 6*time.Second)
		time.Sleep(time.Minute)
		now := r.inForce().(policy.Retry)
		require.Equal(t, 6, now.Attempts)
		require.InDelta(t, 0.4, now.Budget.Ratio, 1e-9)
	})
}

// giveBackNothing checks that nobody holds what the end of a pipeline waits for.
func (p *Pipeline) giveBackNothing(t *testing.T) {
	t.Helper()
	u := &layerOf[*retry](p).budget
	require.True(t, u.mu.TryLock())
	u.mu.Unlock()
}

// A budget of a layer's own that was quarantined kept the layer from all new settings.
func TestQuarantinedBudgetKeptItsLayerFromNewSettings(t *testing.T) {
	p := pipelineOf(t, retryBy(2, policy.RetryBudget{Ratio: 0.1}))
	r := layerOf[*retry](p)
	old := r.budget.current.Load()
	require.NoError(t, p.sys.root.StopFuture(old.host.pid).Wait())
	require.NoError(t, p.Configure("retry", retryBy(4, policy.RetryBudget{Ratio: 0.2})))
	require.NotSame(t, old, r.budget.current.Load())
	require.Equal(t, 4, Try(t.Context(), p, nil, fails).Attempts)
}

// A retry that was quarantined kept its settings, and got another budget.
func TestQuarantinedRetryGotAnotherBudget(t *testing.T) {
	p := pipelineOf(t, retryBy(2, policy.RetryBudget{Ratio: 0.1}), policy.Hedge{Idempotent: true, Delay: time.Hour, Budget: policy.RetryBudget{Ratio: 0.1}})
	r, h := layerOf[*retry](p), layerOf[*hedge](p)
	was, budget := p.Explain(), r.budget.current.Load()
	require.NoError(t, p.sys.root.StopFuture(r.host.pid).Wait())
	require.NoError(t, p.sys.root.StopFuture(h.host.pid).Wait())
	require.ErrorIs(t, p.Configure("retry", retryBy(4, policy.RetryBudget{Ratio: 0.2})), messages.ErrStopped)
	require.ErrorIs(t, p.Configure("hedge", policy.Hedge{Idempotent: true, Delay: time.Minute}), messages.ErrStopped)
	require.Equal(t, was, p.Explain())
	require.Same(t, budget, r.budget.current.Load())
	require.InDelta(t, 0.1, budget.view.Load().Settings.Ratio, 1e-9)
	require.NotNil(t, h.budget.current.Load())
}

// Calls that had begun under the old settings filled a cache beyond its new Max, and nobody emptied it.
func TestCallsInFlightFilledACacheBeyondItsNewMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour, Max: 100})
		release := make(chan struct{})
		var all []Future[int]
		for i := range 20 {
			all = append(all, Go(t.Context(), p, orderOf(fmt.Sprint(i)), func(context.Context) (int, error) { <-release; return i, nil }))
		}
		synctest.Wait()
		require.NoError(t, p.Configure("cache", policy.Cache{Key: byOrder, TTL: time.Hour, Max: 3}))
		close(release)
		for _, f := range all {
			_, err := f.Await(t.Context())
			require.NoError(t, err)
		}
		require.EqualValues(t, 3, layerOf[*cache](p).store.size.Load())
	})
}

// Nobody compared the types of a fallback that came into force after who had told it stopped waiting: calls that it was for
// failed until somebody told it again.
func TestFallbackThatCameLateWasRefusedItsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, crash := crashing[*fallback](t, policy.FallbackValue("a string"), func(l *fallback) *func(policy.Fallback) { return &l.changed })
		l := layerOf[*fallback](p)
		_, err := Do(t.Context(), p, nil, fails)
		require.ErrorAs(t, err, new(*messages.TypeError))
		for range 6 { // its restarts take longer each time: the last one 5 s at least
			for l.host.status.Load() == hostFailed {
				time.Sleep(time.Second)
			}
			crash.Store(1)
			l.host.Tell(policy.FallbackValue("a string"))
		}
		require.Equal(t, hostFailed, l.host.status.Load())
		require.ErrorIs(t, p.Configure("fallback", policy.FallbackValue(5)), context.DeadlineExceeded)
		_, err = Do(t.Context(), p, nil, fails)
		require.ErrorAs(t, err, new(*messages.TypeError))
		time.Sleep(time.Minute)
		v, err := Do(t.Context(), p, nil, fails)
		require.NoError(t, err)
		require.Equal(t, 5, v)
	})
}

// Of two who told a fallback another type at once, one had its fallback in force, and the other its verdict on the calls;
// and calls of a type that was new in that moment were compared with the fallback before.
func TestCallsWereComparedWithAFallbackNoLongerInForce(t *testing.T) {
	sys := newSystem(t)
	for round := range 100 {
		p, err := sys.Pipeline(fmt.Sprint("p", round), Spec{Layers: []policy.Config{policy.FallbackValue("")}})
		require.NoError(t, err)
		var all sync.WaitGroup
		all.Go(func() { _ = p.Configure("fallback", policy.FallbackValue(5)) })
		all.Go(func() { _ = p.Configure("fallback", policy.FallbackValue("x")) })
		all.Go(func() { _, _ = Do(context.Background(), p, nil, fails) })
		all.Go(func() {
			_, _ = Do(context.Background(), p, nil, func(context.Context) (string, error) { return "", errBoom })
		})
		all.Wait()
		number, err := Do(t.Context(), p, nil, fails)
		word, werr := Do(t.Context(), p, nil, func(context.Context) (string, error) { return "", errBoom })
		v, _ := layerOf[*fallback](p).inForce().(policy.Fallback).Func(t.Context(), errBoom)
		if v == 5 {
			require.NoError(t, err)
			require.Equal(t, 5, number)
			require.ErrorAs(t, werr, new(*messages.TypeError))
		} else {
			require.NoError(t, werr)
			require.Equal(t, "x", word)
			require.ErrorAs(t, err, new(*messages.TypeError))
		}
	}
}

// A call that had read the clock, and was held up on its way to a limit, was refused by a bucket that was full.
func TestRateLimitRefusedByAClockReadTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 1000, Smooth: true}, policy.RateLimit{Limit: 1_000_000, Burst: 10})
		sys, smooth, l := p.sys, p.stack[0].(*rateLimit), p.stack[1].(*rateLimit)
		held := &call{p: p, ctx: t.Context(), caller: t.Context(), now: sys.now()}
		time.Sleep(10 * ms)
		require.NoError(t, p.Configure("rate_limit", policy.RateLimit{Limit: 2000, Smooth: true}))
		v := smooth.view.Load()
		require.Zero(t, v.bucket.Wait(v.mark.Load(), policy.Instant(held.now), 0), "new settings leave a full bucket full")
		require.Zero(t, l.take(l.view.Load(), sys.now()), "another came later, and was first")
		require.NoError(t, l.admit(held))
		require.Equal(t, 8, l.view.Load().bucket.Tokens(l.view.Load().mark.Load(), policy.Instant(sys.now())))
	})
}

// Settings that were wrong in themselves hid that they were also for another layer, or for none.
func TestProblemsOfSettingsWereToldOneByOne(t *testing.T) {
	p := pipelineOf(t, policy.Timeout{Limit: time.Hour}, retryBy(2, policy.RetryBudget{}), policy.Timeout{Limit: time.Minute},
		ActorPolicy("clerk", func(func(messages.GuardResult)) actor.Actor { return actor.ReceiveFunc(func(actor.Context) {}) }))
	was := p.Explain()
	for _, row := range []struct {
		layer string
		cfg   policy.Config
		parts []string
	}{
		{"timeout-2", policy.Timeout{Limit: -1, Detached: true, MaxAbandoned: -1}, []string{"timeout.Limit", "timeout.MaxAbandoned", "timeout-2.Detached"}},
		{"retry", policy.Bulkhead{Permits: -1, Queue: -1}, []string{"bulkhead.Permits", "bulkhead.Queue", "settings of retry"}},
		{"nobody", policy.Retry{Attempts: -1}, []string{"retry.Attempts", "nobody", "not found"}},
		{"clerk", policy.Retry{Attempts: -1}, []string{"retry.Attempts", "layer clerk"}},
	} {
		err := p.Configure(row.layer, row.cfg)
		for _, part := range row.parts {
			require.ErrorContains(t, err, part)
		}
	}
	require.Equal(t, was, p.Explain())
}
