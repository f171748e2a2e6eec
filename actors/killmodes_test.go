package actors

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func killOrder(scope messages.Scope, mode messages.KillMode) messages.KillState {
	return messages.KillState{Scope: scope, On: true, Mode: mode, Reason: "r", By: "ops"}
}

func denying() Guard {
	return GuardFunc("never", func(*messages.Context) messages.GuardResult { return messages.GuardResult{Reason: "no"} })
}

// Nothing stands between a bypassed call and its function, in whichever way it is made, and everybody is told so.
func TestBypassRunsCallsBare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		var mu sync.Mutex
		var moments []Moment
		hook := Hook{OnSuccess: func(m Moment) { mu.Lock(); moments = append(moments, m); mu.Unlock() }}
		sink := &memorySink{}
		p := newPipeline(t, sys, Spec{
			Guards: []Guard{denying(), KillSwitch()}, Hooks: []Hook{hook}, Sinks: []FailureSink{sink},
			Layers: []policy.Config{
				policy.FallbackValue(9),
				policy.Timeout{Limit: time.Second},
				policy.Retry{Attempts: 3, Backoff: policy.Constant(0)},
				policy.Breaker{Consecutive: 1, OpenFor: time.Hour},
				policy.Bulkhead{Permits: 1},
			},
		})
		require.NoError(t, sys.Kill(t.Context(), killOrder("pipeline=p", messages.KillBypass)))
		first, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		second, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err, "the bulkhead of one is not asked")

		slow := func(ctx context.Context) (int, error) {
			_, limited := ctx.Deadline()
			time.Sleep(time.Minute)
			require.False(t, limited)
			return 7, nil
		}
		for _, r := range []Result[int]{Try(t.Context(), p, nil, slow), Go(t.Context(), p, nil, slow).Result(t.Context())} {
			require.Equal(t, messages.Success, r.Outcome)
			require.Equal(t, messages.KillBypass, r.KillMode())
			require.Empty(t, r.Policies())
			require.Empty(t, r.Observed())
			require.Equal(t, messages.KillBypass, messages.KillMode(Answer(&Result[any]{ran: r.ran, p: r.p}).Metadata[messages.KillModeData].(string)))
		}
		for _, r := range []Result[int]{Try(t.Context(), p, nil, fails), Go(t.Context(), p, nil, fails).Result(t.Context())} {
			require.Equal(t, messages.Failure, r.Outcome, "no fallback")
			require.ErrorIs(t, r.Err, errBoom)
			require.Equal(t, 1, r.Attempts, "no retry")
		}
		r := Try(t.Context(), p, nil, func(context.Context) (int, error) { panic("x") })
		require.ErrorAs(t, r.Err, new(*messages.PanicError))
		done := make(chan Result[any], 1)
		RunTask(t.Context(), p, &messages.Task{Type: "t"}, func(context.Context) (any, error) { return 1, nil }, func(r Result[any]) { done <- r }, func() {})
		require.Equal(t, messages.KillBypass, (<-done).KillMode())
		n, _, why := p.Room("t")
		require.Equal(t, 256, n, "and fetching goes on: %s", why)
		first.Done(nil)
		second.Done(errBoom)
		synctest.Wait()
		mu.Lock()
		require.Len(t, moments, 4)
		for _, m := range moments {
			require.Equal(t, messages.KillBypass, m.KillMode)
		}
		mu.Unlock()
		sink.mu.Lock()
		require.Len(t, sink.letters, 4, "two failures, a panic and a permit's")
		require.Empty(t, sink.letters[0].Policies)
		sink.mu.Unlock()
		require.Equal(t, policy.Closed, layerOf[*breaker](p).view.Load().State, "it saw nothing of them")
	})
}

func TestFullIntakeBoundsBypassedCallsAndNoFallbackAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Intake: 1, Layers: []policy.Config{policy.FallbackValue(9)}})
		require.NoError(t, sys.Kill(t.Context(), killOrder(messages.Global, messages.KillBypass)))
		release := make(chan struct{})
		f := Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil })
		synctest.Wait()
		require.ErrorIs(t, Go(t.Context(), p, nil, succeeds).Result(t.Context()).Err, messages.ErrIntakeFull)
		require.Equal(t, messages.Rejected, Go(t.Context(), p, nil, succeeds).Result(t.Context()).Outcome)
		close(release)
		require.True(t, f.Result(t.Context()).Success())
	})
}

