package actors

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// A claim outside of a hedge is kept until the work ends, not until a limit was met.
func TestHedgeLetTheClaimGoWhileItsWorkRan(t *testing.T) {
	for name, limit := range map[string]policy.Timeout{"cooperative": {Limit: 20 * ms}, "detached": {Limit: 20 * ms, Detached: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, limit, policy.Idempotency{}, policy.Hedge{Idempotent: true, Delay: time.Minute})
				var running, most atomic.Int32
				work := func(context.Context) (int, error) {
					if n := running.Add(1); n > most.Load() {
						most.Store(n)
					}
					defer running.Add(-1)
					time.Sleep(time.Second)
					return 1, nil
				}
				meta := &messages.Context{IdempotencyKey: "order-17"}
				for range 5 {
					_, _ = Do(t.Context(), p, meta, work)
					time.Sleep(ms)
				}
				time.Sleep(time.Minute)
				require.EqualValues(t, 1, most.Load(), "one holder of a key at a time")
			})
		})
	}
}

// Functions that outlive a limit are counted and capped beneath a hedge too.
func TestHedgeHidAbandonedFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: 20 * ms, Detached: true, MaxAbandoned: 2}, policy.Hedge{Idempotent: true, Delay: 5 * ms, MaxLosers: 2})
		var running, most atomic.Int32
		for range 50 {
			_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) {
				if n := running.Add(1); n > most.Load() {
					most.Store(n)
				}
				defer running.Add(-1)
				time.Sleep(time.Hour)
				return 1, nil
			})
		}
		_, abandoned := p.InFlight()
		require.Equal(t, 2, abandoned)
		time.Sleep(2 * time.Hour)
		require.LessOrEqual(t, most.Load(), int32(6))
	})
}

// An error that is accepted wins, and losers say nothing then either.
func TestHedgeLosersCountedWhenAnErrorWon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notFound := errors.New("not found")
		p := pipelineOf(t,
			policy.Hedge{Idempotent: true, Delay: 10 * ms, Accept: func(_ any, err error) bool { return err == nil || errors.Is(err, notFound) }},
			policy.Breaker{Consecutive: 1, OpenFor: time.Hour, Classify: func(_ any, err error) policy.Class {
				if err == nil || errors.Is(err, notFound) {
					return policy.Success
				}
				return policy.Failure
			}})
		var runs atomic.Int32
		_, err := Do(t.Context(), p, nil, func(ctx context.Context) (int, error) {
			if runs.Add(1) > 1 {
				return 0, notFound
			}
			<-ctx.Done()
			return 0, ctx.Err()
		})
		require.ErrorIs(t, err, notFound)
		quietHedge(t, p)
		require.Equal(t, policy.Closed, layerOf[*breaker](p).view.Load().State, "a loser says nothing about the downstream")
	})
}

// A loser that ends after a limit of its own has still lost.
func TestHedgeLoserPastItsLimitCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 10 * ms}, policy.Breaker{Consecutive: 1, OpenFor: time.Hour}, policy.AttemptTimeout{Limit: 50 * ms})
		var runs atomic.Int32
		_, err := Do0(t.Context(), p, nil, func() (int, error) {
			if runs.Add(1) == 1 {
				time.Sleep(100 * ms)
			}
			return 1, nil
		})
		require.NoError(t, err)
		time.Sleep(time.Second)
		quietHedge(t, p)
		require.Equal(t, policy.Closed, layerOf[*breaker](p).view.Load().State)
	})
}

// The layers inside a hedge that ran are told, also when a limit ends the call first.
func TestHedgeHidThePoliciesInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: 100 * ms}, policy.Hedge{Idempotent: true, Delay: 10 * ms}, policy.Breaker{}, policy.Bulkhead{})
		fn := &takes{times: []time.Duration{time.Second}, left: bodies(2), deaf: true}
		r := Go(t.Context(), p, nil, fn.call).Result(t.Context())
		require.Equal(t, 2, r.Attempts)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"timeout", "hedge", "breaker", "bulkhead"}, r.Policies())
	})
}

// The first failure is that of the first copy that failed.
func TestHedgeForgotTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: 100 * ms}, policy.Hedge{Idempotent: true, Delay: 10 * ms})
		begin := time.Now()
		fn := &takes{times: []time.Duration{15 * ms, time.Second}, errs: []error{errBoom}, left: bodies(2)}
		r := Go(t.Context(), p, nil, fn.call).Result(t.Context())
		require.Equal(t, messages.Timeout, r.Outcome)
		require.Equal(t, 15*ms, r.FirstFailure.Sub(begin))
	})
}

// A value that several copies return is closed under nobody's hands.
func TestHedgeClosedTheCallersValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 10 * ms})
		shared := &body{}
		var runs atomic.Int32
		v, err := Do(t.Context(), p, nil, func(ctx context.Context) (*body, error) {
			if runs.Add(1) == 1 {
				time.Sleep(30 * ms)
			}
			return shared, nil
		})
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Zero(t, v.closed.Load())
	})
}

// Who lost the outer race has lost.
func TestLoserOfAnOuterHedgeCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 10 * ms}, policy.Hedge{Idempotent: true, Delay: time.Hour}, policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
		var runs atomic.Int32
		_, err := Do(t.Context(), p, nil, func(ctx context.Context) (int, error) {
			if runs.Add(1) > 1 {
				return 0, nil
			}
			<-ctx.Done()
			return 0, ctx.Err()
		})
		require.NoError(t, err)
		quietHedge(t, p)
		require.Equal(t, policy.Closed, layerOf[*breaker](p).view.Load().State)
	})
}

