package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// foreign is an actor system of somebody else's.
func foreign(t *testing.T) *actor.ActorSystem {
	t.Helper()
	as := actor.NewActorSystem(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }),
		actor.WithDeadLetterThrottleInterval(time.Millisecond), actor.WithDeadLetterThrottleCount(0),
	)
	t.Cleanup(func() {
		as.Shutdown()
		<-time.After(10 * time.Millisecond) // its throttle of dead letters outlives the last one by a millisecond
	})
	return as
}

func lodgerIn(t *testing.T, as *actor.ActorSystem, layers ...policy.Config) *PID {
	t.Helper()
	props, err := Props(layers...)
	require.NoError(t, err)
	return as.Root.Spawn(props)
}

func execute(fn func(context.Context) (any, error)) *messages.Execute {
	return &messages.Execute{Func: fn}
}

func value(v any, err error) *messages.Execute {
	return execute(func(context.Context) (any, error) { return v, err })
}

func answerOf(t *testing.T, f *actor.Future) *messages.Result {
	t.Helper()
	r, err := f.Result()
	require.NoError(t, err)
	return r.(*messages.Result)
}

func TestPropsAnswerAsAPipelineDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := foreign(t)
		props, err := Props(policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.Breaker{Consecutive: 2, OpenFor: time.Hour})
		require.NoError(t, err)
		one, two := as.Root.Spawn(props), as.Root.Spawn(props)
		ask := func(pid *PID, x *messages.Execute) *messages.Result {
			return answerOf(t, as.Root.RequestFuture(pid, x, time.Minute))
		}
		r := ask(one, value(7, nil))
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, 7, r.Value)
		require.Equal(t, []string{"retry", "breaker"}, r.Policies)
		r = ask(one, value(nil, errBoom))
		require.Equal(t, messages.Failure, r.Outcome)
		require.Equal(t, errBoom, r.Err)
		require.Equal(t, 2, r.Attempts)
		require.ErrorIs(t, ask(one, value(7, nil)).Err, messages.ErrBreakerOpen)
		require.NoError(t, ask(two, value(7, nil)).Err, "each has its own state")
		require.ErrorIs(t, ask(two, &messages.Execute{}).Err, messages.ErrNilFunc)
		require.ErrorContains(t, ask(two, execute(func(context.Context) (any, error) { panic("x") })).Err, "panic: x")
		as.Root.Send(two, "not for it")
		require.NoError(t, as.Root.StopFuture(one).Wait())
		_, err = as.Root.RequestFuture(one, value(7, nil), time.Minute).Result()
		require.ErrorIs(t, err, actor.ErrDeadLetter)
		_, err = as.Root.RequestFuture(two, value(7, nil), time.Minute).Result()
		require.NoError(t, err)
		require.NoError(t, as.Root.PoisonFuture(two).Wait())
	})
}

func TestPropsReportInvalidSettingsAtOnce(t *testing.T) {
	_, err := Props(policy.Timeout{}, nil, policy.Bulkhead{Permits: -1})
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, part := range []string{"timeout.Limit", "layers[1]", "bulkhead.Permits"} {
		require.ErrorContains(t, err, part)
	}
}

// It stops while calls run: those are waited for and answered, what comes meanwhile is refused.
func TestPropsStopWhileCallsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := foreign(t)
		pid := lodgerIn(t, as, policy.Bulkhead{Permits: 1, Queue: 1})
		busy := func(d time.Duration) *messages.Execute {
			return execute(func(context.Context) (any, error) { time.Sleep(d); return 7, nil })
		}
		running := as.Root.RequestFuture(pid, busy(3*time.Second), time.Minute)
		queued := as.Root.RequestFuture(pid, busy(time.Second), time.Minute)
		synctest.Wait()
		begin := time.Now()
		stopped := as.Root.StopFuture(pid)
		synctest.Wait()
		late := answerOf(t, as.Root.RequestFuture(pid, value(1, nil), time.Minute))
		require.Equal(t, messages.Rejected, late.Outcome)
		require.ErrorIs(t, late.Err, messages.ErrStopped)
		require.NoError(t, stopped.Wait())
		require.Less(t, time.Since(begin), 5*time.Second)
		require.Equal(t, 7, answerOf(t, running).Value)
		require.Equal(t, 7, answerOf(t, queued).Value, "what was accepted is done")
		_, err := as.Root.RequestFuture(pid, value(7, nil), time.Minute).Result()
		require.ErrorIs(t, err, actor.ErrDeadLetter)
	})
}

func TestPropsStopIsBoundedWhateverRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := foreign(t)
		pid := lodgerIn(t, as, policy.Timeout{Limit: time.Hour})
		deaf := as.Root.RequestFuture(pid, execute(func(context.Context) (any, error) { time.Sleep(time.Minute); return 7, nil }), time.Hour)
		synctest.Wait()
		begin := time.Now()
		require.NoError(t, as.Root.StopFuture(pid).Wait())
		require.Equal(t, lodgerPatience, time.Since(begin))
		require.Equal(t, messages.Timeout, answerOf(t, deaf).Outcome, "its limit is met by the end")
		time.Sleep(time.Minute)
	})
}

