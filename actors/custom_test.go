package actors

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

type next = func(context.Context) error

func own(around func(ctx context.Context, c policy.Call, next next) error) policy.Config {
	return policy.Func("own", around)
}

func straight(ctx context.Context, _ policy.Call, next next) error { return next(ctx) }

// What a custom policy returns is how the call ends.
func TestCustomPolicyDecidesTheOutcome(t *testing.T) {
	errOwn := errors.New("own")
	type row struct {
		name     string
		around   func(ctx context.Context, c policy.Call, next next) error
		inside   []policy.Config
		fn       func(context.Context) (int, error)
		outcome  messages.Outcome
		is       error
		attempts int
		value    int
	}
	fallsOver := func(context.Context) (int, error) { return 3, errBoom }
	open := &messages.RejectedError{Reason: "closed", RetryAfter: time.Minute, Cause: messages.ErrOverloaded}
	for _, r := range []row{
		{"passes a value", straight, nil, succeeds, messages.Success, nil, 1, 7},
		{"passes an error", straight, nil, fails, messages.Failure, errBoom, 1, 0},
		{"passes a refusal from inside", straight, []policy.Config{policy.Func("inner", func(context.Context, policy.Call, next) error { return open })}, succeeds, messages.Rejected, messages.ErrOverloaded, 0, 0},
		{"passes a timeout from inside", straight, []policy.Config{policy.AttemptTimeout{Limit: time.Second}}, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }, messages.Timeout, messages.ErrTimeout, 1, 0},
		{"passes a fallback from inside", straight, []policy.Config{policy.FallbackValue(5)}, fails, messages.Fallback, errBoom, 1, 5},
		{"refuses", func(context.Context, policy.Call, next) error { return open }, nil, succeeds, messages.Rejected, messages.ErrOverloaded, 0, 0},
		{"refuses what ran", func(ctx context.Context, _ policy.Call, next next) error { _ = next(ctx); return open }, nil, succeeds, messages.Rejected, messages.ErrOverloaded, 1, 0},
		{"fails without", func(context.Context, policy.Call, next) error { return errOwn }, nil, succeeds, messages.Failure, errOwn, 0, 0},
		{"fails what succeeded", func(ctx context.Context, _ policy.Call, next next) error { _ = next(ctx); return errOwn }, nil, succeeds, messages.Failure, errOwn, 1, 0},
		{"wraps the error", func(ctx context.Context, _ policy.Call, next next) error { return fmt.Errorf("own: %w", next(ctx)) }, nil, fails, messages.Failure, errBoom, 1, 0},
		{"times out", func(context.Context, policy.Call, next) error { return &messages.TimeoutError{Limit: time.Second} }, nil, succeeds, messages.Timeout, messages.ErrTimeout, 0, 0},
		{"answers a failure", func(ctx context.Context, _ policy.Call, next next) error { _ = next(ctx); return nil }, nil, fallsOver, messages.Fallback, errBoom, 1, 0},
		{"answers without", func(context.Context, policy.Call, next) error { return nil }, nil, succeeds, messages.Fallback, messages.ErrRejected, 0, 0},
		{"tries until it succeeds", func(ctx context.Context, _ policy.Call, next next) error {
			for range 5 {
				if next(ctx) == nil {
					return nil
				}
			}
			return errOwn
		}, nil, third(), messages.Success, nil, 3, 7},
		{"the last run counts", func(ctx context.Context, _ policy.Call, next next) error { _ = next(ctx); _ = next(ctx); return nil }, nil, func() func(context.Context) (int, error) {
			n := 0
			return func(context.Context) (int, error) {
				if n++; n == 1 {
					return 7, nil
				}
				return 0, errBoom
			}
		}(), messages.Fallback, errBoom, 2, 0},
		{"panics", func(context.Context, policy.Call, next) error { panic("own") }, nil, succeeds, messages.Failure, &messages.PanicError{}, 0, 0},
		{"panics after", func(ctx context.Context, _ policy.Call, next next) error { _ = next(ctx); panic("own") }, []policy.Config{policy.Bulkhead{Permits: 1}}, succeeds, messages.Failure, &messages.PanicError{}, 1, 0},
		{"inner predicate panics", straight, []policy.Config{policy.Bulkhead{Permits: 1}, policy.Retry{If: func(error) bool { panic("why") }}}, fails, messages.Failure, &messages.PanicError{}, 1, 0},
		{"own deadline", func(ctx context.Context, _ policy.Call, next next) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return next(ctx)
		}, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }, messages.Failure, context.DeadlineExceeded, 1, 0},
		{"errors of a type that cannot be compared", straight, nil, ctxFails(uncomparable{[]int{1}}), messages.Failure, uncomparable{[]int{1}}, 1, 0},
	} {
		t.Run(r.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, append([]policy.Config{own(r.around)}, r.inside...)...)
				check := func(res Result[int]) {
					require.Equal(t, r.outcome, res.Outcome, "%v", res.Err)
					require.Equal(t, r.attempts, res.Attempts)
					require.Equal(t, r.value, res.Value)
					require.Equal(t, "own", res.Policies()[0])
					switch want := r.is.(type) { //nolint:errorlint // the rows name types by a value
					case nil:
					case uncomparable:
						require.Equal(t, want, res.Err)
					case *messages.PanicError:
						require.ErrorAs(t, res.Err, &want)
						require.NotEmpty(t, want.Stack)
					default:
						require.ErrorIs(t, res.Err, want)
					}
					if e, ok := errors.AsType[*messages.RejectedError](res.Err); ok {
						require.NotEmpty(t, e.By)
					}
				}
				check(Try(t.Context(), p, nil, r.fn))
				if r.attempts < 2 {
					check(Try(t.Context(), p, nil, r.fn))
					check(Go(t.Context(), p, nil, r.fn).Result(t.Context()))
				}
				for _, l := range p.stack {
					if b, ok := l.(*bulkhead); ok {
						require.EqualValues(t, 1, b.count())
					}
				}
				require.Empty(t, open.By, "the user's own value is not written to")
			})
		})
	}
}

