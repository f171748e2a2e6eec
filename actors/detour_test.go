package actors

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
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

// clerkOf spawns an actor that does with each Execute what a function says.
func clerkOf(t *testing.T, sys *System, do func(c actor.Context, x *messages.Execute)) *PID {
	t.Helper()
	pid, err := sys.root.SpawnNamed(actor.PropsFromFunc(func(c actor.Context) {
		if x, ok := c.Message().(*messages.Execute); ok {
			do(c, x)
		}
	}, actor.WithDispatcher(sys.workers)), fmt.Sprint("clerk-", clerks.Add(1)))
	require.NoError(t, err)
	t.Cleanup(func() { sys.root.Stop(pid) })
	return pid
}

var clerks atomic.Int64

// runs is a policy in the style of an actor: it runs the function in a goroutine of its own and answers what came of it.
func runs(c actor.Context, x *messages.Execute) {
	sender, root := c.Sender(), c.ActorSystem().Root
	go func() {
		v, err := x.Func(x.Ctx)
		r := &messages.Result{Value: v, Outcome: messages.Success, Attempts: 1}
		if err != nil {
			r.Outcome, r.Err = messages.Failure, err
		}
		root.Send(sender, r)
	}()
}

func answers(r messages.Result) func(actor.Context, *messages.Execute) {
	return func(c actor.Context, _ *messages.Execute) { c.Respond(&r) }
}

func runsAndAnswers(r messages.Result) func(actor.Context, *messages.Execute) {
	return func(c actor.Context, x *messages.Execute) {
		_, _ = x.Func(x.Ctx)
		c.Respond(&r)
	}
}

// What the actor answers is how the call goes on, as far as it does not contradict what is known.
func TestViaMapsTheAnswer(t *testing.T) {
	errOwn := errors.New("own")
	for _, row := range []struct {
		name     string
		do       func(actor.Context, *messages.Execute)
		inside   []policy.Config
		fn       func(context.Context) (int, error)
		outcome  messages.Outcome
		value    int
		is       error
		attempts int
	}{
		{"value", runs, nil, succeeds, messages.Success, 7, nil, 1},
		{"failure", runs, nil, fails, messages.Failure, 0, errBoom, 1},
		{"panic", runs, nil, func(context.Context) (int, error) { panic("x") }, messages.Failure, 0, nil, 1},
		{"refusal from inside stays one", runs, []policy.Config{own(func(context.Context, policy.Call, next) error {
			return &messages.RejectedError{Cause: messages.ErrOverloaded}
		})}, succeeds, messages.Rejected, 0, messages.ErrOverloaded, 0},
		{"timeout from inside stays one", runs, []policy.Config{policy.AttemptTimeout{Limit: time.Second}}, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }, messages.Timeout, 0, messages.ErrTimeout, 1},
		{"fallback from inside stays one", runs, []policy.Config{policy.FallbackValue(5)}, fails, messages.Fallback, 5, errBoom, 1},
		{"predicate panics inside", runs, []policy.Config{policy.Bulkhead{Permits: 1}, policy.Retry{If: func(error) bool { panic("why") }}}, fails, messages.Failure, 0, nil, 1},
		{"answers itself", answers(messages.Result{Outcome: messages.Success, Value: 9}), nil, succeeds, messages.Success, 9, nil, 0},
		{"answers with another type", answers(messages.Result{Outcome: messages.Success, Value: "nine"}), nil, succeeds, messages.Failure, 0, nil, 0},
		{"falls back", answers(messages.Result{Outcome: messages.Fallback, Value: 9, Err: errOwn}), nil, succeeds, messages.Fallback, 9, errOwn, 0},
		{"calls a failure a success", runsAndAnswers(messages.Result{Outcome: messages.Success, Value: 9}), nil, fails, messages.Fallback, 9, errBoom, 1},
		{"refuses", answers(messages.Result{Outcome: messages.Rejected, Err: &messages.RejectedError{By: "own", Cause: messages.ErrShed}}), nil, succeeds, messages.Rejected, 0, messages.ErrShed, 0},
		{"refuses in its own words", answers(messages.Result{Outcome: messages.Rejected, Err: errOwn}), nil, succeeds, messages.Rejected, 0, errOwn, 0},
		{"fails", answers(messages.Result{Outcome: messages.Failure, Err: errOwn}), nil, succeeds, messages.Failure, 0, errOwn, 0},
		{"fails with what looks like a refusal", answers(messages.Result{Outcome: messages.Failure, Err: &messages.RejectedError{By: "far"}}), nil, succeeds, messages.Failure, 0, messages.ErrRejected, 0},
		{"fails without a word", answers(messages.Result{}), nil, succeeds, messages.Failure, 0, nil, 0},
		{"times out", answers(messages.Result{Outcome: messages.Timeout}), nil, succeeds, messages.Timeout, 0, messages.ErrTimeout, 0},
		{"gives up", answers(messages.Result{Outcome: messages.Canceled, Err: errOwn}), nil, succeeds, messages.Failure, 0, errOwn, 0},
		{"never answers", func(actor.Context, *messages.Execute) {}, nil, succeeds, messages.Rejected, 0, messages.ErrUnavailable, 0},
		{"answers nonsense", func(c actor.Context, _ *messages.Execute) { c.Respond("what?") }, nil, succeeds, messages.Rejected, 0, messages.ErrUnavailable, 0},
		{"runs and never answers", func(_ actor.Context, x *messages.Execute) { _, _ = x.Func(x.Ctx) }, nil, succeeds, messages.Success, 7, nil, 1},
		{"runs in a context of its own", func(c actor.Context, x *messages.Execute) {
			v, err := x.Func(nil) //nolint:staticcheck // a sloppy actor
			c.Respond(&messages.Result{Value: v, Err: err, Outcome: messages.Success})
		}, nil, succeeds, messages.Success, 7, nil, 1},
		{"runs twice", func(c actor.Context, x *messages.Execute) {
			_, err := x.Func(x.Ctx)
			_, again := x.Func(x.Ctx)
			if !errors.Is(again, err) || !messages.Permanent(again) {
				panic("the second run must get the ending of the first, not to be retried")
			}
			c.Respond(&messages.Result{Err: again, Outcome: messages.Failure})
		}, nil, fails, messages.Failure, 0, errBoom, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sys := newSystem(t)
				p := newPipeline(t, sys, Spec{Layers: append([]policy.Config{Via("clerk", clerkOf(t, sys, row.do))}, row.inside...)})
				check := func(res Result[int]) {
					require.Equal(t, row.outcome, res.Outcome, "%v", res.Err)
					require.Equal(t, row.value, res.Value)
					require.Equal(t, row.attempts, res.Attempts)
					if row.is != nil {
						require.ErrorIs(t, res.Err, row.is)
					}
					if row.outcome != messages.Success {
						require.Error(t, res.Err)
					}
				}
				check(Try(t.Context(), p, nil, row.fn))
				check(Go(t.Context(), p, nil, row.fn).Result(t.Context()))
				require.Zero(t, p.inFlight())
			})
		})
	}
}

