package actors

import (
	"context"
	"log/slog"
	goruntime "runtime"
	"strings"
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

// budgetOf makes a budget in a system of its own.
func budgetOf(t testing.TB, cfg policy.RetryBudget) *retryBudget {
	t.Helper()
	b, err := newSystem(t).budget(cfg)
	require.NoError(t, err)
	return b
}

// callAt is a call at the present moment, on a lane.
func callAt(b *retryBudget, lane uint32) *call {
	return &call{caller: context.Background(), now: b.sys.now(), lane: lane}
}

// take withdraws as often as it is allowed.
func take(b *retryBudget) (n int) {
	for b.withdraw(callAt(b, 0)) {
		n++
	}
	return n
}

func deposits(b *retryBudget, n int) {
	for i := range n {
		b.deposit(callAt(b, uint32(i)))
	}
}

// The floor is there from the first moment on, and after any silence.
func TestRetryBudgetRefusedTheFirstTenRetriesOfAnyMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 11, Backoff: policy.Constant(0), Budget: policy.RetryBudget{MinPerSecond: 1, Window: 10 * time.Second}})
		for range 3 {
			r := Try(t.Context(), p, nil, fails)
			require.Equal(t, 11, r.Attempts)
			require.Equal(t, errBoom, r.Err)
			r = Try(t.Context(), p, nil, fails)
			require.Equal(t, 1, r.Attempts, "and then it is spent")
			time.Sleep(time.Minute)
		}
	})
}

func TestRetryBudgetWindowMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budgetOf(t, policy.RetryBudget{Ratio: 0.1, MinPerSecond: 0.5, Window: 10 * time.Second})
		time.Sleep(500 * time.Millisecond)
		deposits(b, 100)
		require.Equal(t, 15, take(b))
		time.Sleep(5 * time.Second)
		require.Zero(t, take(b))
		deposits(b, 50)
		require.Equal(t, 5, take(b))
		time.Sleep(5 * time.Second)
		require.Equal(t, 5, take(b), "the first step has left: 5 and a tenth of 50 are allowed, and 5 were made")
		time.Sleep(5 * time.Second)
		require.Equal(t, 0, take(b), "five are still inside")
		time.Sleep(6 * time.Second)
		require.True(t, b.asleep.Load())
		require.Zero(t, b.view.Load().Due)
		require.Equal(t, 5, take(b))
		require.False(t, b.asleep.Load(), "a retry wakes it too")
		time.Sleep(12 * time.Second)
		require.InDelta(t, 5, b.available(), 1e-6)
	})
}

// What comes after a sleep counts at its time: it is not lost, and leaves the window when it is its turn.
func TestRetryBudgetCountsTheFirstCallAfterASleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budgetOf(t, policy.RetryBudget{Ratio: 1, MinPerSecond: 0.001, Window: 10 * time.Second})
		for range 3 {
			require.True(t, b.asleep.Load())
			deposits(b, 1)
			require.False(t, b.asleep.Load())
			time.Sleep(8500 * time.Millisecond)
			require.InDelta(t, 1.01, b.available(), 1e-6)
			time.Sleep(3 * time.Second)
			require.InDelta(t, 0.01, b.available(), 1e-6)
			time.Sleep(time.Minute)
		}
	})
}

// A timer that does not come, because its processor is busy, does not keep old calls in the window.
func TestRetryBudgetMovesOnWhenItsTimerIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budgetOf(t, policy.RetryBudget{Ratio: 1, MinPerSecond: 0.001, Window: 10 * time.Second})
		deposits(b, 100)
		c := callAt(b, 0)
		b.host.Await(t.Context(), b.fact(c.now))
		c.now += int64(time.Minute) // the timer is set for a second from now, and no time passes for it
		require.False(t, b.withdraw(c))
	})
}

