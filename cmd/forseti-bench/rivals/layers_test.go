//go:build linux

package rivals

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/fallback"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// Five layers, outermost first: fallback, timeout, retry, breaker, bulkhead.

// forsetiLayers has two guards and a hook as well, which the rivals do without.
func forsetiLayers(tb testing.TB) runtime.Pipeline {
	allow := actors.GuardFunc("allow", func(*messages.Context) messages.GuardResult { return messages.Allow() })
	var told int
	return pipelineOf(tb, runtime.Spec{
		Guards: []actors.Guard{actors.KillSwitch(), allow},
		Hooks:  []actors.Hook{{OnSuccess: func(actors.Moment) { told++ }}},
		Layers: []policy.Config{
			policy.FallbackValue(7),
			policy.Timeout{Limit: time.Hour},
			policy.Retry{Attempts: 4},
			policy.Breaker{OpenFor: time.Hour},
			policy.Bulkhead{Permits: permits},
		},
	})
}

func failsafeLayers() failsafe.Executor[int] {
	return failsafe.With[int](
		fallback.NewWithResult(7), timeout.New[int](time.Hour), retrypolicy.NewBuilder[int]().WithMaxAttempts(4).Build(),
		failsafeBreaker(20), bulkhead.New[int](permits),
	)
}

// handRolled is what a careful engineer makes of the parts that are there: the context's deadline, a loop, gobreaker, and
// the semaphore of x/sync. The fallback is an if.
type handRolled struct {
	breaker *gobreaker.TwoStepCircuitBreaker[int]
	permits *semaphore.Weighted
}

var errFull = errors.New("full")

func newHandRolled() *handRolled {
	return &handRolled{gobreaker.NewTwoStepCircuitBreaker[int](gobreakerSettings(20)), semaphore.NewWeighted(permits)}
}

func (h *handRolled) do(ctx context.Context, fn func(context.Context) (int, error)) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	for range 4 {
		v, err := h.attempt(ctx, fn)
		if err == nil {
			return v, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return 7, nil
}

func (h *handRolled) attempt(ctx context.Context, fn func(context.Context) (int, error)) (v int, err error) {
	done, err := h.breaker.Allow()
	if err != nil {
		return 0, err
	}
	defer func() { done(err) }()
	if !h.permits.TryAcquire(1) {
		return 0, errFull
	}
	defer h.permits.Release(1)
	return fn(ctx)
}

// BenchmarkFiveLayers is a call that succeeds, of a function that takes no context.
func BenchmarkFiveLayers(b *testing.B) {
	roaming(
		b,
		entrant{"forseti Do0", func(tb testing.TB) op {
			p := forsetiLayers(tb)
			return func() bool { return one(runtime.Do0(background, p, noop)) }
		}},
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafeLayers()
			return func() bool { return one(ex.Get(noop)) }
		}},
		entrant{"hand-rolled", func(testing.TB) op { // noopContext does not look at its context, but one is made: the limit is kept by it
			h := newHandRolled()
			return func() bool { return one(h.do(background, noopContext)) }
		}},
	)
}

// layersWith is the contest for functions that take a context, which comes with each call.
func layersWith(b *testing.B, fn func(context.Context) (int, error)) {
	roaming(
		b,
		entrant{"forseti Do", func(tb testing.TB) op {
			p := forsetiLayers(tb)
			return func() bool { return one(runtime.Do(background, p, fn)) }
		}},
		entrant{"failsafe-go GetWithExecution", func(testing.TB) op {
			ex := failsafeLayers()
			run := func(e failsafe.Execution[int]) (int, error) { return fn(e.Context()) }
			return func() bool { return one(ex.WithContext(background).GetWithExecution(run)) }
		}},
		entrant{"hand-rolled", func(testing.TB) op {
			h := newHandRolled()
			return func() bool { return one(h.do(background, fn)) }
		}},
	)
}

// BenchmarkFiveLayersContext is a function that takes a context and does not look at it.
func BenchmarkFiveLayersContext(b *testing.B) { layersWith(b, noopContext) }

// BenchmarkFiveLayersDone is a function that asks its context for Done.
func BenchmarkFiveLayersDone(b *testing.B) { layersWith(b, usesDone) }

// BenchmarkFiveLayersAsync is a call on another goroutine, whose result is awaited.
func BenchmarkFiveLayersAsync(b *testing.B) {
	roaming(
		b,
		entrant{"forseti Go", func(tb testing.TB) op {
			p := forsetiLayers(tb)
			return func() bool { return one(runtime.Go(background, p, noopContext).Await(background)) }
		}},
		entrant{"failsafe-go GetAsync", func(testing.TB) op {
			ex := failsafeLayers()
			run := func(e failsafe.Execution[int]) (int, error) { return noopContext(e.Context()) }
			return func() bool { return one(ex.WithContext(background).GetAsyncWithExecution(run).Get()) }
		}},
		entrant{"hand-rolled", func(testing.TB) op {
			h := newHandRolled()
			return func() bool { return one(h.async().await(background)) }
		}},
	)
}

type answer struct {
	v   int
	err error
}

type answers chan answer

func (a answers) await(ctx context.Context) (int, error) {
	select {
	case r := <-a:
		return r.v, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (h *handRolled) async() answers {
	a := make(answers, 1)
	go func() {
		v, err := h.do(background, noopContext)
		a <- answer{v, err}
	}()
	return a
}

// inFlight is how many asynchronous calls BenchmarkInFlight makes before it awaits the first.
const inFlight = 64

// BenchmarkInFlight is 64 asynchronous calls behind one bulkhead, all made before the first is awaited: its figures are of
// all 64.
func BenchmarkInFlight(b *testing.B) {
	alone(
		b,
		entrant{"forseti Go", func(tb testing.TB) op {
			p := pipeline(tb, policy.Bulkhead{Permits: inFlight})
			calls := make([]runtime.Future[int], inFlight)
			return func() bool {
				for i := range calls {
					calls[i] = runtime.Go(background, p, noopContext)
				}
				all := true
				for _, call := range calls {
					all = one(call.Await(background)) && all
				}
				return all
			}
		}},
		entrant{"failsafe-go GetAsync", func(testing.TB) op {
			ex := failsafe.With[int](bulkhead.New[int](inFlight))
			run := func(e failsafe.Execution[int]) (int, error) { return noopContext(e.Context()) }
			calls := make([]failsafe.ExecutionResult[int], inFlight)
			return func() bool {
				for i := range calls {
					calls[i] = ex.WithContext(background).GetAsyncWithExecution(run)
				}
				all := true
				for _, call := range calls {
					all = one(call.Get()) && all
				}
				return all
			}
		}},
		entrant{"hand-rolled", func(testing.TB) op { // a goroutine per call, a semaphore, one channel for all answers
			s := semaphore.NewWeighted(inFlight)
			got := make(answers, inFlight)
			return func() bool {
				for range inFlight {
					if !s.TryAcquire(1) {
						return false
					}
					go func() {
						v, err := noopContext(background)
						s.Release(1)
						got <- answer{v, err}
					}()
				}
				all := true
				for range inFlight {
					all = one(got.await(background)) && all
				}
				return all
			}
		}},
	)
}