func TestViaAnotherPipeline(t *testing.T) {
	sys := newSystem(t)
	shared, err := sys.Pipeline("shared", Spec{Layers: []policy.Config{policy.Retry{Attempts: 3, Backoff: policy.Constant(0)}, policy.Breaker{Consecutive: 2, OpenFor: time.Hour}}})
	require.NoError(t, err)
	p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.FallbackValue(1), Via("shared", shared.PID())}})
	v, err := Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err)
	require.Equal(t, 7, v)
	for range 2 {
		res := Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Fallback, res.Outcome)
		require.ErrorIs(t, res.Err, errBoom)
		require.Equal(t, 1, res.Attempts, "it runs once, whatever is asked of it")
	}
	res := Try(t.Context(), p, nil, succeeds)
	require.ErrorIs(t, res.Err, messages.ErrBreakerOpen, "the breaker of the other one is shared")
	require.Zero(t, res.Attempts)
	require.NoError(t, shared.Close(t.Context()))
	require.ErrorIs(t, Try(t.Context(), p, nil, succeeds).Err, messages.ErrStopped)
}

func TestViaAnActorThatIsGone(t *testing.T) {
	sys := newSystem(t)
	p := newPipeline(t, sys, Spec{Layers: []policy.Config{Via("clerk", actor.NewPID(sys.actors.Address(), "nobody"))}})
	begin := time.Now()
	_, err := Do(t.Context(), p, nil, succeeds)
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.Less(t, time.Since(begin), time.Second, "it is known at once")
	_, err = sys.Pipeline("q", Spec{Layers: []policy.Config{Detour{Name: "clerk", Patience: -1}}})
	require.ErrorContains(t, err, "clerk.PID")
	require.ErrorContains(t, err, "clerk.Patience")
	require.NoError(t, p.Configure("clerk", Via("clerk", clerkOf(t, sys, runs))))
	require.ErrorIs(t, p.Configure("clerk", Via("other", sys.top)), messages.ErrInvalid)
	_, err = Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err)
	require.NoError(t, p.Configure("clerk", Via("clerk", actor.NewPID(sys.actors.Address(), "nobody"))))
	require.NoError(t, p.Observe("clerk", true))
	_, err = Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err, "one that observes does not ask")
}