// However many ask at once, no retry is allowed beyond what the calls and the floor give.
func TestRetryBudgetOvershoot(t *testing.T) {
	t.Run("one window", func(t *testing.T) {
		const floor, ratio = 50, 0.1
		b := budgetOf(t, policy.RetryBudget{Ratio: ratio, MinPerSecond: floor / 3600.0, Window: time.Hour})
		var calls, retries, over atomic.Int64
		var all sync.WaitGroup
		for g := range 64 {
			all.Go(func() {
				for i := range 1000 {
					c := callAt(b, uint32(g))
					calls.Add(1) // before it is counted: the allowance can only be smaller
					b.deposit(c)
					if i%2 == 0 && b.withdraw(c) {
						if float64(retries.Add(1)) > floor+ratio*float64(calls.Load())+1e-6 {
							over.Add(1)
						}
					}
				}
			})
		}
		all.Wait()
		require.Zero(t, over.Load())
		retries.Add(int64(take(b)))
		require.EqualValues(t, floor+ratio*64*1000, retries.Load(), "and in the end every one of them was")
		require.Equal(t, uint64(retries.Load()), b.retries())
	})
	// Views are replaced all the time: no retry is taken from one that is no longer in force, and none is forgotten. The
	// floor of no window is exceeded by more than the one before it leaves room for.
	t.Run("many windows", func(t *testing.T) {
		const window = 10 * time.Millisecond
		b := budgetOf(t, policy.RetryBudget{Ratio: 0.001, MinPerSecond: 2000, Window: window}) // 20 a window
		var retries, views atomic.Int64
		begin := b.sys.now()
		var all sync.WaitGroup
		for g := range 64 {
			all.Go(func() {
				for b.sys.now()-begin < int64(300*time.Millisecond) {
					if b.withdraw(callAt(b, uint32(g))) {
						retries.Add(1)
					}
					goruntime.Gosched()
				}
			})
		}
		all.Go(func() {
			last := b.view.Load()
			for b.sys.now()-begin < int64(300*time.Millisecond) {
				if v := b.view.Load(); v != last {
					last = v
					views.Add(1)
				}
				goruntime.Gosched()
			}
		})
		all.Wait()
		spans := float64(b.sys.now()-begin)/float64(window) + 2
		require.LessOrEqual(t, float64(retries.Load()), 20*spans)
		require.Greater(t, retries.Load(), int64(40), "the window did move")
		require.Greater(t, views.Load(), int64(5))
		require.Equal(t, uint64(retries.Load()), b.retries(), "none was lost between two views")
	})
}

// Who has read a view just before it was replaced must not take a retry from it.
func TestRetryWasTakenFromAViewThatWasReplaced(t *testing.T) {
	b := budgetOf(t, policy.RetryBudget{Ratio: 0.1, MinPerSecond: 0.5, Window: time.Hour})
	require.True(t, b.withdraw(callAt(b, 0)))
	v := b.view.Load()
	n := v.spent.Load()
	deposits(b, 10)
	require.True(t, b.host.Await(t.Context(), b.fact(b.sys.now())))
	require.NotSame(t, v, b.view.Load())
	require.False(t, v.spent.CompareAndSwap(n, n+1))
	require.EqualValues(t, 1, b.retries())
}

