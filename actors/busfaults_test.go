package actors

import (
	"context"
	"errors"
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

// Whoever hears of a kill switch in a filter may throw another.
func TestFilterThatThrewAKillSwitchWaitedForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		second := errors.New("not thrown")
		sub := sys.Events().Subscribe(8, func(e messages.Event) bool {
			if e.Source == "global" {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				second = sys.Kill(ctx, messages.KillState{Scope: messages.PipelineScope("b"), On: true, Reason: "goes with it", Revision: 2})
			}
			return true
		})
		begin := time.Now()
		require.NoError(t, sys.Kill(t.Context(), messages.KillState{Scope: messages.Global, On: true, Reason: "x", Revision: 1}))
		require.NoError(t, second)
		require.Zero(t, time.Since(begin))
		require.Equal(t, "global", (<-sub.C()).Source)
		require.Equal(t, string(messages.PipelineScope("b")), (<-sub.C()).Source, "each is told, in order")
	})
}

// Whoever hears in a filter that an actor is restarted may give it orders.
func TestFilterThatOrderedOnARestartHeldItUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, crash := crashingBreaker(t, RestartPolicy{}, policy.Breaker{Consecutive: 1})
		ordered := make(chan error, 1)
		p.sys.Events().Subscribe(8, func(e messages.Event) bool {
			if e.Kind == messages.ActorRestarted {
				ordered <- p.Order("breaker", policy.BreakerOrder{Kind: policy.ForceClosed, Reason: "its actor is ill"})
			}
			return true
		})
		crash.Store(1)
		begin := time.Now()
		_, _ = Do(t.Context(), p, nil, fails)
		require.LessOrEqual(t, time.Since(begin), verdictWait)
		require.NoError(t, <-ordered)
		require.Less(t, time.Since(begin), time.Second)
	})
}

// budgetCrasher is a budget's core that panics when it is told to.
type budgetCrasher struct {
	*policy.RetryBudgetCore
	crash *atomic.Int64
}

func (c budgetCrasher) Apply(f policy.RetryBudgetFact) bool {
	if c.crash.Add(-1) >= 0 {
		panic("core is broken")
	}
	return c.RetryBudgetCore.Apply(f)
}

// A budget's parent is the top actor, which starts pipelines too: it must not run the filter.
func TestFilterThatBuiltAPipelineOnARestartHungTheSystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		crash := new(atomic.Int64)
		b := newRetryBudget(sys, policy.RetryBudget{Ratio: 1}.Declared())
		b.revive = func(cfg policy.RetryBudget, last *policy.RetryBudgetSnapshot, f policy.RetryBudgetFact) retryBudgetCore {
			return budgetCrasher{policy.NewRetryBudget(cfg, last, f), crash}
		}
		require.NoError(t, sys.within(func(c actor.SpawnerContext) error { return b.start(c, "b") }))
		built := make(chan error, 1)
		sys.Events().Subscribe(8, func(e messages.Event) bool {
			if e.Kind == messages.ActorRestarted {
				_, err := sys.Pipeline("standin", Spec{})
				built <- err
			}
			return true
		})
		crash.Store(1)
		b.host.Tell(b.fact(sys.now()))
		require.NoError(t, <-built)
	})
}

// Whoever hears in a filter that a limit moved may set another.
func TestFilterThatConfiguredAnAdaptiveLimitWaitedForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Queue: 64})
		var heard atomic.Int64
		var took atomic.Int64
		p.sys.Events().Subscribe(8, func(e messages.Event) bool {
			if e.Kind == messages.LimitChanged && heard.Add(1) == 1 {
				begin := time.Now()
				err := p.Configure("adaptive", policy.Adaptive{Queue: 128})
				if took.Store(int64(time.Since(begin))); err != nil {
					t.Error(err)
				}
			}
			return true
		})
		d := &shared{base: 10 * time.Millisecond}
		d.capacity.Store(5)
		begin := time.Now()
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for time.Since(begin) < 10*time.Second {
					_, _ = Do(context.Background(), p, nil, d.serve)
				}
			})
		}
		all.Wait()
		require.Positive(t, heard.Load())
		require.Zero(t, took.Load())
	})
}