// Work that its caller left before it began must not begin: the record it would run on is somebody else's by then.
func TestViaBeganAfterItsCallerLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		var kept []*messages.Execute
		pid := clerkOf(t, sys, func(_ actor.Context, x *messages.Execute) { kept = append(kept, x) })
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Minute}, policy.Breaker{Consecutive: 1}, Detour{Name: "clerk", PID: pid, Patience: time.Hour}}})
		ran := func(context.Context) (int, error) { t.Error("ran though nobody waits"); return 0, nil }
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		require.Equal(t, messages.Canceled, Try(ctx, p, nil, ran).Outcome)
		begin := time.Now()
		require.Equal(t, messages.Timeout, Try(t.Context(), p, nil, ran).Outcome)
		_, err := Do0(t.Context(), p, nil, func() (int, error) { return ran(nil) })
		require.ErrorIs(t, err, messages.ErrTimeout)
		require.Equal(t, 2*time.Minute, time.Since(begin))
		require.Equal(t, policy.Closed, state(p), "a wait says nothing about the downstream")
		synctest.Wait()
		require.Len(t, kept, 3)
		for _, x := range kept {
			_, err := x.Func(context.Background())
			require.ErrorIs(t, err, errNext)
		}
	})
}

// A caller that leaves while its work runs waits for it, as it does without an actor between.
func TestViaWaitsForWhatBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Minute}, Via("clerk", clerkOf(t, sys, runs)), policy.Bulkhead{Permits: 1}}})
		begin := time.Now()
		res := Try(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Hour); return 7, nil })
		require.Equal(t, messages.Timeout, res.Outcome)
		require.Equal(t, time.Hour, time.Since(begin))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		res = Try(ctx, p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		require.Equal(t, messages.Canceled, res.Outcome, "the function is told, through whatever context the actor gave it")
		require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
		for i, do := range []func(actor.Context, *messages.Execute){
			func(c actor.Context, x *messages.Execute) { // in a context of its own
				v, err := x.Func(context.Background())
				c.Respond(&messages.Result{Value: v, Err: err, Outcome: messages.Failure})
			},
			runsAndAnswers(messages.Result{Outcome: messages.Success, Value: 9}),
		} {
			q, err := sys.Pipeline(fmt.Sprint("q", i), Spec{Layers: []policy.Config{Via("clerk", clerkOf(t, sys, do))}})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			res = Try(ctx, q, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
			require.Equal(t, messages.Canceled, res.Outcome)
		}

		// The other one's answer may come while the function still runs: a limit of its own.
		limited, err := sys.Pipeline("limited", Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Second}}})
		require.NoError(t, err)
		q, err := sys.Pipeline("q", Spec{Layers: []policy.Config{Via("limited", limited.PID())}})
		require.NoError(t, err)
		begin = time.Now()
		res = Try(t.Context(), q, nil, func(context.Context) (int, error) { time.Sleep(time.Minute); return 7, nil })
		require.Equal(t, messages.Timeout, res.Outcome)
		require.Equal(t, time.Minute, time.Since(begin))
	})
}

func TestViaGivesEverythingBackAfterAnyMixOfEndings(t *testing.T) {
	sys := newSystem(t)
	shared, err := sys.Pipeline("shared", Spec{Layers: []policy.Config{policy.Timeout{Limit: 20 * time.Millisecond}, policy.Bulkhead{Permits: 8, Queue: 64}}})
	require.NoError(t, err)
	p := newPipeline(t, sys, Spec{Intake: 1000, Layers: []policy.Config{policy.Timeout{Limit: 50 * time.Millisecond}, own(straight), Via("shared", shared.PID()), policy.Bulkhead{Permits: 4, Queue: 64}}})
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for i := range 40 {
				fn := func(ctx context.Context) (int, error) {
					switch (g*7 + i) % 6 {
					case 0:
						panic("x")
					case 1:
						goruntime.Goexit()
					case 2:
						<-ctx.Done()
						return 0, ctx.Err()
					case 3:
						return 0, errBoom
					case 4:
						goruntime.Gosched()
					}
					return 1, nil
				}
				ctx, cancel := context.WithCancel(context.Background())
				var one sync.WaitGroup
				one.Go(func() {
					if i%2 == 0 {
						_, _ = Do(ctx, p, nil, fn)
					} else {
						_, _ = Go(ctx, p, nil, fn).Await(context.Background())
					}
				})
				if i%3 == 0 {
					goruntime.Gosched()
					cancel()
				}
				one.Wait()
				cancel()
			}
		})
	}
	all.Wait()
	idle := func() bool {
		return p.inFlight() == 0 && shared.inFlight() == 0 && layerOf[*bulkhead](p).count() == 4 && layerOf[*bulkhead](shared).count() == 8
	}
	require.Eventually(t, idle, 10*time.Second, time.Millisecond)
}
