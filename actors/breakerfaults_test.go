package actors

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Each test here is named after a fault that circuit breakers are known for.

func TestNineFailuresAThousandSuccessesAndOneMoreFailureOpenedTheBreaker(t *testing.T) {
	for name, cfg := range map[string]policy.Breaker{
		"time": {MinCalls: 10, FailureRate: 0.5, Window: time.Hour}, "calls": {MinCalls: 10, FailureRate: 0.5, Calls: 100},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, cfg)
				do := func(n int, fn func(context.Context) (int, error)) {
					for range n {
						_, err := Do(t.Context(), p, nil, fn)
						require.NotErrorIs(t, err, messages.ErrRejected)
					}
				}
				do(9, fails)
				do(1000, succeeds)
				do(1, fails)
				time.Sleep(24 * time.Hour)
				do(1, fails)
				require.Equal(t, policy.Closed, state(p))
			})
		})
	}
}

func TestSuccessThresholdAboveTheProbesCouldNeverBeReached(t *testing.T) {
	_, err := newSystem(t).Pipeline("p", Spec{Layers: []policy.Config{policy.Breaker{Probes: 2, Successes: 3}}})
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, err, "breaker.Successes")
}

// Whoever hears of a breaker may ask it, change it and order it: from the filter that runs on the publisher's goroutine,
// and from one of its own.
func TestListenerThatCalledBackIntoTheBreakerDeadlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1}
		p := pipelineOf(t, cfg)
		var mu sync.Mutex
		var heard []messages.Kind
		var faults []error
		callBack := func() {
			_, err := Do(context.Background(), p, nil, fails)
			if err == nil {
				faults = append(faults, errors.New("a call that fails was answered"))
			}
			faults = append(faults, p.Configure("breaker", cfg), p.Order("breaker", policy.BreakerOrder{Kind: policy.Disable, Reason: "to call back"}))
			_, err = Do(context.Background(), p, nil, succeeds)
			faults = append(faults, err, p.Order("breaker", policy.BreakerOrder{Kind: policy.Automatic, Reason: "done"}))
		}
		begin := time.Now()
		sub := p.sys.Events().Subscribe(64, func(e messages.Event) bool {
			mu.Lock()
			heard = append(heard, e.Kind)
			first := len(heard) == 1
			mu.Unlock()
			if first {
				callBack()
			}
			return true
		})
		_, _ = Do(t.Context(), p, nil, fails) // opens, and the filter calls back
		require.Zero(t, time.Since(begin), "nobody waited for anybody")
		require.NoError(t, errors.Join(faults...))
		require.Equal(t, []messages.Kind{
			messages.BreakerOpened, messages.SettingsChanged, messages.BreakerOrdered, messages.BreakerOrderEnded,
		}, heard)

		done := make(chan struct{})
		go func() {
			defer close(done)
			for e := range sub.C() {
				if e.Kind == messages.BreakerHalfOpened {
					callBack()
					return
				}
			}
		}()
		time.Sleep(time.Second)
		_, _ = Do(t.Context(), p, nil, succeeds)
		<-done
		require.Less(t, time.Since(begin), 2*time.Second)
		require.NoError(t, errors.Join(faults...))
	})
}

// Events of many breakers' ups and downs come once each, in an order that is possible.
func TestTransitionsWereToldTwiceOrOutOfOrder(t *testing.T) {
	p := pipelineOf(t, policy.Breaker{Consecutive: 2, OpenFor: time.Millisecond, Probes: 2, Ramp: []float64{0.5}, RampStep: time.Millisecond})
	sub := p.sys.Events().Subscribe(1<<17, nil)
	var all sync.WaitGroup
	until := time.Now().Add(200 * time.Millisecond)
	for g := range 16 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 9))
			for time.Now().Before(until) {
				_, _ = Do0(context.Background(), p, nil, func() (int, error) {
					if random.IntN(3) == 0 {
						return 0, errBoom
					}
					return 1, nil
				})
				goruntime.Gosched()
			}
		})
	}
	all.Wait()
	require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.ForceClosed, Reason: "the end"}))
	require.Zero(t, sub.Dropped())
	at, trips, seen := "closed", uint64(0), 0
	for len(sub.C()) > 0 {
		e := <-sub.C()
		if e.Kind == messages.BreakerOrdered {
			break
		}
		seen++
		change := e.Data.(messages.BreakerChange)
		require.Equal(t, at, change.From, "each transition begins where the last ended")
		at = change.To
		require.NotEmpty(t, change.Cause)
		if e.Kind == messages.BreakerOpened {
			trips++
			require.Equal(t, trips, change.Trips)
			require.Positive(t, change.Bad)
		}
	}
	require.Greater(t, seen, 10)
}

