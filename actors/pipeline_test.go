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

func ctxFails(err error) func(context.Context) (int, error) {
	return func(context.Context) (int, error) { return 0, err }
}

// Each ending has its outcome, its error, and tells the truth about what ran.
func TestOutcomes(t *testing.T) {
	once := policy.Retry{Attempts: 1}
	twice := policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}
	type row struct {
		name     string
		layers   []policy.Config
		fn       func(context.Context) (int, error)
		outcome  messages.Outcome
		is       error
		attempts int
		ran      []string
	}
	for _, r := range []row{
		{"value", []policy.Config{once}, succeeds, messages.Success, nil, 1, []string{"retry"}},
		{"empty pipeline, value", nil, succeeds, messages.Success, nil, 1, nil},
		{"empty pipeline, error", nil, fails, messages.Failure, errBoom, 1, nil},
		{"error", []policy.Config{twice}, fails, messages.Failure, errBoom, 2, []string{"retry"}},
		{"panic", []policy.Config{twice}, func(context.Context) (int, error) { panic("at the disco") }, messages.Failure, &messages.PanicError{}, 2, []string{"retry"}},
		{"nil function", []policy.Config{twice}, nil, messages.Failure, messages.ErrNilFunc, 0, nil},
		{"own deadline error is the function's", []policy.Config{once}, ctxFails(context.DeadlineExceeded), messages.Failure, context.DeadlineExceeded, 1, []string{"retry"}},
		{"an inner pipeline's refusal is a failure here", []policy.Config{once}, ctxFails(&messages.RejectedError{By: "inner", Cause: messages.ErrBreakerOpen}), messages.Failure, messages.ErrBreakerOpen, 1, []string{"retry"}},
		{"timeout", []policy.Config{policy.Timeout{Limit: time.Second}, twice}, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}, messages.Timeout, messages.ErrTimeout, 1, []string{"timeout", "retry"}},
		{"timeout even if a value comes late", []policy.Config{policy.Timeout{Limit: time.Second}}, func(context.Context) (int, error) {
			time.Sleep(2 * time.Second)
			return 7, nil
		}, messages.Timeout, messages.ErrTimeout, 1, []string{"timeout"}},
		{"attempt timeout is retried", []policy.Config{twice, policy.AttemptTimeout{Limit: time.Second}}, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}, messages.Timeout, messages.ErrTimeout, 2, []string{"retry", "attempt_timeout"}},
		{"fallback on failure", []policy.Config{policy.FallbackValue(1), twice}, fails, messages.Fallback, errBoom, 2, []string{"fallback", "retry"}},
		{"fallback on timeout", []policy.Config{policy.FallbackValue(1), policy.Timeout{Limit: time.Second}}, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}, messages.Fallback, messages.ErrTimeout, 1, []string{"fallback", "timeout"}},
		{"fallback of the wrong type", []policy.Config{policy.FallbackValue("no")}, fails, messages.Failure, &messages.TypeError{}, 0, nil},
		{"fallback of the wrong type, found late", []policy.Config{policy.Fallback{Func: func(context.Context, error) (any, error) { return "no", nil }}}, fails, messages.Failure, &messages.TypeError{}, 1, []string{"fallback"}},
		{"fallback panics", []policy.Config{policy.Fallback{Func: func(context.Context, error) (any, error) { panic("too") }}}, fails, messages.Failure, &messages.PanicError{}, 1, []string{"fallback"}},
		{"predicate panics", []policy.Config{policy.Bulkhead{}, policy.Retry{If: func(error) bool { panic("why") }}}, fails, messages.Failure, &messages.PanicError{}, 1, []string{"bulkhead", "retry"}},
		{"fallback narrowed", []policy.Config{policy.Fallback{Func: func(context.Context, error) (any, error) { return 1, nil }, If: func(err error) bool { return errors.Is(err, messages.ErrTimeout) }}}, fails, messages.Failure, errBoom, 1, []string{"fallback"}},
		{"discarded is not retried", []policy.Config{twice}, ctxFails(messages.Discard(errBoom)), messages.Failure, errBoom, 1, []string{"retry"}},
		{"retry later is not retried in place", []policy.Config{twice}, ctxFails(messages.Retry(time.Second, errBoom)), messages.Failure, errBoom, 1, []string{"retry"}},
	} {
		t.Run(r.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, r.layers...)
				check := func(res Result[int]) {
					require.Equal(t, r.outcome, res.Outcome, "%v", res.Err)
					require.Equal(t, r.attempts, res.Attempts)
					require.Equal(t, r.ran, res.Policies())
					require.Equal(t, r.outcome.Good(), res.Success())
					switch want := r.is.(type) { //nolint:errorlint // the rows name types by a value
					case nil:
						require.NoError(t, res.Err)
					case *messages.PanicError:
						require.ErrorAs(t, res.Err, &want)
						require.NotEmpty(t, want.Stack)
					case *messages.TypeError:
						require.ErrorAs(t, res.Err, &want)
					default:
						require.ErrorIs(t, res.Err, want)
					}
				}
				check(Try(t.Context(), p, nil, r.fn))
				check(Try(t.Context(), p, nil, r.fn)) // a record that is used again
				used, _ := p.InFlight()
				require.Zero(t, used)
			})
		})
	}
}