// Nobody answers for a copy whose race is over.
func TestFallbackAnsweredForARaceThatWasOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		p := pipelineOf(t, policy.Timeout{Limit: 50 * ms}, policy.Hedge{Idempotent: true, Delay: 10 * ms}, policy.FallbackTo(func(context.Context, error) (int, error) { asked.Add(1); return 1, nil }))
		r := Try(t.Context(), p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); time.Sleep(ms); return 0, errBoom })
		require.Equal(t, messages.Timeout, r.Outcome)
		time.Sleep(time.Second)
		require.Zero(t, asked.Load())
	})
}

// A task has been left when its function returned, beneath a hedge too.
func TestHedgedTaskWasLeftBeforeItsFunctionReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: 20 * ms}, policy.Hedge{Idempotent: true, Delay: time.Minute})
		var ended atomic.Bool
		left := make(chan bool, 1)
		go RunTask(t.Context(), p, &messages.Task{Type: "x"}, func(context.Context) (any, error) {
			time.Sleep(time.Second)
			ended.Store(true)
			return nil, nil
		}, func(Result[any]) {}, func() { left <- ended.Load() })
		require.True(t, <-left, "left is told when the function has really returned")
	})
}

// What holds a permit outside of a hedge holds it until the work ends.
func TestHedgeGavePermitsBackWhileItsWorkRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: 20 * ms}, policy.Adaptive{Initial: 2, Max: 2, Min: 1}, policy.Hedge{Idempotent: true, Delay: time.Minute})
		var running, most atomic.Int32
		for range 20 {
			_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) {
				if n := running.Add(1); n > most.Load() {
					most.Store(n)
				}
				defer running.Add(-1)
				time.Sleep(time.Hour)
				return 1, nil
			})
		}
		time.Sleep(2 * time.Hour)
		require.LessOrEqual(t, most.Load(), int32(2))
	})
}

// A retry begins no attempt while the one before still runs.
func TestRetryOverlappedHungCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 5, Backoff: policy.Constant(0)}, policy.AttemptTimeout{Limit: 20 * ms}, policy.Hedge{Idempotent: true, Delay: time.Minute})
		var running, most atomic.Int32
		_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer running.Add(-1)
			time.Sleep(time.Hour)
			return 1, nil
		})
		time.Sleep(2 * time.Hour)
		require.LessOrEqual(t, most.Load(), int32(1))
	})
}

// A custom policy around a copy that lost passes that on.
func TestCustomPolicyMadeAFailureOfALoser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 10 * ms}, policy.Breaker{Consecutive: 1, OpenFor: time.Hour},
			policy.Func("mine", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error { return next(ctx) }))
		var runs atomic.Int32
		_, err := Do0(t.Context(), p, nil, func() (int, error) {
			if runs.Add(1) == 1 {
				time.Sleep(100 * ms)
				return 0, errBoom
			}
			return 1, nil
		})
		require.NoError(t, err)
		time.Sleep(time.Second)
		quietHedge(t, p)
		require.Equal(t, policy.Closed, layerOf[*breaker](p).view.Load().State)
	})
}

// And the value of such a copy is closed.
func TestCustomPolicyLeftALosersValueOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 10 * ms},
			policy.Func("mine", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error { return next(ctx) }))
		var runs atomic.Int32
		lost := &body{}
		_, err := Do0(t.Context(), p, nil, func() (*body, error) {
			if runs.Add(1) == 1 {
				time.Sleep(100 * ms)
				return lost, nil
			}
			return &body{}, nil
		})
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.EqualValues(t, 1, lost.closed.Load())
	})
}

// A copy of a race within a race returned the value that the caller has: it was closed.
func TestNestedHedgeClosedTheCallersValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 10 * ms}, policy.Hedge{Idempotent: true, Delay: time.Minute})
		shared := &body{}
		var n atomic.Int32
		v, err := Do(t.Context(), p, nil, func(context.Context) (*body, error) {
			if n.Add(1) == 1 {
				time.Sleep(100 * ms) // ignores its context
			}
			return shared, nil
		})
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Zero(t, v.closed.Load(), "the caller's value was closed")
	})
}

// A call counts once in a budget, however many copies and attempts of it stand further out.
func TestBudgetCountedCopiesAndAttempts(t *testing.T) {
	for name, layers := range map[string][]policy.Config{
		"retry outside": {
			policy.Retry{Attempts: 3, Backoff: policy.Constant(ms)},
			policy.Hedge{Idempotent: true, Delay: time.Minute},
			policy.Retry{Attempts: 1, Budget: policy.RetryBudget{Name: "b", Ratio: 1, MinPerSecond: 0.001}},
		},
		"hedge outside": {
			policy.Hedge{Idempotent: true, Delay: 10 * ms, Max: 1},
			policy.Hedge{Idempotent: true, Delay: time.Minute},
			policy.Retry{Attempts: 1, Budget: policy.RetryBudget{Name: "b", Ratio: 1, MinPerSecond: 0.001}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, layers...)
				_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(30 * ms); return 0, errBoom })
				time.Sleep(time.Second)
				var b *retryBudget
				for _, l := range p.stack {
					if r, ok := l.(*retry); ok {
						if x := r.budget.current.Load(); x != nil {
							b = x
						}
					}
				}
				require.EqualValues(t, 1, b.calls.sum())
			})
		})
	}
}
