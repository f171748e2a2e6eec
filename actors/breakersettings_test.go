package actors

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// byStatus is a classifier of answers that are no errors to Go.
func byStatus(value any, err error) policy.Class {
	status, ok := value.(int)
	switch {
	case err != nil && !ok || status >= 500:
		return policy.Failure
	case status == http.StatusNotFound || err != nil:
		return policy.Ignored
	}
	return policy.Success
}

func TestSuccessClassifiedAsFailureTripsTheBreaker(t *testing.T) {
	answers := func(status int) func(context.Context) (int, error) {
		return func(context.Context) (int, error) { return status, nil }
	}
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 2, OpenFor: time.Second, Probes: 1, Classify: byStatus})
		for range 2 {
			require.Equal(t, policy.Closed, state(p))
			v, err := Do(t.Context(), p, nil, answers(http.StatusServiceUnavailable))
			require.NoError(t, err, "to the caller it is what it is")
			require.Equal(t, http.StatusServiceUnavailable, v)
			if state(p) == policy.Closed {
				_, _ = Do(t.Context(), p, nil, answers(http.StatusNotFound)) // ignored: it ends no run
			}
		}
		refused(t, p, "open", time.Second)
		time.Sleep(time.Second)
		_, _ = Do(t.Context(), p, nil, answers(http.StatusNotFound))
		require.Equal(t, policy.HalfOpen, state(p), "an ignored probe decides nothing")
		_, _ = Do(t.Context(), p, nil, answers(http.StatusBadGateway))
		require.Equal(t, policy.Open, state(p))
		time.Sleep(time.Second)
		_, _ = Do(t.Context(), p, nil, answers(http.StatusOK))
		require.Equal(t, policy.Closed, state(p))
		require.Zero(t, layerOf[*breaker](p).probes.Load())
	})
}

// What the classifier is asked, and what it is not: refusals by inner policies, and callers that left.
func TestClassifierIsGivenWhatTheFunctionReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type asked struct {
			value any
			err   error
		}
		var last *asked
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, Classify: func(v any, err error) policy.Class { last = &asked{v, err}; return policy.Success }},
			policy.Breaker{}, policy.AttemptTimeout{Limit: time.Second})
		do := func(fn func(context.Context) (int, error)) *asked {
			last = nil
			_, _ = Do(t.Context(), p, nil, fn)
			return last
		}
		require.Equal(t, &asked{7, nil}, do(succeeds))
		require.Equal(t, &asked{9, errBoom}, do(func(context.Context) (int, error) { return 9, errBoom }))
		require.Nil(t, do(func(context.Context) (int, error) { panic("x") }).value)
		late := do(func(ctx context.Context) (int, error) { <-ctx.Done(); return 5, nil })
		require.Nil(t, late.value)
		require.ErrorIs(t, late.err, messages.ErrTimeout)
		require.NotNil(t, do(ctxFails(messages.Discard(errBoom))), "it overrides today's rule")
		require.Equal(t, policy.Closed, state(p), "and failures too")
		require.NoError(t, p.Order("breaker-2", policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "test"}))
		require.Nil(t, do(succeeds))
		require.NoError(t, p.Order("breaker-2", policy.BreakerOrder{Kind: policy.Automatic, Reason: "test"}))
		ctx, cancel := context.WithCancel(t.Context())
		last = nil
		_, err := Do(ctx, p, nil, func(context.Context) (int, error) { cancel(); return 3, nil })
		require.NoError(t, err)
		require.NotNil(t, last, "a value is a value")
		last = nil
		_, err = Do(ctx, p, nil, func(context.Context) (int, error) { return 0, errors.New("gone") })
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, last)
	})
}

// A classifier that panics fails its call, as every user's function does, and holds nothing back.
func TestClassifierThatPanicsFailsItsCall(t *testing.T) {
	p := pipelineOf(t, policy.Bulkhead{Permits: 2}, policy.Breaker{Consecutive: 1, Classify: func(any, error) policy.Class { panic("why") }})
	r := Try(t.Context(), p, nil, succeeds)
	require.Equal(t, messages.Failure, r.Outcome)
	require.ErrorAs(t, r.Err, new(*messages.PanicError))
	permit, err := Acquire(t.Context(), p, nil)
	require.NoError(t, err)
	permit.Done(nil)
	require.EqualValues(t, 2, layerOf[*bulkhead](p).count())
	require.Zero(t, p.inFlight())
}

func TestSlowCallsTripTheBreaker(t *testing.T) {
	takes := func(d time.Duration, err error) func(context.Context) (int, error) {
		return func(context.Context) (int, error) { time.Sleep(d); return 1, err }
	}
	for name, err := range map[string]error{"successes": nil, "failures": errBoom} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Breaker{FailureRate: 1, MinCalls: 4, Calls: 4, SlowCall: time.Second, SlowRate: 0.5, OpenFor: time.Second, Probes: 1, Dwell: time.Minute})
				do := func(d time.Duration, err error) { _, _ = Do(t.Context(), p, nil, takes(d, err)) }
				do(time.Second, err)
				for range 3 {
					do(time.Second-1, nil)
				}
				require.Equal(t, policy.Closed, state(p))
				do(time.Second, nil) // pushes the first out
				require.Equal(t, policy.Closed, state(p), "one of four")
				do(time.Second, err) // the boundary is inclusive
				require.Equal(t, policy.Open, state(p))
				require.Equal(t, policy.CauseSlowRate, layerOf[*breaker](p).view.Load().Cause)
				time.Sleep(time.Second)
				do(time.Second, nil)
				require.Equal(t, policy.Open, state(p), "a slow probe is a failed one")
				require.Equal(t, policy.CauseProbeSlow, layerOf[*breaker](p).view.Load().Cause)
				time.Sleep(time.Second)
				do(0, nil)
				require.Equal(t, policy.Closed, state(p))
			})
		})
	}
}