func TestCallersCancellationIsNeutral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("the user left")
		var served atomic.Int64
		p := pipelineOf(t, policy.FallbackTo(func(context.Context, error) (int, error) { served.Add(1); return 0, nil }),
			policy.Timeout{Limit: time.Hour}, policy.Retry{Attempts: 3}, policy.Breaker{Consecutive: 1}, policy.Bulkhead{Permits: 1})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		res := Try(ctx, p, nil, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, fmt.Errorf("downstream: %w", ctx.Err())
		})
		require.Equal(t, messages.Canceled, res.Outcome)
		require.Equal(t, why, res.Err)
		require.Equal(t, 1, res.Attempts)
		require.Zero(t, served.Load())
		require.Equal(t, policy.Closed, state(p))
		res = Try(ctx, p, nil, func(context.Context) (int, error) { t.Error("ran though its context is done"); return 0, nil })
		require.Equal(t, messages.Canceled, res.Outcome)
		require.Zero(t, res.Attempts)
		require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
	})
}

type retryAfterError struct{ after time.Duration }

func (e retryAfterError) Error() string             { return "busy" }
func (e retryAfterError) RetryAfter() time.Duration { return e.after }

func TestRetryTimes(t *testing.T) {
	for _, row := range []struct {
		name     string
		layers   []policy.Config
		err      error
		attempts int
		took     time.Duration
	}{
		{"waits between attempts and not after the last", []policy.Config{policy.Retry{Attempts: 3, Backoff: policy.Backoff{Base: time.Second, Max: time.Hour, Factor: 2}}}, errBoom, 3, 3 * time.Second},
		{"never waits past the deadline", []policy.Config{policy.Timeout{Limit: 2 * time.Second}, policy.Retry{Attempts: 5, Backoff: policy.Constant(time.Second)}}, errBoom, 2, time.Second},
		{"honours what the error asks for", []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}, fmt.Errorf("call: %w", retryAfterError{5 * time.Second}), 2, 5 * time.Second},
		{"zero delay does not wait", []policy.Config{policy.Retry{Attempts: 9, Backoff: policy.Constant(0)}}, errBoom, 9, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, row.layers...)
				begin := time.Now()
				res := Try(t.Context(), p, nil, ctxFails(row.err))
				require.Equal(t, row.attempts, res.Attempts)
				require.Equal(t, row.took, time.Since(begin))
				require.ErrorIs(t, res.Err, row.err)
				begin = time.Now()
				_, err := Do0(t.Context(), p, nil, func() (int, error) { return 0, row.err })
				require.ErrorIs(t, err, row.err)
				require.Equal(t, row.took, time.Since(begin), "and without a context")
			})
		})
	}
}

func TestRetryDoesNotRetryRefusalsUnlessAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		for i, asked := range []bool{false, true} {
			p, err := sys.Pipeline(fmt.Sprint("p", i), Spec{Layers: []policy.Config{
				policy.Retry{Attempts: 3, Backoff: policy.Constant(0), Rejections: asked}, policy.Breaker{Consecutive: 1, OpenFor: time.Minute, Probes: 1},
			}})
			require.NoError(t, err)
			begin := time.Now()
			res := Try(t.Context(), p, nil, func() func(context.Context) (int, error) {
				first := true
				return func(context.Context) (int, error) {
					if first {
						first = false
						return 0, errBoom
					}
					return 7, nil
				}
			}())
			if asked {
				require.Equal(t, messages.Success, res.Outcome, "the refusal was retried when the breaker said")
				require.Equal(t, time.Minute, time.Since(begin))
			} else {
				require.Equal(t, messages.Rejected, res.Outcome)
				require.Equal(t, 1, res.Attempts)
				require.Zero(t, time.Since(begin))
			}
		}
	})
}

