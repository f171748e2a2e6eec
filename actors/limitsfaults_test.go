package actors

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
)

// After a short gap in the traffic the probability was not worked out any more until the window moved on.
func TestThrottleStoppedJudgingAfterAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Throttle{Window: 1000 * time.Second})
		l := layerOf[*throttle](p)
		i := 0
		l.draw = func() float64 { i++; return float64(i%20) / 20 } // one in twenty passes
		for range 400 {
			time.Sleep(10 * ms)
			_, _ = Do(t.Context(), p, nil, fails)
		}
		require.InDelta(t, 0.95, l.view.Load().Reject, 0.001)
		time.Sleep(300 * ms)
		require.True(t, l.view.Load().asleep.Load())
		l.draw = func() float64 { return 0.9999 } // all pass
		for range 5000 {
			time.Sleep(10 * ms)
			_, _ = Do(t.Context(), p, nil, succeeds)
		}
		require.Zero(t, l.view.Load().Reject, "%+v", l.view.Load().traffic())
		time.Sleep(time.Hour)
	})
}

// The probability that a quarantined throttle died with stayed in force.
func TestQuarantinedThrottleRefusedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{Restarts: RestartPolicy{Initial: ms, Budget: 0.5}, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer func() { require.NoError(t, sys.Close(context.Background())) }()
		p := &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
		require.NoError(t, p.build(Spec{Layers: []policy.Config{policy.Throttle{}}, Intake: 1}))
		l, crash := layerOf[*throttle](p), new(atomic.Int64)
		l.revive = func(cfg policy.Throttle, last *policy.ThrottleSnapshot) throttleCore {
			return throttleCrasher{policy.NewThrottle(cfg, last), crash}
		}
		require.NoError(t, sys.within(l.start))
		l.draw = func() float64 { return 0.99 }
		for range 40 {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		crash.Store(1)
		_, _ = Do(t.Context(), p, nil, fails)
		time.Sleep(time.Second)
		require.Equal(t, hostGone, l.host.status.Load())
		require.Positive(t, l.view.Load().Reject)
		l.draw = func() float64 { return 0 }
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
	})
}

// The end of a call that hung made place among the young ones.
func TestThrottleTellsLateEndsFromPromptOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Throttle{Window: 100 * time.Second})
		l := layerOf[*throttle](p)
		for _, takes := range []time.Duration{9 * time.Second, 10 * time.Second} {
			_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(takes); return 1, errBoom })
			require.ErrorIs(t, err, errBoom)
		}
		require.Equal(t, policy.Traffic{Admitted: 2, Failed: 2, Late: 1}, l.view.Load().traffic())
		time.Sleep(time.Hour)
	})
}

// Timeouts that a fallback inside answered were no overload.
func TestFallbackHidOverloadFromTheAdaptiveLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Initial: 20}, policy.FallbackValue(9), policy.AttemptTimeout{Limit: 100 * ms})
		for range 30 {
			_, err := Do(t.Context(), p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
			require.NoError(t, err)
		}
		_, drops := samplesOf(p)
		require.EqualValues(t, 30, drops)
	})
}

type countingThrottle struct {
	*policy.ThrottleCore
	facts *atomic.Int64
}

func (c countingThrottle) Apply(f policy.ThrottleFact) bool {
	c.facts.Add(1)
	return c.ThrottleCore.Apply(f)
}

type countingAdaptive struct {
	*policy.AdaptiveCore
	facts *atomic.Int64
}

func (c countingAdaptive) Apply(f policy.AdaptiveFact) bool {
	c.facts.Add(1)
	return c.AdaptiveCore.Apply(f)
}

// A host that took every ticking core for an idle one had each success told to it.
func TestEverySuccessWasToldToTheActor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		var facts atomic.Int64
		run := func(cfg policy.Config, start func(*Pipeline) func(actor.SpawnerContext) error) {
			p := &Pipeline{sys: newSystem(t), name: "p"}
			require.NoError(t, p.build(Spec{Layers: []policy.Config{cfg}, Intake: 1}))
			require.NoError(t, p.sys.within(start(p)))
			facts.Store(0)
			for range 10_000 {
				_, err := Do0(t.Context(), p, nil, noop)
				require.NoError(t, err)
			}
			require.Less(t, facts.Load(), int64(10))
		}
		run(policy.Throttle{}, func(p *Pipeline) func(actor.SpawnerContext) error {
			l := layerOf[*throttle](p)
			l.revive = func(cfg policy.Throttle, last *policy.ThrottleSnapshot) throttleCore {
				return countingThrottle{policy.NewThrottle(cfg, last), &facts}
			}
			return l.start
		})
		run(policy.Adaptive{}, func(p *Pipeline) func(actor.SpawnerContext) error {
			l := layerOf[*adaptive](p)
			l.revive = func(cfg policy.Adaptive, last *policy.AdaptiveSnapshot) adaptiveCore {
				return countingAdaptive{policy.NewAdaptive(cfg, last), &facts}
			}
			return l.start
		})
	})
}