func TestExhaustedBudgetReplacedTheRealError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memorySink{}
		sys := bare(t)
		events := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind == messages.RetrySuppressed })
		p := newPipeline(t, sys, Spec{Sinks: []FailureSink{sink}, Layers: []policy.Config{
			policy.Timeout{Limit: time.Hour},
			policy.Retry{Attempts: 2, Backoff: policy.Constant(time.Second), Budget: policy.RetryBudget{Name: "db", MinPerSecond: 0.001, Ratio: 0.001}},
			policy.AttemptTimeout{Limit: time.Second},
		}})
		begin := time.Now()
		r := Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Failure, r.Outcome, "it is what it was")
		require.ErrorIs(t, r.Err, errBoom)
		require.ErrorIs(t, r.Err, messages.ErrRetryBudget)
		require.NotErrorIs(t, r.Err, messages.ErrRejected)
		suppressed := new(messages.SuppressedError)
		require.ErrorAs(t, r.Err, &suppressed)
		require.Equal(t, errBoom, suppressed.Err)
		require.Equal(t, 1, r.Attempts)
		require.Zero(t, time.Since(begin), "the budget is asked before the wait")
		synctest.Wait()
		require.Equal(t, "*errors.errorString", sink.letters[0].ErrorType)
		require.Equal(t, []string{"boom"}, sink.letters[0].AttemptErrors)

		r = Try(t.Context(), p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		require.Equal(t, messages.Timeout, r.Outcome)
		require.ErrorIs(t, r.Err, messages.ErrTimeout)
		require.ErrorIs(t, r.Err, messages.ErrRetryBudget)

		r = Try(t.Context(), p, nil, ctxFails(messages.Discard(errBoom)))
		require.NotErrorIs(t, r.Err, messages.ErrRetryBudget, "what would not have been tried again is not marked")
		_, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)

		require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 2, Backoff: policy.Constant(0), Budget: policy.RetryBudget{Name: "db"}, OnResult: func(any) bool { return true }}))
		r = Try(t.Context(), p, nil, succeeds)
		require.Equal(t, messages.Success, r.Outcome, "a value stays a value")
		require.Equal(t, 1, r.Attempts)
		for range 5 {
			_ = Try(t.Context(), p, nil, fails)
		}
		require.NoError(t, sys.Close(t.Context()))
		total := int64(0)
		for len(events.C()) > 0 {
			e := <-events.C()
			require.Equal(t, "retry", e.Source)
			told := e.Data.(messages.RetriesSuppressed)
			require.Equal(t, "db", told.Budget)
			total += told.Count
		}
		require.EqualValues(t, 8, total, "each is told, the last ones at the end")
	})
}

func TestSuppressedRetryOfAFallbacksAnswer(t *testing.T) {
	p := pipelineOf(t, policy.Retry{Backoff: policy.Constant(0), Budget: policy.RetryBudget{MinPerSecond: 0.001, Ratio: 0.001}}, policy.FallbackValue(1))
	r := Try(t.Context(), p, nil, fails)
	require.Equal(t, messages.Fallback, r.Outcome)
	require.Equal(t, 1, r.Value)
	require.ErrorIs(t, r.Err, errBoom)
	require.ErrorIs(t, r.Err, messages.ErrRetryBudget)
}

func TestRetryBudgetIsSharedByName(t *testing.T) {
	sys := newSystem(t)
	retrying := func(b policy.RetryBudget) policy.Retry {
		return policy.Retry{Attempts: 4, Backoff: policy.Constant(0), Budget: b}
	}
	declared := policy.RetryBudget{Name: "db", Ratio: 0.001, MinPerSecond: 0.5, Window: 10 * time.Second} // five
	one, err := sys.Pipeline("one", Spec{Layers: []policy.Config{retrying(declared)}})
	require.NoError(t, err)
	two, err := sys.Pipeline("two", Spec{Layers: []policy.Config{retrying(policy.RetryBudget{Name: "db"})}})
	require.NoError(t, err, "the name alone takes what was declared")
	three, err := sys.Pipeline("three", Spec{Layers: []policy.Config{retrying(declared)}})
	require.NoError(t, err, "and so do the same settings")
	own, err := sys.Pipeline("own", Spec{Layers: []policy.Config{retrying(policy.RetryBudget{Ratio: 0.001, MinPerSecond: 0.5, Window: 10 * time.Second})}})
	require.NoError(t, err)
	require.Equal(t, 4, Try(t.Context(), one, nil, fails).Attempts)
	require.Equal(t, 3, Try(t.Context(), two, nil, fails).Attempts)
	require.Equal(t, 1, Try(t.Context(), three, nil, fails).Attempts)
	require.Equal(t, 4, Try(t.Context(), own, nil, fails).Attempts)

	_, err = sys.Pipeline("four", Spec{Layers: []policy.Config{retrying(policy.RetryBudget{Name: "db", Ratio: 0.5}), policy.Retry{Budget: policy.RetryBudget{Ratio: 1}}}})
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, err, "retry budget db is")
	require.ErrorContains(t, err, "ratio 0.001")
	require.False(t, sys.Has("four"))
	_, err = sys.Pipeline("four", Spec{Layers: []policy.Config{retrying(policy.RetryBudget{Name: "db"})}})
	require.NoError(t, err, "the name of the pipeline is free again")
	require.ErrorIs(t, one.Configure("retry", retrying(policy.RetryBudget{Name: "db", Ratio: 0.5})), messages.ErrInvalid)

	_, err = sys.Pipeline("five", Spec{Layers: []policy.Config{retrying(policy.RetryBudget{Name: "cache"})}})
	require.NoError(t, err)
	b, err := sys.budget(policy.RetryBudget{Name: "cache", Ratio: 0.2})
	require.NoError(t, err, "the name alone declares the defaults")
	require.InDelta(t, 100, b.available(), 1e-6)

	_, err = sys.Pipeline("six", Spec{Layers: []policy.Config{retrying(policy.RetryBudget{Name: "queue", Ratio: 0.5}), policy.Timeout{}}})
	require.Error(t, err)
	_, err = sys.Pipeline("six", Spec{Layers: []policy.Config{retrying(policy.RetryBudget{Name: "queue", Ratio: 0.6})}})
	require.NoError(t, err, "settings that were refused declare nothing")
}