// A refusal of a retry does not hide what the attempt before it ran into.
func TestRefusedRetryTellsTheLastError(t *testing.T) {
	p := pipelineOf(t, policy.Retry{Attempts: 3, Backoff: policy.Constant(0), Rejections: true}, policy.Breaker{Consecutive: 1, Probes: 1})
	p2, err := p.sys.Pipeline("p2", Spec{Layers: []policy.Config{policy.Retry{Attempts: 3, Backoff: policy.Constant(0)}, policy.Breaker{Consecutive: 1}}})
	require.NoError(t, err)
	for _, p := range []*Pipeline{p, p2} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		r := Try(ctx, p, nil, fails)
		cancel()
		require.Equal(t, messages.Rejected, r.Outcome)
		require.Equal(t, 1, r.Attempts)
		require.ErrorIs(t, r.Err, messages.ErrBreakerOpen)
		require.ErrorIs(t, r.Err, errBoom)
		require.ErrorContains(t, r.Err, "last attempt: boom")
	}
}

// Permits and slots come back after any mix of endings.
func TestNothingIsHeldAfterAnyMixOfEndings(t *testing.T) {
	p := pipelineOf(t, policy.Timeout{Limit: 50 * time.Millisecond}, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)},
		policy.Breaker{Consecutive: 50, OpenFor: time.Millisecond, Probes: 2}, policy.Bulkhead{Permits: 4, Queue: 16}, policy.AttemptTimeout{Limit: 20 * time.Millisecond})
	var endings [6]atomic.Int64
	fn := func(kind int) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			endings[kind].Add(1)
			switch kind {
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
	}
	var all sync.WaitGroup
	for g := range 32 {
		all.Go(func() {
			for i := range 60 {
				kind := (g*7 + i) % 6
				ctx, cancel := context.WithCancel(context.Background())
				var one sync.WaitGroup
				one.Go(func() { // its own goroutine: Goexit ends it
					if i%2 == 0 {
						_, _ = Do(ctx, p, nil, fn(kind))
					} else {
						_, _ = Go(ctx, p, nil, fn(kind)).Await(context.Background())
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
	for kind := range endings {
		require.Positive(t, endings[kind].Load())
	}
	idle := func() bool {
		used, abandoned := p.InFlight()
		return used == 0 && abandoned == 0 && layerOf[*bulkhead](p).count() == 4 && layerOf[*breaker](p).probes.Load() == 0
	}
	require.Eventually(t, idle, 5*time.Second, time.Millisecond)
	b := layerOf[*bulkhead](p)
	require.Zero(t, b.owed.Load())
	require.Empty(t, b.queue)
}

func TestBulkhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Bulkhead{Permits: 2, Queue: 2, MaxWait: time.Second})
		release := make(chan struct{})
		busy := func(context.Context) (int, error) { <-release; return 1, nil }
		var held []Future[int]
		for range 2 {
			held = append(held, Go(t.Context(), p, nil, busy))
		}
		synctest.Wait()
		waiting := Go(t.Context(), p, nil, busy)
		ctx, cancel := context.WithCancel(t.Context())
		leaving := Go(ctx, p, nil, busy)
		synctest.Wait()
		_, err := Do(t.Context(), p, nil, busy)
		require.ErrorIs(t, err, messages.ErrBulkheadFull, "full at once")
		cancel()
		_, err = leaving.Await(t.Context())
		require.ErrorIs(t, err, context.Canceled, "a waiter that leaves")
		begin := time.Now()
		_, err = waiting.Await(t.Context())
		require.ErrorIs(t, err, messages.ErrBulkheadFull, "waited too long")
		require.Equal(t, time.Second, time.Since(begin))
		close(release)
		for _, f := range held {
			_, err := f.Await(t.Context())
			require.NoError(t, err)
		}
		b := layerOf[*bulkhead](p)
		require.EqualValues(t, 2, b.count())

		// Settings change while permits are out: what was taken away comes back first.
		release = make(chan struct{})
		held = []Future[int]{Go(t.Context(), p, nil, busy), Go(t.Context(), p, nil, busy)}
		synctest.Wait()
		require.NoError(t, p.Configure("bulkhead", policy.Bulkhead{Permits: 1}))
		require.EqualValues(t, -1, b.count())
		close(release)
		for _, f := range held {
			_, _ = f.Await(t.Context())
		}
		require.EqualValues(t, 1, b.count())
		require.NoError(t, p.Configure("bulkhead", policy.Bulkhead{Permits: 5}))
		require.EqualValues(t, 5, b.count())
	})
}

func TestPermitsAreStrict(t *testing.T) {
	var p permits
	p.resize(5)
	var inside, over, taken, refused atomic.Int64
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			for i := range 2000 {
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if i%7 == 0 {
					ctx, cancel = context.WithTimeout(ctx, 50*time.Microsecond)
				}
				if p.try(uint32(g)) || p.wait(ctx, uint32(g), 40, 0) == nil {
					if inside.Add(1) > 5 {
						over.Add(1)
					}
					goruntime.Gosched()
					inside.Add(-1)
					taken.Add(1)
					p.release(uint32(g))
				} else {
					refused.Add(1)
				}
				cancel()
			}
		})
	}
	all.Wait()
	require.Zero(t, over.Load())
	require.Positive(t, taken.Load())
	require.Positive(t, refused.Load())
	require.EqualValues(t, 5, p.count())
	require.Zero(t, p.owed.Load())
}