// A waiter that was waiting when the limit was told to only observe was passed by all who came later.
func TestObservingLeftAdaptiveWaitersBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Initial: 1, Max: 1, Queue: 5})
		release := make(chan struct{})
		hang := func(context.Context) (int, error) { <-release; return 1, nil }
		var began atomic.Int64
		first := Go(t.Context(), p, nil, hang)
		synctest.Wait()
		var held []Future[int]
		for range 3 {
			held = append(held, Go(t.Context(), p, nil, func(ctx context.Context) (int, error) { began.Add(1); return hang(ctx) }))
		}
		synctest.Wait()
		require.Zero(t, began.Load())
		require.NoError(t, p.Observe("", true))
		synctest.Wait()
		require.EqualValues(t, 3, began.Load())
		close(release)
		for _, f := range append(held, first) {
			_, err := f.Await(t.Context())
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, layerOf[*adaptive](p).count(), "all permits are back")
	})
}

// A permit came back just before the limit shrank, and was taken by a newcomer, or by one who waits, while more ran than
// the limit allows.
func TestShrinkingRacedWithARelease(t *testing.T) {
	between := func() *permits { // two were taken, one came back, and nobody looked at the debt
		p := &permits{}
		p.free[3].Store(1)
		p.owed.owe(1)
		return p
	}
	p := between()
	require.False(t, p.try(0))
	require.Zero(t, p.count())
	require.Zero(t, p.owed.Load())
	p = between()
	p.queue = []*waiter{{make(chan struct{})}}
	p.owed.await(1)
	p.serve(0)
	require.Len(t, p.queue, 1)
	p.release(0)
	require.Empty(t, p.queue)
	p = between()
	require.ErrorIs(t, p.wait(t.Context(), 0, 1, time.Nanosecond), errWaited)
}

// Copies of hedged calls that have their token were taken for calls that still need one.
func TestRoomKeptTokensForHedgedCallsThatHaveTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Delay: time.Hour, Idempotent: true}, policy.Hedge{Delay: 5 * time.Second, Idempotent: true}, policy.RateLimit{Limit: 20})
		release := make(chan struct{})
		var held []Future[int]
		for range 10 {
			held = append(held, Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil }))
		}
		time.Sleep(10 * time.Second)
		n, _, _ := p.Room("")
		require.Equal(t, 20, n)
		require.EqualValues(t, 10, layerOf[*rateLimit](p).inside.Load(), "one for each slot, however many copies")
		close(release)
		for _, f := range held {
			_, _ = f.Await(t.Context())
		}
		synctest.Wait()
		require.Zero(t, layerOf[*rateLimit](p).inside.Load())
	})
}

// A copy of a call without a context, whose race is over, waited on for a token, and spent it.
func TestLostBareCopySpentAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Delay: 10 * ms, Idempotent: true}, policy.RateLimit{Limit: 1, Burst: 1, Queue: 5})
		_, err := Do0(t.Context(), p, nil, func() (int, error) { time.Sleep(50 * ms); return 1, nil })
		require.NoError(t, err)
		synctest.Wait()
		l := layerOf[*rateLimit](p)
		require.Zero(t, l.queued.Load(), "nobody waits")
		time.Sleep(time.Second)
		v := l.view.Load()
		require.Equal(t, 1, v.bucket.Tokens(v.mark.Load(), policy.Instant(p.sys.now())))
	})
}

// A copy of a call without a context waited on for a permit, for an hour, when another had won.
func TestLostBareCopyKeptItsPlaceInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: time.Hour}, policy.Hedge{Delay: 10 * ms, Idempotent: true}, policy.Bulkhead{Permits: 1, Queue: 5})
		_, err := Do0(t.Context(), p, nil, func() (int, error) { time.Sleep(50 * ms); return 1, nil })
		require.NoError(t, err)
		time.Sleep(time.Second) // it may have had the permit before the race was over
		l := layerOf[*bulkhead](p)
		require.Zero(t, l.queued.Load())
		require.EqualValues(t, 1, l.count())
	})
}

// Healthy calls that take about a step of the window were refused when the multiplier is small.
func TestThrottleRefusedAHealthyDownstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Throttle{K: 1.1, Window: time.Second})
		var refused atomic.Int32
		for range 500 {
			go func() {
				if _, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(90 * ms); return 1, nil }); err != nil {
					refused.Add(1)
				}
			}()
			time.Sleep(2 * ms)
		}
		time.Sleep(time.Minute)
		require.Zero(t, refused.Load())
	})
}

// A call that waited between two attempts when the limit was told to only observe was passed by all who came later.
func TestObservingLeftARetryBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(100 * ms)},
			policy.Adaptive{Initial: 1, Min: 1, Max: 1, Queue: 10})
		var first atomic.Bool
		done := make(chan time.Time, 1)
		begin := time.Now()
		go func() {
			_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) {
				if !first.Swap(true) {
					return 0, errBoom
				}
				return 1, nil
			})
			done <- time.Now()
		}()
		time.Sleep(20 * ms)
		require.NoError(t, p.Observe("adaptive", true))
		for range 2000 { // two at once, always
			go func() {
				_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(20 * ms); return 1, nil })
			}()
			time.Sleep(10 * ms)
		}
		at := <-done
		require.Less(t, at.Sub(begin), 2*time.Second, "observing, it made a call wait")
	})
}