type uncomparable struct{ list []int }

func (uncomparable) Error() string { return "uncomparable" }

func third() func(context.Context) (int, error) {
	n := 0
	return func(context.Context) (int, error) {
		if n++; n < 3 {
			return 0, errBoom
		}
		return 7, nil
	}
}

func TestCustomPolicyKnowsItsCall(t *testing.T) {
	type key struct{}
	var seen policy.Call
	p := pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, own(func(ctx context.Context, c policy.Call, next next) error {
		seen = c
		return next(context.WithValue(ctx, key{}, "mine"))
	}))
	_, err := Do(t.Context(), p, &messages.Context{OrderID: "17"}, func(ctx context.Context) (int, error) {
		require.Equal(t, "mine", ctx.Value(key{}))
		return 0, errBoom
	})
	require.ErrorIs(t, err, errBoom)
	require.Equal(t, policy.Call{Pipeline: "p", Layer: "own", Attempts: 1, Context: messages.Context{OrderID: "17"}}, seen)
}

// A custom policy that calls again is a retry to the hooks, and its panic one to the layers around it.
func TestCustomPolicyTakesPartInEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{rec.hook()}, Layers: []policy.Config{
			policy.FallbackValue(1), own(func(ctx context.Context, _ policy.Call, next next) error {
				_ = next(ctx)
				time.Sleep(time.Second)
				_ = next(ctx)
				panic("own")
			}), policy.Bulkhead{},
		}})
		res := Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Fallback, res.Outcome)
		require.ErrorContains(t, res.Err, "panic: own")
		synctest.Wait()
		require.Equal(t, []string{"execute 1", "failure 1", "retry 1 in 1s", "execute 2", "failure 2", "success 2 fallback"}, rec.take())
	})
}

// Each run inside a custom policy has a limit of its own: the timeout is not the whole call's.
func TestTimeoutInsideACustomPolicyThatCallsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, own(func(ctx context.Context, _ policy.Call, next next) error {
			if next(ctx) == nil {
				return nil
			}
			return next(ctx)
		}), policy.Timeout{Limit: time.Second})
		for range 2 {
			first := true
			res := Go(t.Context(), p, nil, func(ctx context.Context) (int, error) {
				if first {
					first = false
					<-ctx.Done()
					return 0, ctx.Err()
				}
				time.Sleep(time.Second - 10*time.Millisecond)
				return 7, nil
			}).Result(t.Context())
			require.Equal(t, messages.Success, res.Outcome, "%v", res.Err)
			require.Equal(t, 2, res.Attempts)
		}
	})
}

func TestCustomPolicyKeepsACallersCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, around := range map[string]func(context.Context, policy.Call, next) error{
			"straight": straight,
			"answers":  func(ctx context.Context, _ policy.Call, next next) error { _ = next(ctx); return nil },
			"wraps":    func(ctx context.Context, _ policy.Call, next next) error { return fmt.Errorf("own: %w", next(ctx)) },
			"waits":    func(ctx context.Context, _ policy.Call, next next) error { <-ctx.Done(); return next(ctx) },
			"mumbles":  func(ctx context.Context, _ policy.Call, _ next) error { <-ctx.Done(); return errBoom },
			"leaves":   func(ctx context.Context, _ policy.Call, _ next) error { <-ctx.Done(); return ctx.Err() },
		} {
			p := pipelineOf(t, policy.FallbackValue(1), policy.Breaker{Consecutive: 1}, own(around), policy.Bulkhead{Permits: 1})
			why := errors.New("the user left")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(why) })
			res := Try(ctx, p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
			require.Equal(t, messages.Canceled, res.Outcome, name)
			require.Equal(t, why, res.Err, name)
			require.Equal(t, policy.Closed, state(p), name)
			require.EqualValues(t, 1, layerOf[*bulkhead](p).count(), name)
		}
	})
}

// A limit of ours that ends a custom policy's wait is that limit's timeout, and says nothing to the breaker between.
func TestLimitEndsACustomPolicysWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: time.Second}, policy.Breaker{Consecutive: 1}, own(func(ctx context.Context, _ policy.Call, next next) error {
			<-ctx.Done()
			return ctx.Err()
		}))
		res := Try(t.Context(), p, nil, succeeds)
		require.Equal(t, messages.Timeout, res.Outcome)
		require.Zero(t, res.Attempts)
		require.Equal(t, policy.Closed, state(p))
	})
}

// The context of a custom policy ends a wait inside it: that is the policy's failure, and nobody's timeout.
func TestCustomPolicysContextEndsAnInnerWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, own(func(ctx context.Context, _ policy.Call, next next) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return next(ctx)
		}), policy.Bulkhead{Permits: 1, Queue: 1})
		release := make(chan struct{})
		busy := Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil })
		synctest.Wait()
		res := Try(t.Context(), p, nil, succeeds)
		require.Equal(t, messages.Failure, res.Outcome, "%v", res.Err)
		require.ErrorIs(t, res.Err, context.DeadlineExceeded)
		close(release)
		_, _ = busy.Await(t.Context())
		require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
	})
}

// next is for one goroutine at a time, and for as long as its policy runs.
func TestNextOutlivedItsPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept next
		p := pipelineOf(t, own(func(ctx context.Context, _ policy.Call, next next) error { kept = next; return next(ctx) }))
		_, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
		require.ErrorIs(t, kept(t.Context()), errNext)

		ended := false
		p = pipelineOf2(t, p, own(func(ctx context.Context, _ policy.Call, next next) error {
			go func() { _ = next(ctx) }()
			time.Sleep(time.Second)
			require.ErrorIs(t, next(ctx), errNext, "it runs already")
			return nil
		}), policy.Bulkhead{Permits: 1})
		res := Try(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Minute); ended = true; return 7, nil })
		require.True(t, ended, "what was begun is waited for")
		require.Equal(t, messages.Success, res.Outcome)
		require.Equal(t, 7, res.Value)
		require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
	})
}

func pipelineOf2(t *testing.T, p *Pipeline, layers ...policy.Config) *Pipeline {
	t.Helper()
	q, err := p.sys.Pipeline("q", Spec{Layers: layers})
	require.NoError(t, err)
	return q
}

