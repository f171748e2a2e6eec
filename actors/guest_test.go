package actors

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func quiet(func(messages.GuardResult)) actor.Actor { return silent() }
func silent() actor.Actor                          { return actor.ReceiveFunc(func(actor.Context) {}) }

// sentry is an actor that publishes what it is sent, and panics on the word of it.
func sentry(pid *atomic.Pointer[PID]) func(func(messages.GuardResult)) actor.Actor {
	return func(publish func(messages.GuardResult)) actor.Actor {
		return actor.ReceiveFunc(func(c actor.Context) {
			switch m := c.Message().(type) {
			case *actor.Started:
				pid.Store(c.Self())
			case messages.GuardResult:
				publish(m)
			case string:
				panic(m)
			}
		})
	}
}

func TestActorGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		var pid atomic.Pointer[PID]
		p := newPipeline(t, sys, Spec{Guards: []Guard{ActorGuard("sentry", sentry(&pid))}})
		other, err := sys.Pipeline("other", Spec{Guards: []Guard{ActorGuard("sentry", quiet)}})
		require.NoError(t, err)
		synctest.Wait()
		tell := func(m any) { sys.root.Send(pid.Load(), m); synctest.Wait() }
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err, "before the first verdict calls pass")
		tell(messages.GuardResult{Reason: "night", RetryAfter: time.Hour, Metadata: map[string]any{"until": "six"}})
		_, err = Do(t.Context(), p, nil, succeeds)
		refused, ok := errors.AsType[*messages.RejectedError](err)
		require.True(t, ok)
		require.Equal(t, &messages.RejectedError{By: "sentry", Reason: "night", RetryAfter: time.Hour, Metadata: map[string]any{"until": "six"}, Cause: messages.ErrGuard}, refused)
		_, err = Do(t.Context(), other, nil, succeeds)
		require.NoError(t, err, "each pipeline has its own")

		tell("trouble")
		_, err = Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrGuard, "a restart leaves the verdict in force")
		time.Sleep(time.Minute)
		tell(messages.Allow())
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err, "it goes on after its restart")

		tell(messages.GuardResult{Reason: "night"})
		for range 20 {
			tell("trouble")
			time.Sleep(time.Second)
		}
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err, "nobody is left to lift the verdict of one that is quarantined")
	})
}

func TestActorThatCannotBeMadeIsToldWhenBuilt(t *testing.T) {
	sys := newSystem(t)
	panics := func(func(messages.GuardResult)) actor.Actor { panic("no actor today") }
	none := func(func(messages.GuardResult)) actor.Actor { return nil }
	_, err := sys.Pipeline("a", Spec{Guards: []Guard{ActorGuard("sentry", panics)}})
	require.ErrorContains(t, err, "no actor today")
	_, err = sys.Pipeline("b", Spec{Layers: []policy.Config{ActorPolicy("sentry", none)}})
	require.ErrorIs(t, err, errNoActor)
	_, err = sys.Pipeline("c", Spec{Layers: []policy.Config{ActorPolicy("sentry", nil)}})
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.False(t, sys.Has("a"))
	_, err = sys.Pipeline("a", Spec{})
	require.NoError(t, err, "the name is free again")
}

// A restart makes the actor anew; one that cannot be made then is tried again, with backoff, and in the end left.
func TestActorThatCannotBeMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		var pid atomic.Pointer[PID]
		var made atomic.Int64
		p := newPipeline(t, sys, Spec{Guards: []Guard{ActorGuard("sentry", func(publish func(messages.GuardResult)) actor.Actor {
			if n := made.Add(1); n == 2 {
				panic("not now")
			}
			return sentry(&pid)(publish)
		})}})
		synctest.Wait()
		sys.root.Send(pid.Load(), "trouble")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 3, made.Load())
		sys.root.Send(pid.Load(), messages.GuardResult{Reason: "night"})
		synctest.Wait()
		_, err := Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrGuard)
	})
}

func TestActorThatPanicsWhileItStopsHungClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		newPipeline(t, sys, Spec{Guards: []Guard{ActorGuard("sentry", func(func(messages.GuardResult)) actor.Actor {
			return actor.ReceiveFunc(func(c actor.Context) {
				switch c.Message().(type) {
				case *actor.Stopping, *actor.Stopped:
					panic("at the end")
				}
			})
		})}})
		require.NoError(t, sys.Close(t.Context()))
	})
}

// clerk counts how calls ended, refuses after two failures, and can be made to stop listening.
type clerk struct {
	pid     atomic.Pointer[PID]
	ended   atomic.Pointer[messages.CallEnded]
	count   atomic.Int64
	release chan struct{}
}

func (k *clerk) make(publish func(messages.GuardResult)) actor.Actor {
	failures := 0
	return actor.ReceiveFunc(func(c actor.Context) {
		switch m := c.Message().(type) {
		case *actor.Started:
			k.pid.Store(c.Self())
		case string:
			<-k.release
		case *messages.CallEnded:
			k.count.Add(1)
			k.ended.Store(m)
			if m.Outcome == messages.Failure {
				failures++
			}
			if failures == 2 {
				publish(messages.GuardResult{Reason: "enough", RetryAfter: time.Minute})
			}
		}
	})
}

func TestActorPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &clerk{}
		p := pipelineOf(t, policy.Retry{Attempts: 1}, ActorPolicy("clerk", k.make))
		begin := time.Now()
		_, _ = Do(t.Context(), p, &messages.Context{OrderID: "17"}, func(context.Context) (int, error) { time.Sleep(time.Second); return 0, errBoom })
		synctest.Wait()
		got := *k.ended.Load()
		require.WithinDuration(t, begin.Add(time.Second), got.At, time.Millisecond)
		got.At = time.Time{}
		require.Equal(t, messages.CallEnded{Pipeline: "p", Context: messages.Context{OrderID: "17"}, Outcome: messages.Failure, Err: errBoom, Duration: time.Second}, got)
		_, _ = Do(t.Context(), p, nil, succeeds)
		synctest.Wait()
		require.Equal(t, messages.Success, k.ended.Load().Outcome)
		permit, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		permit.Done(errBoom)
		synctest.Wait()
		require.EqualValues(t, 3, k.count.Load(), "permits are told of, too")

		res := Try(t.Context(), p, nil, succeeds)
		require.Equal(t, messages.Rejected, res.Outcome)
		require.EqualError(t, res.Err, "rejected by clerk: enough, retry after 1m0s")
		_, err = Acquire(t.Context(), p, nil)
		require.ErrorIs(t, err, messages.ErrRejected)
		n, wait, why := p.Room("")
		require.Equal(t, []any{0, time.Minute, "clerk"}, []any{n, wait, why})
		require.NoError(t, p.Observe("clerk", true))
		res = Try(t.Context(), p, nil, succeeds)
		require.Equal(t, messages.Success, res.Outcome)
		require.Equal(t, []string{"clerk"}, res.Observed())
		synctest.Wait()
		require.EqualValues(t, 3, k.count.Load(), "what it refuses it is not told of")
		require.ErrorIs(t, p.Configure("clerk", ActorPolicy("clerk", k.make)), messages.ErrInvalid)
	})
}

// A call never waits for an actor of the user's: what does not fit is dropped and counted.
func TestActorPolicyThatDoesNotListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &clerk{release: make(chan struct{})}
		p := pipelineOf(t, ActorPolicy("clerk", k.make))
		synctest.Wait()
		p.sys.root.Send(k.pid.Load(), "do not listen")
		synctest.Wait()
		for range maxFacts + 10 {
			_, err := Do(t.Context(), p, nil, succeeds)
			require.NoError(t, err)
		}
		records, _ := p.Dropped()
		require.EqualValues(t, 10, records)
		close(k.release)
		synctest.Wait()
		require.EqualValues(t, maxFacts, k.count.Load())
		_, _ = Do(t.Context(), p, nil, succeeds)
		synctest.Wait()
		require.EqualValues(t, maxFacts+1, k.count.Load(), "there is room again")
	})
}

func TestActorHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Occasion
		var last Noticed
		sys := bare(t)
		p := newPipeline(t, sys, Spec{
			Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(time.Second)}},
			Hooks: []Hook{ActorHook("scribe", func() actor.Actor {
				return actor.ReceiveFunc(func(c actor.Context) {
					if n, ok := c.Message().(*Noticed); ok {
						time.Sleep(100 * time.Millisecond) // slower than what it is told of
						told, last = append(told, n.Occasion), *n
						if n.Occasion == OnRetry {
							panic("scribe")
						}
					}
				})
			})},
		})
		_, _ = Do(t.Context(), p, nil, fails)
		_, _ = Do(t.Context(), p, nil, succeeds)
		synctest.Wait()
		require.NoError(t, sys.Close(t.Context()), "what was told before the end arrives")
		require.Equal(t, []Occasion{OnExecute, OnFailure, OnRetry, OnExecute, OnFailure, OnExecute, OnSuccess}, told)
		require.Equal(t, "p", last.Pipeline)
		require.Equal(t, 1, last.Attempt)
		records, _ := p.Dropped()
		require.Zero(t, records)
	})
}

func TestActorHookThatIsStuckOrGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		sys := bare(t)
		p := newPipeline(t, sys, Spec{Hooks: []Hook{
			ActorHook("stuck", func() actor.Actor {
				return actor.ReceiveFunc(func(c actor.Context) {
					if _, ok := c.Message().(*Noticed); ok {
						<-release
					}
				})
			}),
			ActorHook("gone", func() actor.Actor { panic("nobody") }),
		}})
		for range 2000 {
			_, err := Do(t.Context(), p, nil, succeeds)
			require.NoError(t, err)
			synctest.Wait()
		}
		records, _ := p.Dropped()
		require.EqualValues(t, 4000-1-512+4000, records, "two moments a call")
		go func() {
			time.Sleep(3 * time.Second)
			close(release)
		}()
		begin := time.Now()
		require.NoError(t, sys.Close(t.Context()))
		require.InDelta(t, 3, time.Since(begin).Seconds(), 0.1)
	})
}