// Without a slow call or a failure a window of calls asks the actor nothing, and needs no ticks.
func TestWindowOfCallsNeedsNoTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Calls: 10})
		b := layerOf[*breaker](p)
		told := 0
		counted := b.host.after
		b.host.after = func() { told++; counted() }
		for range 100 {
			passes(t, p)
			time.Sleep(time.Minute)
		}
		require.Zero(t, told)
		_, _ = Do(t.Context(), p, nil, fails)
		require.Equal(t, 1, told)
	})
}

func TestRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{MinCalls: 20, OpenFor: time.Second, Probes: 1, Ramp: []float64{0.1, 0.5}, RampStep: 10 * time.Second})
		half := func() {
			for state(p) == policy.Closed {
				_, _ = Do(t.Context(), p, nil, fails)
			}
			time.Sleep(layerOf[*breaker](p).view.Load().OpenDelay)
			passes(t, p)
			require.Equal(t, policy.Ramping, state(p))
		}
		admitted := func(n int, fn func(context.Context) (int, error)) (ran int) {
			for range n {
				_, _ = Do(t.Context(), p, nil, func(ctx context.Context) (int, error) { ran++; return fn(ctx) })
			}
			return ran
		}
		half()
		n, _, _ := p.Room("")
		require.Equal(t, 256, n)
		require.Equal(t, 1, admitted(1, succeeds), "the first passes")
		refused(t, p, "ramping", 10*time.Second)
		require.Equal(t, 10, admitted(98, succeeds)+1)
		time.Sleep(10 * time.Second)
		require.InDelta(t, 50, admitted(100, succeeds), 1)
		time.Sleep(10 * time.Second)
		require.Equal(t, 100, admitted(100, succeeds))
		require.Equal(t, policy.Closed, state(p))

		half()
		require.Equal(t, 19, admitted(181, fails), "too few to judge")
		require.Equal(t, policy.Ramping, state(p))
		require.Equal(t, 1, admitted(100, fails), "it trips as when closed")
		require.Equal(t, policy.Open, state(p))
	})
}

// Of any so many calls in a row the share that passes is exact to one call.
func TestRampSharesAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		share := rapid.Float64Range(0.001, 0.999).Draw(t, "share")
		v := &breakerView{epochWords: new(epochWords), share: parts(share)}
		v.ramp.Store(rapid.Uint64().Draw(t, "so far"))
		passed := []int{0}
		for i := range 150 {
			n := passed[i]
			if v.passes() {
				n++
			}
			passed = append(passed, n)
		}
		for from := range passed {
			for to := from; to < len(passed); to++ {
				if off := float64(passed[to]-passed[from]) - float64(to-from)*share; math.Abs(off) > 1 {
					t.Fatalf("calls %d to %d: off by %v", from, to, off)
				}
			}
		}
	})
}

// The share holds for many callers at once, too.
func TestRampIsExactUnderLoad(t *testing.T) {
	p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Nanosecond, Probes: 1, Ramp: []float64{0.3}, RampStep: time.Hour})
	_, _ = Do(t.Context(), p, nil, fails)
	passes(t, p)
	require.Equal(t, policy.Ramping, state(p))
	var ran atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 500 {
				_, _ = Do0(context.Background(), p, nil, func() (int64, error) { return ran.Add(1), nil })
			}
		})
	}
	all.Wait()
	require.InDelta(t, 0.3*16*500, ran.Load(), 1)
}

func TestOpenDelayGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Second, OpenMax: 5 * time.Second, Probes: 1})
		_, _ = Do(t.Context(), p, nil, fails)
		for _, want := range []time.Duration{1, 2, 4, 5, 5} {
			refused(t, p, "open", want*time.Second)
			time.Sleep(want * time.Second)
			_, _ = Do(t.Context(), p, nil, fails)
		}
		time.Sleep(5 * time.Second)
		passes(t, p)
		time.Sleep(5*time.Second + 1)
		_, _ = Do(t.Context(), p, nil, fails)
		refused(t, p, "open", time.Second)
	})
}

// Breakers that are jittered differ, a seed of one's own is kept, and one that was drawn stays over new settings.
func TestSeedIsDrawnOnce(t *testing.T) {
	sys := newSystem(t)
	seeds := map[uint64]bool{}
	for i := range 5 {
		cfg := policy.Breaker{OpenJitter: 0.5}
		p, err := sys.Pipeline("p"+strconv.Itoa(i), Spec{Layers: []policy.Config{cfg}})
		require.NoError(t, err)
		b := layerOf[*breaker](p)
		seed := b.view.Load().Settings.Seed
		require.NotZero(t, seed)
		seeds[seed] = true
		require.NoError(t, p.Configure("breaker", cfg))
		require.Equal(t, seed, b.view.Load().Settings.Seed)
		cfg.Seed = 4
		require.NoError(t, p.Configure("breaker", cfg))
		require.EqualValues(t, 4, b.view.Load().Settings.Seed)
	}
	require.Len(t, seeds, 5)
}
