package actors

import (
	"context"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// leaving is an actor that leaves by Goexit at a message of the type M.
func leaving[M any](heard *atomic.Int64, pid *atomic.Pointer[PID]) func() actor.Actor {
	return func() actor.Actor {
		return actor.ReceiveFunc(func(c actor.Context) {
			if _, ok := c.Message().(*actor.Started); ok {
				pid.Store(c.Self())
			}
			if _, ok := c.Message().(M); ok {
				heard.Add(1)
				goruntime.Goexit()
			}
			if _, ok := c.Message().(string); ok {
				panic("restart me")
			}
		})
	}
}

// An actor of the user's that leaves by Goexit, in whatever it does, is treated as one that panics. It was neither restarted
// nor stopped, and its system never closed.
func TestGuestThatLeftByGoexitNeverEnded(t *testing.T) {
	for name, make := range map[string]func(*atomic.Int64, *atomic.Pointer[PID]) func() actor.Actor{
		"message": leaving[string], "started": leaving[*actor.Started], "restarting": leaving[*actor.Restarting],
		"stopping": leaving[*actor.Stopping], "stopped": leaving[*actor.Stopped],
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var heard atomic.Int64
				var pid atomic.Pointer[PID]
				guest := make(&heard, &pid)
				sys := newSystem(t)
				p := newPipeline(t, sys, Spec{Guards: []Guard{ActorGuard("sentry", func(func(messages.GuardResult)) actor.Actor { return guest() })}})
				synctest.Wait()
				for range 2 {
					sys.root.Send(pid.Load(), "leave")
					time.Sleep(time.Second)
				}
				_, err := Do(t.Context(), p, nil, succeeds)
				require.NoError(t, err)
				require.NoError(t, p.Close(t.Context()))
				require.NoError(t, sys.Close(t.Context()))
				require.Positive(t, heard.Load())
				time.Sleep(time.Minute) // a restart that was due comes too late, and Proto.Actor's goroutine for that ends
			})
		})
	}
}

func TestMakerOfAnActorThatLeftByGoexitEndedNothing(t *testing.T) {
	sys := newSystem(t)
	_, err := sys.Pipeline("p", Spec{Layers: []policy.Config{ActorPolicy("clerk", func(func(messages.GuardResult)) actor.Actor { goruntime.Goexit(); return nil })}})
	require.ErrorContains(t, err, messages.ErrGoexit.Error())
	newPipeline(t, sys, Spec{})
}

// A hook's function, too, and a sink: a failed require in a test, say.
func TestHookOrSinkThatLeftByGoexitNeverEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		var told, kept atomic.Int64
		leave := func(n *atomic.Int64, last int64) {
			if m := n.Add(1); m == 1 || m == last {
				goruntime.Goexit()
			}
		}
		p := newPipeline(t, sys, Spec{Hooks: []Hook{{OnFailure: func(Moment) { leave(&told, 4) }}}, Sinks: []FailureSink{sinkFunc(func() { leave(&kept, 4) })}})
		for range 3 {
			_, _ = Do(t.Context(), p, nil, fails)
			time.Sleep(time.Second)
		}
		_, _ = Do(t.Context(), p, nil, fails) // told while it stops
		require.NoError(t, sys.Close(t.Context()))
		require.EqualValues(t, 4, told.Load())
		require.EqualValues(t, 4, kept.Load())
		_, lost := p.Dropped()
		require.EqualValues(t, 2, lost)
	})
}

type sinkFunc func()

func (sinkFunc) Name() string { return "func" }

func (f sinkFunc) Handle(context.Context, *messages.DeadLetter) (string, error) {
	f()
	return "", nil
}

// What waits for an actor that is given up is lost, and counted.
func TestFactsLostWithTheirActorWereNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard atomic.Int64
		p := pipelineOf(t, ActorPolicy("clerk", func(func(messages.GuardResult)) actor.Actor {
			return actor.ReceiveFunc(func(c actor.Context) {
				if _, ok := c.Message().(*messages.CallEnded); ok {
					heard.Add(1)
					panic("always")
				}
			})
		}))
		for range 100 {
			_, _ = Do(t.Context(), p, nil, succeeds)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		dropped, _ := p.Dropped()
		require.Less(t, heard.Load(), int64(50))
		require.EqualValues(t, 100, uint64(heard.Load())+dropped)
	})
}

// The name of a pipeline that could not be started is free, although its other actors took their time to stop.
func TestNameOfAFailedPipelineWasNotFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		slow := func(func(messages.GuardResult)) actor.Actor {
			return actor.ReceiveFunc(func(c actor.Context) {
				if _, ok := c.Message().(*actor.Stopping); ok {
					time.Sleep(time.Second)
				}
			})
		}
		tries := 0
		spec := Spec{Guards: []Guard{ActorGuard("slow", slow)}, Layers: []policy.Config{ActorPolicy("second", func(func(messages.GuardResult)) actor.Actor {
			if tries++; tries == 1 {
				return nil
			}
			return silent()
		})}}
		_, err := sys.Pipeline("p", spec)
		require.ErrorIs(t, err, errNoActor)
		_, err = sys.Pipeline("p", spec)
		require.NoError(t, err)
	})
}

func living(sys *System) (n int) {
	for _, m := range sys.actors.ProcessRegistry.LocalPIDs.LocalPIDs {
		n += m.Count()
	}
	return n
}

func TestPipelineStoppedByItsPIDKeptItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		before := living(sys)
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Retry{Budget: policy.RetryBudget{Ratio: 0.1}}}})
		sys.root.Stop(p.PID())
		synctest.Wait()
		require.Equal(t, before+1, living(sys), "its tombstone")
		require.Error(t, p.Configure("retry", policy.Retry{Budget: policy.RetryBudget{Ratio: 0.2}}))
		require.NoError(t, p.Close(t.Context()))
		synctest.Wait()
		require.Equal(t, before+1, living(sys))
	})
}