func TestCustomPolicyLeavesByGoexit(t *testing.T) {
	p := pipelineOf(t, policy.Bulkhead{Permits: 1}, own(func(ctx context.Context, c policy.Call, next next) error {
		if c.Context.OrderID == "here" {
			goruntime.Goexit()
		}
		return next(ctx)
	}), policy.Bulkhead{Permits: 1})
	leaving := func(context.Context) (int, error) { goruntime.Goexit(); return 0, nil }
	var all sync.WaitGroup
	for _, meta := range []*messages.Context{nil, {OrderID: "here"}} {
		all.Go(func() { _, _ = Do(context.Background(), p, meta, leaving) })
		all.Wait()
		_, err := Go(t.Context(), p, meta, leaving).Await(t.Context())
		require.ErrorIs(t, err, messages.ErrGoexit)
	}
	for _, l := range p.stack {
		if b, ok := l.(*bulkhead); ok {
			require.EqualValues(t, 1, b.count())
		}
	}
	_, err := Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err)
}

func TestCustomPolicyIsReplacedByOneOfItsKind(t *testing.T) {
	p := pipelineOf(t, own(straight))
	refuses := func(context.Context, policy.Call, next) error { return &messages.RejectedError{Reason: "new"} }
	require.ErrorIs(t, p.Configure("own", policy.Func("other", refuses)), messages.ErrInvalid)
	require.ErrorIs(t, p.Configure("own", policy.Retry{}), messages.ErrInvalid)
	require.ErrorIs(t, p.Configure("own", policy.Func("own", nil)), messages.ErrInvalid)
	_, err := Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err)
	require.NoError(t, p.Configure("own", own(refuses)))
	_, err = Do(t.Context(), p, nil, succeeds)
	require.EqualError(t, err, "rejected by own: new")
}

func TestKindsThatNoPolicyOfAUsersMayHave(t *testing.T) {
	sys := newSystem(t)
	for _, kind := range []string{"", "Own", "a b", "retry", "rate_limit", "attempt_timeout", "hedge", "own-2"} {
		_, err := sys.Pipeline("p", Spec{Layers: []policy.Config{policy.Func(kind, straight)}})
		require.ErrorIs(t, err, messages.ErrInvalid, kind)
		_, err = sys.Pipeline("p", Spec{Layers: []policy.Config{ActorPolicy(kind, quiet)}})
		require.ErrorIs(t, err, messages.ErrInvalid, kind)
		_, err = sys.Pipeline("p", Spec{Layers: []policy.Config{Via(kind, sys.top)}})
		require.ErrorIs(t, err, messages.ErrInvalid, kind)
	}
	_, err := sys.Pipeline("p", Spec{Layers: []policy.Config{policy.Func("my-own", straight), policy.Func("my-own", straight)}})
	require.NoError(t, err)
	for _, cfg := range []policy.Config{policy.Bulkhead{}, policy.Breaker{}, policy.Retry{}, policy.Timeout{}, policy.AttemptTimeout{}, policy.Fallback{}} {
		require.True(t, ours[cfg.Kind()], cfg.Kind())
	}
}

// A custom policy that only observes changes nothing, and what it would have done is told.
func TestCustomPolicyThatOnlyObserves(t *testing.T) {
	sys := newSystem(t)
	for i, around := range []func(context.Context, policy.Call, next) error{
		func(context.Context, policy.Call, next) error { return &messages.RejectedError{Reason: "no"} },
		func(context.Context, policy.Call, next) error { return nil },
		func(context.Context, policy.Call, next) error { panic("own") },
		func(ctx context.Context, _ policy.Call, next next) error { _ = next(ctx); _ = next(ctx); return nil },
		func(ctx context.Context, _ policy.Call, next next) error { _ = next(ctx); return errors.New("own") },
	} {
		p, err := sys.Pipeline(fmt.Sprint("p", i), Spec{Observe: true, Layers: []policy.Config{own(around)}})
		require.NoError(t, err)
		res := Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Failure, res.Outcome)
		require.Equal(t, errBoom, res.Err)
		require.Equal(t, 1, res.Attempts)
		require.Equal(t, []string{"own"}, res.Observed())
	}
	p, err := sys.Pipeline("straight", Spec{Observe: true, Layers: []policy.Config{own(straight)}})
	require.NoError(t, err)
	res := Try(t.Context(), p, nil, fails)
	require.Equal(t, errBoom, res.Err)
	require.Empty(t, res.Observed())
}