// A call is counted once, however many layers share the budget, and however often they are passed.
func TestRetryBudgetCountsACallOnce(t *testing.T) {
	shared := policy.RetryBudget{Name: "db"}
	p := pipelineOf(t, policy.Retry{Attempts: 3, Backoff: policy.Constant(0), Rejections: true, Budget: shared}, policy.Retry{Attempts: 2, Backoff: policy.Constant(0), Budget: shared},
		policy.Bulkhead{Permits: 1}, policy.Retry{Attempts: 1, Budget: policy.RetryBudget{Ratio: 0.5}})
	b, err := p.sys.budget(shared)
	require.NoError(t, err)
	for i := range 3 {
		require.Equal(t, 6, Try(t.Context(), p, nil, fails).Attempts)
		require.EqualValues(t, i+1, b.calls.sum())
		require.EqualValues(t, 5*(i+1), b.retries())
	}
	bh := layerOf[*bulkhead](p)
	require.True(t, bh.try(0))
	require.Zero(t, Try(t.Context(), p, nil, fails).Attempts)
	require.EqualValues(t, 4, b.calls.sum(), "nor once for each refusal")
	bh.release(0)
}

func TestRetryBudgetOfALivePipelineIsReplaced(t *testing.T) {
	p := pipelineOf(t, policy.Retry{Attempts: 4, Backoff: policy.Constant(0), Budget: policy.RetryBudget{Ratio: 0.001, MinPerSecond: 0.5}})
	r := layerOf[*retry](p)
	set := func(b policy.RetryBudget) *retryBudget {
		t.Helper()
		require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 4, Backoff: policy.Constant(0), Budget: b}))
		return r.budget.current.Load()
	}
	first := r.budget.current.Load()
	require.Equal(t, 4, Try(t.Context(), p, nil, fails).Attempts)
	require.Same(t, first, set(policy.RetryBudget{Ratio: 0.001, MinPerSecond: 0.4}))
	require.Equal(t, 2, Try(t.Context(), p, nil, fails).Attempts, "of four, three were made before")
	require.Nil(t, set(policy.RetryBudget{}))
	require.Equal(t, 4, Try(t.Context(), p, nil, fails).Attempts)
	require.Eventually(t, func() bool { return first.host.status.Load() == hostGone }, 5*time.Second, time.Millisecond, "what nobody uses is stopped")
	shared := set(policy.RetryBudget{Name: "db", Ratio: 0.001, MinPerSecond: 0.1})
	require.Equal(t, 2, Try(t.Context(), p, nil, fails).Attempts)
	second := set(policy.RetryBudget{Ratio: 0.001, MinPerSecond: 0.1})
	require.NotSame(t, first, second)
	require.Equal(t, hostUp, shared.host.status.Load(), "what others may use goes on")
	require.NoError(t, p.Close(t.Context()))
	require.Eventually(t, func() bool { return second.host.status.Load() == hostGone }, 5*time.Second, time.Millisecond)
	require.Equal(t, hostUp, shared.host.status.Load())
}

