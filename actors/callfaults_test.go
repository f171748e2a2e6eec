package actors

import (
	"context"
	"errors"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

type countingSink struct{ n atomic.Int32 }

func (s *countingSink) Name() string { return "s" }
func (s *countingSink) Handle(context.Context, *messages.DeadLetter) (string, error) {
	s.n.Add(1)
	return "x", nil
}

type unprintable struct{}

func (unprintable) MarshalJSON() ([]byte, error) { panic("no") }

type leavingGuard struct{}

func (leavingGuard) Name() string { return "g" }
func (leavingGuard) Check(*messages.Context) messages.GuardResult {
	goruntime.Goexit()
	return messages.Allow()
}

// A caller who cancels once it has its answer says nothing about what the answered call still does.
func TestCallerThatCanceledAfterTheAnswerHidAHungDownstream(t *testing.T) {
	for name, layers := range map[string][]policy.Config{
		"detached": {policy.Timeout{Limit: 100 * ms, Detached: true}},
		"hedged":   {policy.Timeout{Limit: 100 * ms}, policy.Hedge{Idempotent: true, Delay: 10 * ms}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, append(layers, policy.Breaker{Consecutive: 3, OpenFor: time.Hour})...)
				for range 20 {
					func() {
						ctx, cancel := context.WithCancel(t.Context()) // as every request handler has one
						defer cancel()
						_, err := Do(ctx, p, nil, func(ctx context.Context) (int, error) {
							<-ctx.Done()
							time.Sleep(ms) // it takes a moment to notice
							return 0, errors.New("connection reset")
						})
						require.Error(t, err)
					}()
					time.Sleep(time.Second)
				}
				require.NotEqual(t, policy.Closed, layerOf[*breaker](p).view.Load().State)
			})
		})
	}
}

// Data that cannot be encoded leaves the letter without it.
func TestRequestDataThatPanicsLostTheLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &countingSink{}
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Bulkhead{}}, Sinks: []FailureSink{s}})
		meta := &messages.Context{Extra: map[string]any{messages.RequestData: unprintable{}}}
		require.NotPanics(t, func() { _, _ = Do(t.Context(), p, meta, fails) })
		r := Go(t.Context(), p, meta, fails).Result(t.Context())
		require.ErrorIs(t, r.Err, errBoom)
		synctest.Wait()
		require.EqualValues(t, 2, s.n.Load())
	})
}

// The context of Acquire bounds the wait, not what is done with the permit.
func TestPermitWasJudgedByTheContextOfItsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 3, OpenFor: time.Hour})
		for range 20 {
			permit, err := func() (Permit, error) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second) // bounds the wait
				defer cancel()
				return Acquire(ctx, p, nil)
			}()
			if err != nil {
				return
			}
			permit.Done(errBoom)
		}
		t.Fatal("20 failures and the breaker is closed")
	})
}

// Who leaves a detached call is told what happened so far.
func TestTryThatIsLeftToldNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: time.Second, Detached: true}, policy.Bulkhead{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*ms, cancel)
		r := Try(ctx, p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		require.Equal(t, messages.Canceled, r.Outcome)
		require.Equal(t, 1, r.Attempts)
		require.NotEmpty(t, r.Policies())
	})
}

// A guard that leaves by Goexit leaves nothing behind.
func TestGuardThatLeavesKeptThePipelineOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Guards: []Guard{leavingGuard{}}})
		done := make(chan struct{})
		go func() { defer close(done); _, _ = Acquire(t.Context(), p, nil) }()
		<-done
		require.Zero(t, p.inFlight())
	})
}

// A fallback that fails for a refusal is a failure, which has a time.
func TestFailedFallbackHadNoFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Fallback{Func: func(context.Context, error) (any, error) { return nil, errBoom }}, policy.Bulkhead{Permits: 1}}})
		block := make(chan struct{})
		go func() { _, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { <-block; return 1, nil }) }()
		synctest.Wait()
		r := Try(t.Context(), p, nil, succeeds)
		close(block)
		require.Equal(t, messages.Failure, r.Outcome)
		require.False(t, r.FirstFailure.IsZero())
	})
}

// A fallback outside of the limit answers once, whoever is the first to ask it.
func TestFallbackRanAgainWhenTheWorkEnded(t *testing.T) {
	for name, deaf := range map[string]bool{"ignores its context": true, "honours it": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				p := pipelineOf(t, policy.FallbackTo(func(context.Context, error) (int, error) { return int(asked.Add(1)), nil }),
					policy.Timeout{Limit: 20 * ms})
				r := Go(t.Context(), p, nil, func(ctx context.Context) (int, error) {
					if deaf {
						time.Sleep(time.Second)
					}
					<-ctx.Done()
					return 0, ctx.Err()
				}).Result(t.Context())
				require.Equal(t, messages.Fallback, r.Outcome)
				time.Sleep(time.Minute)
				require.EqualValues(t, 1, asked.Load())
			})
		})
	}
}

// A fallback that answers a refusal is not overtaken by a limit that was never begun.
func TestSlowFallbackOfARefusalRanTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		p := pipelineOf(t, policy.FallbackTo(func(context.Context, error) (int, error) {
			time.Sleep(30 * ms)
			return int(asked.Add(1)), nil
		}), policy.Bulkhead{Permits: 1}, policy.Timeout{Limit: 20 * ms})
		permit, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		r := Go(t.Context(), p, nil, succeeds).Result(t.Context())
		time.Sleep(time.Minute)
		permit.Done(nil)
		require.EqualValues(t, 1, asked.Load())
		require.ErrorIs(t, r.Err, messages.ErrBulkheadFull)
	})
}

// The kill switch stops a call between two attempts as it does before the first: no fallback answers for it.
func TestKillSwitchBetweenAttemptsWasAnswered(t *testing.T) {
	for name, fallbacks := range map[string][]policy.Config{
		"outside": {policy.FallbackValue(1), policy.Retry{Backoff: policy.Constant(0)}},
		"stale":   {policy.Cache{Key: func(messages.Context) string { return "k" }, TTL: 1, StaleFor: time.Hour}, policy.Retry{Backoff: policy.Constant(0)}},
		"chain":   {policy.FallbackValue(1), policy.FallbackValue(2), policy.Retry{Backoff: policy.Constant(0)}},
	} {
		t.Run(name, func(t *testing.T) {
			sys := newSystem(t)
			p := newPipeline(t, sys, Spec{Layers: fallbacks})
			_, _ = Do(t.Context(), p, nil, succeeds) // which a cache keeps
			r := Try(t.Context(), p, nil, func(ctx context.Context) (int, error) {
				require.NoError(t, sys.Kill(ctx, messages.KillState{Scope: messages.Global, On: true, Reason: "stop"}))
				return 0, errBoom
			})
			require.Equal(t, messages.Rejected, r.Outcome)
			require.ErrorIs(t, r.Err, messages.ErrKillSwitch)
			require.ErrorIs(t, r.Err, errBoom, "what the attempt before ended in is not lost")
			require.Equal(t, 1, r.Attempts)
			require.Equal(t, messages.Rejected, Try(t.Context(), p, nil, succeeds).Outcome)
		})
	}
}