func TestSpecErrorsAreToldAllAtOnce(t *testing.T) {
	sys := newSystem(t)
	_, err := sys.Pipeline("No Good", Spec{Layers: []policy.Config{policy.Timeout{}, nil, policy.Bulkhead{Permits: -1}}, Guards: []Guard{nil}, Sinks: []FailureSink{nil}, Intake: -1})
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, part := range []string{`"No Good"`, "timeout.Limit", "layers[1]", "bulkhead.Permits", "guards[0]", "sinks[0]", "intake"} {
		require.ErrorContains(t, err, part)
	}
	_, err = sys.Pipeline("twice", Spec{})
	require.NoError(t, err)
	_, err = sys.Pipeline("twice", Spec{})
	require.ErrorContains(t, err, "no other pipeline")
}

func TestConfigureALivePipeline(t *testing.T) {
	p := pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.Breaker{Consecutive: 100}, policy.Retry{Attempts: 1})
	require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 5, Backoff: policy.Constant(0)}))
	require.Equal(t, 5, Try(t.Context(), p, nil, fails).Attempts)
	require.NoError(t, p.Configure("retry-2", policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}))
	require.Equal(t, 10, Try(t.Context(), p, nil, fails).Attempts)
	require.NoError(t, p.Configure("breaker", policy.Breaker{Consecutive: 1}))
	require.Equal(t, messages.Rejected, Try(t.Context(), p, nil, fails).Outcome)
	require.ErrorIs(t, p.Configure("retry", policy.Timeout{Limit: 1}), messages.ErrInvalid)
	require.ErrorIs(t, p.Configure("hedge", policy.Timeout{Limit: 1}), messages.ErrNotFound)
	require.ErrorIs(t, p.Configure("retry", policy.Retry{Attempts: -1}), messages.ErrInvalid)
	require.ErrorIs(t, p.Configure("retry", nil), messages.ErrInvalid)
}

// ask sends an Execute the way any Proto.Actor code would.
func ask(t *testing.T, sys *System, pid *PID, x *messages.Execute) (*messages.Result, error) {
	t.Helper()
	answer, err := sys.ActorSystem().Root.RequestFuture(pid, x, 5*time.Second).Result()
	if err != nil {
		return nil, err
	}
	return answer.(*messages.Result), nil
}

func TestExecuteIsAlwaysAnswered(t *testing.T) {
	sys := newSystem(t)
	p, err := sys.Pipeline("p", Spec{Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}, Intake: 1})
	require.NoError(t, err)
	must := func(x *messages.Execute) *messages.Result {
		t.Helper()
		r, err := ask(t, sys, p.PID(), x)
		require.NoError(t, err)
		return r
	}
	fn := func(v any, err error) *messages.Execute {
		return &messages.Execute{Func: func(context.Context) (any, error) { return v, err }}
	}
	r := must(fn(7, nil))
	require.Equal(t, 7, r.Value)
	require.Equal(t, messages.Success, r.Outcome)
	r = must(fn(nil, errBoom))
	require.Equal(t, messages.Failure, r.Outcome)
	require.Equal(t, 2, r.Attempts)
	require.Equal(t, []string{"retry"}, r.Policies)
	r = must(&messages.Execute{Func: func(context.Context) (any, error) { panic("x") }})
	require.Equal(t, messages.Failure, r.Outcome)
	r = must(&messages.Execute{Func: func(context.Context) (any, error) { goruntime.Goexit(); return nil, nil }})
	require.ErrorIs(t, r.Err, messages.ErrGoexit)
	require.ErrorIs(t, must(&messages.Execute{}).Err, messages.ErrNilFunc)

	release, running := make(chan struct{}), make(chan struct{})
	slow := sys.ActorSystem().Root.RequestFuture(p.PID(), &messages.Execute{Func: func(context.Context) (any, error) {
		close(running)
		<-release
		return 1, nil
	}}, 5*time.Second)
	<-running
	r = must(fn(7, nil))
	require.Equal(t, messages.Rejected, r.Outcome)
	require.ErrorIs(t, r.Err, messages.ErrIntakeFull)
	close(release)
	_, err = slow.Result()
	require.NoError(t, err)

	require.NoError(t, p.Close(t.Context()))
	r = must(fn(7, nil))
	require.ErrorIs(t, r.Err, messages.ErrStopped)
	require.Equal(t, messages.Rejected, r.Outcome)
	_, err = Do(t.Context(), p, nil, succeeds)
	require.ErrorIs(t, err, messages.ErrStopped)
}