// Modes are settled when a call begins; a block is read again before each attempt.
func TestModeDoesNotChangeUnderACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Retry{Attempts: 3, Backoff: policy.Constant(time.Second)}}})
		time.AfterFunc(500*time.Millisecond, func() { _ = sys.Kill(context.Background(), killOrder(messages.Global, messages.KillBypass)) })
		r := Try(t.Context(), p, nil, fails)
		require.Equal(t, 3, r.Attempts)
		require.Empty(t, r.KillMode())
		require.NoError(t, sys.Kill(t.Context(), messages.KillState{Scope: messages.Global}))
		time.AfterFunc(500*time.Millisecond, func() { _ = sys.Kill(context.Background(), killOrder(messages.Global, "of a newer version")) })
		r = Try(t.Context(), p, nil, fails)
		require.Equal(t, 1, r.Attempts)
		require.ErrorIs(t, r.Err, messages.ErrKillSwitch, "an unknown mode is block")
	})
}

func TestObserveOrderMakesProtectionLookOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Guards: []Guard{denying()}, Layers: []policy.Config{
			policy.FallbackValue(9), policy.Retry{Attempts: 3, Backoff: policy.Constant(0)}, policy.Bulkhead{Permits: 1},
		}})
		looked := sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Source == "never" })
		defer looked.Close()
		require.NoError(t, sys.Kill(t.Context(), killOrder("tenant=acme", messages.KillObserve)))
		acme := &messages.Context{Tenant: "acme"}
		r := Try(t.Context(), p, acme, fails)
		require.Equal(t, messages.Failure, r.Outcome)
		require.Equal(t, 1, r.Attempts)
		require.Equal(t, messages.KillObserve, r.KillMode())
		require.Equal(t, []string{"never", "fallback", "retry"}, r.Observed())
		require.Equal(t, []string{"fallback", "retry", "bulkhead"}, r.Policies())
		require.Equal(t, "would have refused: no", (<-looked.C()).Reason)
		require.ErrorIs(t, Try(t.Context(), p, &messages.Context{Tenant: "other"}, fails).Err, messages.ErrGuard)
		permit, err := Acquire(t.Context(), p, acme)
		require.NoError(t, err)
		require.ErrorIs(t, Try(t.Context(), p, acme, succeeds).Err, messages.ErrBulkheadFull, "bulkheads act")
		permit.Done(nil)
	})
}

func TestUnstoppablePipelineKnowsNoMode(t *testing.T) {
	sys := newSystem(t)
	p := newPipeline(t, sys, Spec{Unstoppable: true, Layers: []policy.Config{policy.FallbackValue(9)}})
	for _, mode := range []messages.KillMode{messages.KillBlock, messages.KillBypass, messages.KillObserve} {
		require.NoError(t, sys.Kill(t.Context(), killOrder(messages.Global, mode)))
		r := Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Fallback, r.Outcome)
		require.Empty(t, r.KillMode())
	}
}

// An order ends by itself, says so, and tells who it refuses how long that will last.
func TestOrderWithATTLEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{})
		events := sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Source == "global" })
		defer events.Close()
		o := killOrder(messages.Global, messages.KillBlock)
		o.TTL = time.Minute
		require.NoError(t, sys.Kill(t.Context(), o))
		time.Sleep(20 * time.Second)
		rejected := new(messages.RejectedError)
		require.ErrorAs(t, Try(t.Context(), p, nil, succeeds).Err, &rejected)
		require.Equal(t, 40*time.Second, rejected.RetryAfter)
		o.Reason = "longer"
		require.NoError(t, sys.Kill(t.Context(), o))
		time.Sleep(time.Minute + time.Second)
		require.True(t, Try(t.Context(), p, nil, succeeds).Success())
		var kinds []messages.Kind
		for len(events.C()) > 0 {
			e := <-events.C()
			kinds = append(kinds, e.Kind)
			require.Equal(t, "block", e.Data.(messages.KillSwitchOrder).Mode)
			require.EqualValues(t, 60_000, e.Data.(messages.KillSwitchOrder).TTL)
			if e.Kind == messages.KillSwitchOff {
				require.Equal(t, "expired", e.Reason)
			}
		}
		require.Equal(t, []messages.Kind{messages.KillSwitchOn, messages.KillSwitchChanged, messages.KillSwitchOff}, kinds)
		require.Len(t, sys.KillStates(), 1)
		_, on := sys.Killed("p", "", nil)
		require.False(t, on)
	})
}