// crashingBudget is a core that panics when it is told to.
type crashingBudget struct {
	*policy.RetryBudgetCore
	crash *atomic.Int64
}

func (c crashingBudget) Apply(f policy.RetryBudgetFact) bool {
	if c.crash.Add(-1) >= 0 {
		panic("core is broken")
	}
	return c.RetryBudgetCore.Apply(f)
}

func TestRetryBudgetSurvivesRestartAndQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{Restarts: RestartPolicy{Initial: time.Second, Max: time.Minute, Budget: 3, HalfLife: time.Hour}, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer func() { require.NoError(t, sys.Close(context.Background())) }()
		events := sys.Events().Subscribe(64, nil)
		crash := new(atomic.Int64)
		b := newRetryBudget(sys, policy.RetryBudget{Ratio: 0.1, MinPerSecond: 0.5, Window: 10 * time.Second})
		b.revive = func(cfg policy.RetryBudget, last *policy.RetryBudgetSnapshot, f policy.RetryBudgetFact) retryBudgetCore {
			return crashingBudget{policy.NewRetryBudget(cfg, last, f), crash}
		}
		require.NoError(t, sys.within(func(c actor.SpawnerContext) error { return b.start(c, "budget") }))

		time.Sleep(100 * time.Millisecond)
		deposits(b, 100)
		for range 4 {
			require.True(t, b.withdraw(callAt(b, 0)))
		}
		crash.Store(1)
		b.host.Await(t.Context(), b.fact(sys.now()))
		require.Equal(t, hostFailed, b.host.status.Load())
		require.InDelta(t, 11, b.available(), 1e-6, "what was published last is in force")
		require.True(t, b.withdraw(callAt(b, 0)))
		time.Sleep(2 * time.Second)
		require.Equal(t, hostUp, b.host.status.Load())
		require.InDelta(t, 0, b.available(), 1e-6, "calls are forgotten, the five retries are not")
		require.EqualValues(t, 5, b.retries())
		deposits(b, 30)
		require.Equal(t, 3, take(b))
		time.Sleep(20 * time.Second)
		require.InDelta(t, 5, b.available(), 1e-6)

		for b.host.status.Load() != hostGone {
			crash.Store(1)
			b.host.Tell(b.fact(sys.now()))
			time.Sleep(time.Minute)
		}
		require.Equal(t, 5, take(b), "without its actor it goes on with what there was")
		deposits(b, 100)
		time.Sleep(time.Hour)
		require.Equal(t, 10, take(b))
		require.Zero(t, take(b))
		var kinds []string
		for len(events.C()) > 0 {
			kinds = append(kinds, string((<-events.C()).Kind))
		}
		require.Equal(t, "actor.restarted actor.restarted actor.restarted actor.quarantined", strings.Join(kinds, " "))
	})
}

// Whatever the endings, a retry budget holds nothing, and its counters agree with what happened.
func TestRetryBudgetCountsAgreeAfterAnyMixOfEndings(t *testing.T) {
	p := pipelineOf(t, policy.Retry{Attempts: 3, Backoff: policy.Constant(0), Budget: policy.RetryBudget{Ratio: 0.3, MinPerSecond: 0.001, Window: time.Hour}})
	b := layerOf[*retry](p).budget.current.Load()
	var attempts, calls atomic.Int64
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for i := range 200 {
				var one sync.WaitGroup
				one.Go(func() {
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					calls.Add(1)
					_, _ = Do(ctx, p, nil, func(context.Context) (int, error) {
						attempts.Add(1)
						switch (g + i) % 5 {
						case 0:
							panic("x")
						case 1:
							goruntime.Goexit()
						case 2:
							cancel()
							return 0, errBoom
						case 3:
							return 0, errBoom
						}
						return 1, nil
					})
				})
				one.Wait()
			}
		})
	}
	all.Wait()
	require.EqualValues(t, calls.Load(), b.calls.sum())
	require.EqualValues(t, attempts.Load()-calls.Load(), b.retries())
	require.LessOrEqual(t, float64(b.retries()), 0.3*float64(calls.Load())+0.001*3600+1e-6)
	require.Positive(t, b.retries())
}