func TestPipelineStoppedByItsPIDLeavesATombstone(t *testing.T) {
	sys := newSystem(t)
	p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Breaker{}}})
	sys.ActorSystem().Root.Stop(p.PID())
	require.Eventually(t, func() bool { // the tombstone takes its place within microseconds
		r, err := ask(t, sys, p.PID(), &messages.Execute{Func: func(context.Context) (any, error) { return 1, nil }})
		return err == nil && errors.Is(r.Err, messages.ErrStopped)
	}, 5*time.Second, time.Millisecond)
	_, err := Do(t.Context(), p, nil, succeeds)
	require.ErrorIs(t, err, messages.ErrStopped)
}

func TestAfterTheEndTheRequesterGetsTheDeadLetterError(t *testing.T) {
	sys, err := NewSystem(Options{})
	require.NoError(t, err)
	p := newPipeline(t, sys, Spec{})
	require.NoError(t, sys.Close(t.Context()))
	require.NoError(t, sys.Close(t.Context()), "twice is once")
	_, err = ask(t, sys, p.PID(), &messages.Execute{Func: func(context.Context) (any, error) { return 1, nil }})
	require.ErrorIs(t, err, actor.ErrDeadLetter)
}

// A guard's refusal is told as it was made, and nobody behind the guard is asked.
func TestGuardsRefusalIsKept(t *testing.T) {
	asked := 0
	refuse := GuardFunc("quota", func(*messages.Context) messages.GuardResult {
		r := messages.Reject("spent", "left", 0)
		r.RetryAfter = time.Minute
		return r
	})
	later := GuardFunc("later", func(*messages.Context) messages.GuardResult { asked++; return messages.Allow() })
	p := newPipeline(t, newSystem(t), Spec{Guards: []Guard{refuse, later}, Layers: []policy.Config{policy.FallbackValue(1), policy.Bulkhead{}}})
	r := Try(t.Context(), p, nil, succeeds)
	require.Equal(t, messages.Rejected, r.Outcome)
	require.True(t, r.Rejected())
	require.False(t, r.Success())
	require.Zero(t, r.Attempts)
	require.Empty(t, r.Policies())
	require.Zero(t, asked)
	refused := new(messages.RejectedError)
	require.ErrorAs(t, r.Err, &refused)
	require.Equal(t, &messages.RejectedError{By: "quota", Reason: "spent", RetryAfter: time.Minute, Metadata: map[string]any{"left": 0}, Cause: messages.ErrGuard}, refused)
}

// Whoever came first is served first, and a waiter that leaves is passed over.
func TestBulkheadServesItsWaitersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Bulkhead{Permits: 1, Queue: 8})
		permit, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		var served []int
		ctx, leave := context.WithCancel(t.Context())
		for i := range 5 {
			with := t.Context()
			if i == 2 {
				with = ctx
			}
			go func() {
				_, _ = Do(with, p, nil, func(context.Context) (int, error) { served = append(served, i); return 0, nil })
			}()
			synctest.Wait() // it waits
		}
		leave()
		synctest.Wait()
		permit.Done(nil)
		synctest.Wait()
		require.Equal(t, []int{0, 1, 3, 4}, served)
		require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
	})
}

// Settings out of range build no pipeline.
func TestLimitsOfNothingBuildNoPipeline(t *testing.T) {
	sys := newSystem(t)
	for _, cfg := range []policy.Config{
		policy.Timeout{},
		policy.Timeout{Limit: -1},
		policy.AttemptTimeout{},
		policy.RateLimit{},
		policy.Shed{},
		policy.Bulkhead{Permits: -1},
		policy.Breaker{Probes: 1, Successes: 2},
		policy.Cache{},
		policy.Hedge{},
		policy.Fallback{},
	} {
		_, err := sys.Pipeline("p", Spec{Layers: []policy.Config{cfg}})
		require.ErrorIs(t, err, messages.ErrInvalid, "%T", cfg)
		require.ErrorContains(t, err, cfg.Kind())
	}
	_, err := sys.Pipeline("p", Spec{})
	require.NoError(t, err, "and leave the name free")
}