func TestForcedOpenBreakerLeakedCallsAndNeverClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 3})
		require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "maintenance", TTL: time.Hour}))
		var leaked atomic.Int64
		for range 60 {
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					_, err := Do(context.Background(), p, nil, func(context.Context) (int, error) { return int(leaked.Add(1)), nil })
					require.ErrorIs(t, err, messages.ErrBreakerOpen)
				})
			}
			all.Wait()
			time.Sleep(time.Minute - time.Nanosecond)
		}
		require.Zero(t, leaked.Load())
		time.Sleep(60 * time.Nanosecond)
		_, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err, "its time is up")
		require.Equal(t, policy.Closed, state(p))

		_, _ = Do(t.Context(), p, nil, fails)
		require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "maintenance"}))
		time.Sleep(24 * time.Hour)
		_, err = Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrBreakerOpen, "no probe passes either")
		require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.Automatic, Reason: "over"}))
		for range 3 {
			_, err = Do(t.Context(), p, nil, succeeds)
			require.NoError(t, err)
		}
		require.Equal(t, policy.Closed, state(p))
	})
}

func TestHalfOpenPermitsLeaked(t *testing.T) {
	boom := func(any, error) policy.Class { panic("classifier") }
	leave := func(any, error) policy.Class { goruntime.Goexit(); return 0 }
	for name, row := range map[string]struct {
		fn       func(context.Context) (int, error)
		classify func(any, error) policy.Class
		cancel   bool
		layers   []policy.Config
	}{
		"success":                {fn: succeeds},
		"error":                  {fn: fails},
		"panic":                  {fn: func(context.Context) (int, error) { panic("x") }},
		"Goexit":                 {fn: func(context.Context) (int, error) { goruntime.Goexit(); return 0, nil }},
		"canceled":               {fn: func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }, cancel: true},
		"hopeless input":         {fn: ctxFails(messages.Discard(errBoom))},
		"refused inside":         {fn: succeeds, layers: []policy.Config{policy.Breaker{}}},
		"classifier panics":      {fn: succeeds, classify: boom},
		"classifier leaves":      {fn: succeeds, classify: leave},
		"classifier of an error": {fn: fails, classify: boom},
		"ignored":                {fn: fails, classify: func(any, error) policy.Class { return policy.Ignored }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 2, Dwell: time.Hour}
				p := pipelineOf(t, append([]policy.Config{cfg}, row.layers...)...)
				_, _ = Do(t.Context(), p, nil, fails)
				b := layerOf[*breaker](p)
				if len(row.layers) > 0 {
					require.NoError(t, p.Order("breaker-2", policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "test"}))
				}
				time.Sleep(time.Second)
				for range 4 {
					cfg.Classify = row.classify
					require.NoError(t, p.Configure("breaker", cfg))
					var both sync.WaitGroup
					ctx, cancel := context.WithCancel(t.Context())
					for range 2 {
						both.Go(func() { _, _ = Do(ctx, p, nil, row.fn) })
						both.Go(func() {
							permit, err := Acquire(ctx, p, nil)
							if err == nil {
								time.Sleep(time.Millisecond)
								permit.Done(errBoom)
							}
						})
					}
					synctest.Wait()
					if row.cancel {
						cancel()
					}
					both.Wait()
					cancel()
					require.Zero(t, b.probes.Load())
					require.Zero(t, p.inFlight())
					time.Sleep(time.Second)
				}
			})
		})
	}
}