// What comes before it is ready, or is there when it stops before it ever was, is answered.
func TestRequestsQueuedAtTheStopWereLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := foreign(t)
		props, err := Props(policy.Retry{Attempts: 1})
		require.NoError(t, err)
		slow := props.Clone(actor.WithDispatcher(delayed{}))
		early, err := as.Root.SpawnNamed(slow, "early")
		require.NoError(t, err)
		f := as.Root.RequestFuture(early, value(7, nil), time.Minute)
		require.Equal(t, 7, answerOf(t, f).Value, "it waited at the door")
		require.NoError(t, as.Root.StopFuture(early).Wait())

		d := &frontDoor{Mailbox: actor.Unbounded()(), home: as}
		var asked []*actor.Future
		for range lodgerQueue + 1 {
			f := actor.NewFuture(as, time.Minute)
			asked = append(asked, f)
			d.PostUserMessage(actor.WrapEnvelope(&actor.MessageEnvelope{Message: value(7, nil), Sender: f.PID()}))
		}
		require.ErrorIs(t, answerOf(t, asked[lodgerQueue]).Err, messages.ErrIntakeFull)
		d.refuse()
		for _, f := range asked[:lodgerQueue] {
			require.ErrorIs(t, answerOf(t, f).Err, messages.ErrStopped)
		}
		f = actor.NewFuture(as, time.Minute)
		d.PostUserMessage(&actor.MessageEnvelope{Message: value(7, nil), Sender: f.PID()})
		require.ErrorIs(t, answerOf(t, f).Err, messages.ErrStopped)
		d.PostUserMessage(&actor.MessageEnvelope{Message: value(7, nil)}) // nobody to answer
	})
}

// delayed is a dispatcher that takes its time.
type delayed struct{}

func (delayed) Schedule(run func()) { go func() { time.Sleep(time.Second); run() }() }
func (delayed) Throughput() int     { return 1 }

// allForOne spawns an actor with two children, the first of the props; told of trouble, it has both restarted.
func allForOne(as *actor.ActorSystem, props *actor.Props) (parent, child *PID) {
	parent = as.Root.Spawn(actor.PropsFromFunc(func(c actor.Context) {
		switch c.Message().(type) {
		case *actor.Started:
			child = c.Spawn(props)
			c.Spawn(actor.PropsFromFunc(func(c actor.Context) {
				if c.Message() == "trouble" {
					panic("elsewhere")
				}
			}))
		case string:
			c.Send(c.Children()[1], c.Message())
		}
	}, actor.WithSupervisor(actor.NewAllForOneStrategy(100, time.Hour, func(any) actor.Directive { return actor.RestartDirective }))))
	synctest.Wait()
	return parent, child
}

// Whoever supervises it may restart it: it goes on answering.
func TestPropsAnswerAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := foreign(t)
		props, err := Props(policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
		require.NoError(t, err)
		parent, child := allForOne(as, props)
		running := as.Root.RequestFuture(child, execute(func(context.Context) (any, error) { time.Sleep(time.Second); return 7, nil }), time.Minute)
		synctest.Wait() // it was let in
		require.ErrorIs(t, answerOf(t, as.Root.RequestFuture(child, value(nil, errBoom), time.Minute)).Err, errBoom)
		require.ErrorIs(t, answerOf(t, as.Root.RequestFuture(child, value(7, nil), time.Minute)).Err, messages.ErrBreakerOpen)
		for range 3 {
			as.Root.Send(parent, "trouble")
			synctest.Wait()
			require.Equal(t, 7, answerOf(t, as.Root.RequestFuture(child, value(7, nil), time.Minute)).Value, "afresh, and what came meanwhile waited")
		}
		require.Equal(t, 7, answerOf(t, running).Value)
		require.NoError(t, as.Root.StopFuture(parent).Wait())
	})
}

func TestRequestsQueuedAtARestartWereLostWhenItStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := foreign(t)
		props, err := Props(policy.Retry{Attempts: 1})
		require.NoError(t, err)
		parent, child := allForOne(as, props)
		running := as.Root.RequestFuture(child, execute(func(context.Context) (any, error) { time.Sleep(time.Second); return 7, nil }), time.Minute)
		synctest.Wait()
		as.Root.Send(parent, "trouble")
		synctest.Wait() // it waits for what runs
		queued := as.Root.RequestFuture(child, value(7, nil), time.Minute)
		stopped := as.Root.StopFuture(parent)
		require.Equal(t, 7, answerOf(t, running).Value)
		require.ErrorIs(t, answerOf(t, queued).Err, messages.ErrStopped)
		require.NoError(t, stopped.Wait())
	})
}

func TestPropsUnderLoadAnswerEverybody(t *testing.T) {
	as := foreign(t)
	props, err := Props(policy.Timeout{Limit: time.Minute}, policy.Bulkhead{Permits: 4, Queue: 16})
	require.NoError(t, err)
	for range 5 {
		pid := as.Root.Spawn(props)
		var answered, dead atomic.Int64
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for range 20 {
					r, err := as.Root.RequestFuture(pid, value(7, nil), 10*time.Second).Result()
					switch {
					case errors.Is(err, actor.ErrDeadLetter):
						dead.Add(1)
					case err != nil:
						t.Error(fmt.Errorf("no answer: %w", err))
					case r.(*messages.Result).Executed():
						answered.Add(1)
					}
				}
			})
		}
		require.NoError(t, as.Root.StopFuture(pid).Wait())
		all.Wait()
		require.EqualValues(t, 320, answered.Load()+dead.Load())
	}
}