// A probe that never returns is written off after the dwell, not after the time the breaker was open.
func TestProbeThatNeverReturnsIsWrittenOffAfterTheDwell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Minute, Probes: 1, Dwell: 2 * time.Second})
		events := p.sys.Events().Subscribe(8, nil)
		_, _ = Do(t.Context(), p, nil, fails)
		time.Sleep(time.Minute)
		release := make(chan struct{})
		hung := Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil })
		time.Sleep(2*time.Second - time.Nanosecond)
		synctest.Wait()
		require.Equal(t, policy.HalfOpen, state(p))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, policy.Open, state(p))
		require.Len(t, events.C(), 3)
		<-events.C()
		<-events.C()
		require.Equal(t, "probe_hung", (<-events.C()).Data.(messages.BreakerChange).Cause)
		time.Sleep(time.Minute)
		_, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
		close(release)
		_, _ = hung.Await(t.Context())
		require.Equal(t, policy.Closed, state(p))
		require.Zero(t, layerOf[*breaker](p).probes.Load())
	})
}

// Slow calls and the window of calls, from 64 goroutines: never a false trip.
func TestSlowCallsOnTheirWayTrippedTheBreaker(t *testing.T) {
	calls := 20_000
	if testing.Short() {
		calls /= 10
	}
	for name, cfg := range map[string]policy.Breaker{
		"time":  {MinCalls: 100, FailureRate: 0.2, SlowCall: time.Second, SlowRate: 0.2, Window: time.Hour, Consecutive: 20},
		"calls": {MinCalls: 1000, FailureRate: 0.2, SlowCall: time.Second, SlowRate: 0.2, Calls: 1000, Consecutive: 20},
	} {
		t.Run(name, func(t *testing.T) {
			p := pipelineOf(t, cfg)
			b := layerOf[*breaker](p)
			for range 200 { // a thousand calls would otherwise begin with a few
				_, _ = Do(t.Context(), p, nil, succeeds)
			}
			pool := poolOf[int](p)
			var all sync.WaitGroup
			for g := range 64 {
				all.Go(func() {
					random := rand.New(rand.NewPCG(uint64(g), 5))
					for range calls / 64 * 4 {
						r := pool.Get().(*record[int])
						r.caller, r.now = context.Background(), p.sys.now()
						at := r.now
						v, _ := b.enter(&r.call)
						if v == nil {
							t.Error("refused by a breaker that should never have opened")
							return
						}
						r.verdict = succeeded
						var err error
						if x := random.Uint32() % 100; x < 2 {
							at -= int64(time.Second) // it was slow
						} else if x < 4 {
							r.verdict, err = failed, errBoom
						}
						b.report(&r.call, v, at, err)
						pool.Put(r)
					}
				})
			}
			all.Wait()
			require.Zero(t, b.view.Load().Trips)
		})
	}
}

// crashingBreaker is a pipeline with a breaker whose core panics on as many facts as it is told to.
func crashingBreaker(t *testing.T, restarts RestartPolicy, cfg policy.Breaker) (p *Pipeline, b *breaker, crash *atomic.Int64) {
	t.Helper()
	sys, err := NewSystem(Options{Restarts: restarts, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sys.Close(context.Background())) })
	crash = new(atomic.Int64)
	p = &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
	require.NoError(t, p.build(Spec{Layers: []policy.Config{cfg}, Intake: 1}))
	b = layerOf[*breaker](p)
	b.revive = func(cfg policy.Breaker, last *policy.BreakerSnapshot) breakerCore {
		return crasher{policy.NewBreaker(cfg, last), crash}
	}
	require.NoError(t, sys.within(b.start))
	return p, b, crash
}

// Successes that the tick at the end of their bucket tells expire with a failure of the same instant.
func TestSuccessesOutlivedTheWindow(t *testing.T) {
	for name, last := range map[string]func(context.Context) (int, error){"told by the tick": succeeds, "told by a failure": fails} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Breaker{MinCalls: 10, FailureRate: 0.5, Window: 10 * time.Second})
				do := func(at time.Duration, n int, fn func(context.Context) (int, error)) {
					time.Sleep(at - time.Duration(p.sys.now()))
					for range n {
						_, _ = Do(t.Context(), p, nil, fn)
					}
				}
				do(20*time.Second+100*time.Millisecond, 1, succeeds) // awake
				do(20*time.Second+500*time.Millisecond, 99, succeeds)
				do(20*time.Second+500*time.Millisecond, 1, last)
				do(30*time.Second+900*time.Millisecond, 9, fails)
				require.Equal(t, policy.Closed, state(p))
				do(30*time.Second+900*time.Millisecond, 1, fails)
				require.Equal(t, policy.Open, state(p), "the successes are 10.4 s old, in a window of 10 s")
			})
		})
	}
}

// The actor is restarted after probes hung, while another one runs: that one is not written off with them.
func TestRestartAfterAHungProbeForgotTheProbesThatRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, b, crash := crashingBreaker(t, RestartPolicy{Initial: time.Second}, policy.Breaker{Consecutive: 1, OpenFor: 10 * time.Second, Probes: 1, Dwell: time.Second})
		release := make(chan struct{})
		var inside atomic.Int64
		var all sync.WaitGroup
		probe := func() {
			all.Go(func() {
				_, _ = Do(context.Background(), p, nil, func(context.Context) (int, error) { inside.Add(1); <-release; return 1, nil })
			})
			synctest.Wait()
		}
		_, _ = Do(t.Context(), p, nil, fails)
		time.Sleep(10 * time.Second)
		probe()
		time.Sleep(2 * time.Second)
		require.True(t, b.view.Load().Hung)
		time.Sleep(10 * time.Second)
		crash.Store(1)
		probe() // its tick makes the core panic; it probes all the same
		require.EqualValues(t, 1, b.probes.Load())
		time.Sleep(3 * time.Second)
		require.Equal(t, hostUp, b.host.status.Load(), "restarted")
		probe()
		n := inside.Load()
		close(release)
		all.Wait()
		require.EqualValues(t, 2, n, "the one that was written off, and one more")
		require.Zero(t, b.probes.Load())
	})
}

// A breaker whose actor is quarantined while half-open lets others in when its probes do not end, as the actor would have.
func TestQuarantinedHalfOpenBreakerWasShutForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, b, crash := crashingBreaker(t, RestartPolicy{Budget: 0.5}, policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1, Dwell: time.Minute})
		_, _ = Do(t.Context(), p, nil, fails)
		time.Sleep(time.Second)
		release := make(chan struct{})
		var all sync.WaitGroup
		var inside atomic.Int64
		hang := func(context.Context) (int, error) { inside.Add(1); <-release; return 1, nil }
		all.Go(func() { _, _ = Do(context.Background(), p, nil, hang) })
		synctest.Wait()
		crash.Store(1)
		b.host.Tell(b.fact(policy.Ticked, b.view.Load(), p.sys.now()))
		require.Equal(t, hostGone, b.host.status.Load())
		require.Equal(t, policy.HalfOpen, state(p))
		_, err := Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrBreakerOpen, "within the dwell")
		for round := range int64(3) {
			time.Sleep(time.Minute)
			for range 8 {
				all.Go(func() { _, _ = Do(context.Background(), p, nil, hang) })
			}
			synctest.Wait()
			require.Equal(t, round+2, inside.Load(), "one at a time")
			require.EqualValues(t, 1, b.probes.Load())
		}
		close(release)
		all.Wait()
		require.Zero(t, b.probes.Load(), "permits come back")
	})
}

func TestFilterThatLeavesKeptTheProbesPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 2, Dwell: time.Hour})
		_, _ = Do(t.Context(), p, nil, fails)
		time.Sleep(time.Second)
		p.sys.Events().Subscribe(8, func(e messages.Event) bool {
			if e.Kind == messages.BreakerOpened {
				goruntime.Goexit()
			}
			return true
		})
		var all sync.WaitGroup
		all.Go(func() { _, _ = Do(context.Background(), p, nil, fails) })
		all.Wait()
		require.Equal(t, policy.Open, state(p))
		require.Zero(t, layerOf[*breaker](p).probes.Load(), "permits come back")
	})
}

// What an attempt before it returned is not the value of one that panicked.
func TestClassifierWasGivenAValueAfterASuppressedPanic(t *testing.T) {
	var got any = "not asked"
	n := 0
	p := pipelineOf(t, policy.Breaker{Classify: func(v any, _ error) policy.Class { got = v; return policy.Failure }},
		policy.Retry{Attempts: 3, Backoff: policy.Constant(0), Budget: policy.RetryBudget{Ratio: 0.001, MinPerSecond: 0.1}})
	_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) {
		if n++; n == 1 {
			return 42, errBoom
		}
		panic("x")
	})
	require.Equal(t, 2, n)
	require.ErrorIs(t, err, messages.ErrRetryBudget)
	require.Nil(t, got)
}
