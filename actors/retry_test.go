package actors

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// after makes a function that fails with each of the errors in turn, and then succeeds.
func after(errs ...error) func(context.Context) (int, error) {
	return func(context.Context) (int, error) {
		if len(errs) == 0 {
			return 7, nil
		}
		err := errs[0]
		errs = errs[1:]
		return 0, err
	}
}

func TestRetryPredicates(t *testing.T) {
	busy, hopeless := errors.New("busy"), errors.New("hopeless")
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, row := range []struct {
		name     string
		cfg      policy.Retry
		fn       func(context.Context) (int, error)
		attempts int
		want     error
	}{
		{"all by default", policy.Retry{}, after(busy, hopeless), 3, nil},
		{"three by default", policy.Retry{}, after(busy, busy, busy), 3, busy},
		{"if", policy.Retry{If: is(busy)}, after(busy, hopeless), 2, hopeless},
		{"abort", policy.Retry{AbortIf: is(hopeless)}, after(busy, hopeless), 2, hopeless},
		{"abort wins over if", policy.Retry{If: func(error) bool { return true }, AbortIf: is(busy)}, after(busy), 1, busy},
		{"abort alone lets if decide", policy.Retry{If: is(busy), AbortIf: is(hopeless)}, after(errBoom), 1, errBoom},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.cfg.Backoff = policy.Constant(0)
			r := Try(t.Context(), pipelineOf(t, row.cfg), nil, row.fn)
			require.Equal(t, row.attempts, r.Attempts)
			require.ErrorIs(t, r.Err, row.want)
		})
	}
	t.Run("abort is asked about refusals that are tried again", func(t *testing.T) {
		asked := 0
		p := pipelineOf(t, policy.Retry{Attempts: 9, Backoff: policy.Constant(0), Rejections: true, AbortIf: func(err error) bool {
			asked++
			return errors.Is(err, messages.ErrBreakerOpen)
		}}, policy.Breaker{Consecutive: 1})
		r := Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Rejected, r.Outcome)
		require.Equal(t, 2, asked)
	})
}

func TestRetryOnResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		counting := func(context.Context) (int, error) { n++; return n, nil }
		small := func(v any) bool { return v.(int) < 3 }
		rec := &recorder{}
		p := newPipeline(t, newSystem(t), Spec{
			Layers: []policy.Config{policy.Retry{Attempts: 5, Backoff: policy.Constant(0), OnResult: small}, policy.Breaker{Consecutive: 1}},
			Hooks:  []Hook{rec.hook()},
		})
		r := Try(t.Context(), p, nil, counting)
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, 3, r.Value)
		require.Equal(t, 3, r.Attempts)
		synctest.Wait()
		require.Equal(t, []string{"execute 1", "retry 1", "execute 2", "retry 2", "execute 3", "success 3 success"}, rec.take())

		n = -9
		r = Try(t.Context(), p, nil, counting)
		require.Equal(t, messages.Success, r.Outcome, "when attempts are spent the last value is returned")
		require.Equal(t, -4, r.Value)
		require.Equal(t, 5, r.Attempts)
		require.NoError(t, r.Err)
		require.Equal(t, policy.Closed, state(p), "the downstream answered")

		r = Try(t.Context(), p, nil, after(messages.Discard(errBoom)))
		require.Equal(t, 1, r.Attempts, "errors are judged as ever")
		v, err := Do(t.Context(), p, nil, func() func(context.Context) (int, error) {
			first := true
			return func(context.Context) (int, error) {
				if first {
					first = false
					return 1, nil
				}
				return 0, messages.Discard(errBoom)
			}
		}())
		require.ErrorIs(t, err, errBoom, "the last attempt counts")
		require.Zero(t, v)
	})
}

func TestRetryMaxElapsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 9, Backoff: policy.Constant(2 * time.Second), MaxElapsed: 6 * time.Second})
		run := func(each time.Duration) (int, time.Duration) {
			begin := time.Now()
			r := Try(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(each); return 0, errBoom })
			require.ErrorIs(t, r.Err, errBoom)
			return r.Attempts, time.Since(begin)
		}
		n, took := run(0)
		require.Equal(t, 4, n, "the last begins at the very end")
		require.Equal(t, 6*time.Second, took)
		n, took = run(time.Second)
		require.Equal(t, 3, n)
		require.Equal(t, 7*time.Second, took, "an attempt that began in time goes on")
		n, took = run(5 * time.Second)
		require.Equal(t, 1, n)
		require.Equal(t, 5*time.Second, took)
		require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 9, Backoff: policy.Constant(0), MaxElapsed: 6 * time.Second}))
		n, _ = run(2 * time.Second)
		require.Equal(t, 4, n, "without a wait too")
	})
}

func TestRetryThatOnlyObserves(t *testing.T) {
	p := newPipeline(t, newSystem(t), Spec{Observe: true, Layers: []policy.Config{
		policy.Retry{Attempts: 3, Backoff: policy.Constant(time.Hour), Budget: policy.RetryBudget{MinPerSecond: 0.1, Ratio: 0.001}},
	}})
	b := layerOf[*retry](p).budget.current.Load()
	left := b.available()
	for range 3 {
		r := Try(t.Context(), p, nil, fails)
		require.Equal(t, 1, r.Attempts)
		require.Equal(t, errBoom, r.Err)
		require.Equal(t, []string{"retry"}, r.Observed())
	}
	require.GreaterOrEqual(t, b.available(), left, "nothing was taken")
	require.Empty(t, Try(t.Context(), p, nil, succeeds).Observed())
	require.Empty(t, Try(t.Context(), p, nil, ctxFails(messages.Discard(errBoom))).Observed(), "what it would not have done either")
	require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 3, Budget: policy.RetryBudget{MinPerSecond: 0.001, Ratio: 0.001}}))
	require.Empty(t, Try(t.Context(), p, nil, fails).Observed(), "nor with an exhausted budget")
}

func TestRetriesPastTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 9, Backoff: policy.Constant(time.Second)})
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		r := Try(ctx, p, nil, fails)
		require.Equal(t, 3, r.Attempts)
		require.Equal(t, errBoom, r.Err)
		require.Equal(t, 2*time.Second, time.Since(begin), "and no wait that leads nowhere")
		require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 9, Backoff: policy.Constant(0)}))
		time.Sleep(400 * time.Millisecond)
		r = Try(ctx, p, nil, func(context.Context) (int, error) { time.Sleep(time.Second); return 0, errBoom })
		require.Equal(t, 1, r.Attempts, "nor without a wait")
		r = Try(t.Context(), p, nil, func() func(context.Context) (int, error) {
			return func(context.Context) (int, error) { panic("x") }
		}())
		require.Equal(t, 9, r.Attempts)
		gone, leave := context.WithCancel(t.Context())
		r = Try(gone, p, nil, func(context.Context) (int, error) { leave(); panic("x") })
		require.Equal(t, 1, r.Attempts, "a panic is not the caller's doing, but it has left")
		require.Equal(t, messages.Failure, r.Outcome)
	})
}

// The allocations of it are counted in TestAllocations.
func TestZeroDelayMadeATimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 50, Backoff: policy.Constant(0)})
		begin := time.Now()
		inside := 0
		r := Try(t.Context(), p, nil, func(context.Context) (int, error) {
			inside++ // on one goroutine, that never rests: nothing else in the bubble could let time pass
			return 0, errBoom
		})
		require.Equal(t, 50, r.Attempts)
		require.Equal(t, 50, inside)
		require.Zero(t, time.Since(begin))
	})
}

func TestSleepAfterTheLastAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(time.Hour)})
		var last time.Time
		_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { last = time.Now(); return 0, errBoom })
		require.Equal(t, errBoom, err)
		require.Zero(t, time.Since(last))
	})
}

// No schedule, limit or budget makes a retry wait for nothing, or go on for too long.
func TestRetryNeverWaitsInVain(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ms := func(name string, least, most int64) time.Duration {
			return time.Duration(rapid.Int64Range(least, most).Draw(rt, name)) * time.Millisecond
		}
		limit := ms("limit", 1, 5000)
		cfg := policy.Retry{
			Attempts:   rapid.IntRange(1, 12).Draw(rt, "attempts"),
			Backoff:    policy.Linear(ms("base", 0, 1000), ms("step", 0, 300), 3*time.Second).WithJitter(policy.Jitter(rapid.IntRange(0, 4).Draw(rt, "jitter"))),
			MaxElapsed: ms("elapsed", 0, 3000),
		}
		if rapid.Bool().Draw(rt, "budget") {
			cfg.Budget = policy.RetryBudget{MinPerSecond: 0.3, Ratio: 0.1}
		}
		var work []time.Duration
		for range cfg.Attempts {
			work = append(work, ms("work", 0, 400))
		}
		async := rapid.Bool().Draw(rt, "async")
		var began, ended []time.Duration
		var took time.Duration
		var r Result[int]
		synctest.Test(t, func(t *testing.T) {
			p := pipelineOf(t, policy.Timeout{Limit: limit}, cfg)
			begin := time.Now()
			fn := func(context.Context) (int, error) {
				began = append(began, time.Since(begin))
				time.Sleep(work[len(began)-1])
				ended = append(ended, time.Since(begin))
				return 0, errBoom
			}
			if async {
				r = Go(context.Background(), p, nil, fn).Result(context.Background())
			} else {
				r = Try(context.Background(), p, nil, fn)
			}
			took = time.Since(begin)
			time.Sleep(time.Second) // a function that was abandoned ends
			synctest.Wait()
		})
		require.Len(rt, began, r.Attempts)
		require.LessOrEqual(rt, r.Attempts, cfg.Attempts)
		require.LessOrEqual(rt, took, max(ended[len(ended)-1], limit), "slept after the last attempt")
		if r.Outcome != messages.Timeout {
			require.Equal(rt, ended[len(ended)-1], took, "slept after the last attempt")
		}
		for i, at := range began {
			require.Less(rt, at, limit, "attempt %d begins after the deadline", i+1)
			if cfg.MaxElapsed > 0 {
				require.LessOrEqual(rt, at, cfg.MaxElapsed)
			}
			if i > 0 {
				require.LessOrEqual(rt, at-ended[i-1], cfg.Backoff.Max)
			}
		}
	})
}

func TestRejectionByAnInnerBreakerWasRetriedThoughNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		p := pipelineOf(t, policy.Retry{Attempts: 5, Backoff: policy.Constant(time.Second), If: func(error) bool { asked++; return true }}, policy.Breaker{Consecutive: 1})
		begin := time.Now()
		r := Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Rejected, r.Outcome)
		require.Equal(t, 1, r.Attempts)
		require.Equal(t, 1, asked, "about the failure, not about the refusal")
		require.Equal(t, time.Second, time.Since(begin))
	})
}

// A downstream that names a time is not asked before it.
func TestRetryAfterAsADateWasIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(time.Second)})
		for _, row := range []struct {
			value string
			took  time.Duration
		}{
			{time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat), 20 * time.Second},
			{time.Now().Add(-20 * time.Second).UTC().Format(http.TimeFormat), time.Second},
			{"30", 30 * time.Second},
			{"soon", time.Second},
		} {
			begin := time.Now()
			calls := 0
			_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) {
				if calls++; calls > 1 {
					return 7, nil
				}
				wait, _ := messages.ParseRetryAfter(row.value, time.Now())
				return 0, fmt.Errorf("call: %w", retryAfterError{wait})
			})
			require.NoError(t, err)
			require.Equal(t, row.took, time.Since(begin), row.value)
		}
	})
}

func TestAttemptsWereAlwaysReportedAsOne(t *testing.T) {
	p := pipelineOf(t, policy.Retry{Attempts: 12, Backoff: policy.Constant(0)})
	for n := range 12 {
		errs := make([]error, n)
		for i := range errs {
			errs[i] = errBoom
		}
		r := Try(t.Context(), p, nil, after(errs...))
		require.Equal(t, n+1, r.Attempts)
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, n+1, Go(t.Context(), p, nil, after(errs...)).Result(t.Context()).Attempts)
	}
	require.Equal(t, 12, Try(t.Context(), p, nil, fails).Attempts)
}

func TestOnRetryWasToldThoughNoRetryFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		cfg := policy.Retry{Attempts: 3, Backoff: policy.Constant(time.Second)}
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{cfg}, Hooks: []Hook{rec.hook()}})
		told := func(want ...string) {
			t.Helper()
			synctest.Wait()
			require.Equal(t, want, rec.take())
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(1500*time.Millisecond, cancel)
		_, err := Do(ctx, p, nil, fails)
		require.ErrorIs(t, err, context.Canceled)
		told("execute 1", "failure 1", "retry 1 in 1s", "execute 2", "failure 2")

		short, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		_, _ = Do(short, p, nil, fails)
		cancel()
		told("execute 1", "failure 1", "retry 1 in 1s", "execute 2", "failure 2")

		cfg.Budget = policy.RetryBudget{MinPerSecond: 0.1, Ratio: 0.001} // one in ten seconds
		require.NoError(t, p.Configure("retry", cfg))
		r := Try(t.Context(), p, nil, fails)
		require.ErrorIs(t, r.Err, messages.ErrRetryBudget)
		told("execute 1", "failure 1", "retry 1 in 1s", "execute 2", "failure 2")

		_ = Try(t.Context(), p, nil, fails)
		told("execute 1", "failure 1")
	})
}

// A refusal that is tried again, and would be once more had the budget allowed it, is still told as one.
func TestSuppressedRefusalIsToldAsARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{rec.hook()}, Layers: []policy.Config{
			policy.Retry{Rejections: true, Backoff: policy.Constant(0), Budget: policy.RetryBudget{MinPerSecond: 0.001, Ratio: 0.001}}, policy.Breaker{Consecutive: 1},
		}})
		_, _ = Do(t.Context(), p, nil, fails)
		synctest.Wait()
		require.Equal(t, []string{"execute 1", "failure 1"}, rec.take())
		r := Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Rejected, r.Outcome)
		require.ErrorIs(t, r.Err, messages.ErrBreakerOpen)
		require.ErrorIs(t, r.Err, messages.ErrRetryBudget)
		synctest.Wait()
		require.Equal(t, []string{"execute 0", "reject 0 by breaker: open"}, rec.take())
	})
}

func TestFallbackInsideARetryDisabledIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memorySink{}
		rec := &recorder{}
		answers := 0
		counting := policy.FallbackTo(func(context.Context, error) (int, error) { answers++; return 100 + answers, nil })
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Hooks: []Hook{rec.hook()}, Sinks: []FailureSink{sink}, CaptureFallback: true, Layers: []policy.Config{
			policy.Retry{Attempts: 3, Backoff: policy.Constant(time.Second)}, policy.Breaker{Consecutive: 3, OpenFor: time.Minute}, counting,
		}})
		told := func(want ...string) {
			t.Helper()
			synctest.Wait()
			require.Equal(t, want, rec.take())
		}
		r := Try(t.Context(), p, nil, after(errBoom, errBoom))
		require.Equal(t, messages.Success, r.Outcome, "it was tried again, and the third attempt has the value")
		require.Equal(t, 7, r.Value)
		require.Equal(t, 3, r.Attempts)
		require.NoError(t, r.Err)
		told("execute 1", "failure 1", "retry 1 in 1s", "execute 2", "failure 2", "retry 2 in 1s", "execute 3", "success 3 success")
		require.Equal(t, policy.Closed, state(p))

		answers = 0
		r = Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Fallback, r.Outcome)
		require.Equal(t, 103, r.Value, "the last answer")
		require.Equal(t, errBoom, r.Err)
		require.Equal(t, 3, r.Attempts)
		require.Equal(t, policy.Open, state(p), "and the breaker saw three failures")
		told("execute 1", "failure 1", "retry 1 in 1s", "execute 2", "failure 2", "retry 2 in 1s", "execute 3", "failure 3", "success 3 fallback")
		synctest.Wait()
		require.Len(t, sink.letters, 1)
		require.Equal(t, "boom", sink.letters[0].Error)

		// What a fallback answered is not lost because the next attempt is refused.
		time.Sleep(time.Minute)
		answers = 0
		r = Try(t.Context(), p, nil, fails) // the first is a probe, and opens the breaker again
		require.Equal(t, messages.Fallback, r.Outcome)
		require.Equal(t, 101, r.Value)
		require.Equal(t, errBoom, r.Err)
		require.Equal(t, 1, r.Attempts)
		r = Try(t.Context(), p, nil, fails)
		require.Equal(t, messages.Rejected, r.Outcome, "there is no answer at all")

		// Nor because the fallback fails the next time.
		once, err := sys.Pipeline("once", Spec{Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.Fallback{Func: func() func(context.Context, error) (any, error) {
			first := true
			return func(context.Context, error) (any, error) {
				if first {
					first = false
					return 42, nil
				}
				return nil, errors.New("no more")
			}
		}()}}})
		require.NoError(t, err)
		r = Try(t.Context(), once, nil, fails)
		require.Equal(t, messages.Fallback, r.Outcome)
		require.Equal(t, 42, r.Value)
		require.Equal(t, errBoom, r.Err)
		require.Equal(t, 2, r.Attempts)

		// It is the failure that is judged, not the answer.
		judged := func(cfg policy.Retry, fn func(context.Context) (int, error), inner ...policy.Config) Result[int] {
			cfg.Backoff = policy.Constant(0)
			p, err := sys.Pipeline(messages.NewID(), Spec{Layers: append([]policy.Config{cfg, policy.FallbackValue(1)}, inner...)})
			require.NoError(t, err)
			return Try(t.Context(), p, nil, fn)
		}
		require.Equal(t, 1, judged(policy.Retry{If: func(err error) bool { return !errors.Is(err, errBoom) }}, fails).Attempts)
		require.Equal(t, 1, judged(policy.Retry{}, ctxFails(messages.Discard(errBoom))).Attempts)
		refused := 0
		r = judged(policy.Retry{If: func(error) bool { refused++; return true }}, fails, policy.Breaker{Consecutive: 1})
		require.Equal(t, messages.Fallback, r.Outcome)
		require.Equal(t, 1, r.Attempts)
		require.ErrorIs(t, r.Err, messages.ErrBreakerOpen)
		require.Equal(t, 1, refused, "a refusal that was answered is still one, and is not tried again")

		// A caller that leaves while the retry waits gets no answer.
		picky, err := sys.Pipeline("picky", Spec{Layers: []policy.Config{policy.Retry{Backoff: policy.Constant(time.Minute)}, policy.FallbackValue(1)}})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		r = Try(ctx, picky, nil, fails)
		require.Equal(t, messages.Canceled, r.Outcome)
		require.ErrorIs(t, r.Err, context.Canceled)
	})
}

func TestFallbackInsideABreakerDisabledIt(t *testing.T) {
	p := pipelineOf(t, policy.Breaker{Consecutive: 2, OpenFor: time.Hour}, policy.FallbackValue(1))
	for range 2 {
		v, err := Do(t.Context(), p, nil, fails)
		require.NoError(t, err)
		require.Equal(t, 1, v)
	}
	require.Equal(t, policy.Open, state(p))
	refusing := pipelineOf(t, policy.Breaker{Consecutive: 1}, policy.FallbackValue(1), policy.Bulkhead{Permits: 1})
	bh := layerOf[*bulkhead](refusing)
	require.True(t, bh.try(0))
	v, err := Do(t.Context(), refusing, nil, succeeds)
	require.NoError(t, err)
	require.Equal(t, 1, v)
	require.Equal(t, policy.Closed, state(refusing), "a refusal that was answered is still none of the downstream's doing")
	bh.release(0)
}

func TestFallbackOutsideOfRetryAndBreaker(t *testing.T) {
	p := pipelineOf(t, policy.FallbackValue(1), policy.Retry{Attempts: 3, Backoff: policy.Constant(0)}, policy.Breaker{Consecutive: 3, OpenFor: time.Hour})
	r := Try(t.Context(), p, nil, fails)
	require.Equal(t, messages.Fallback, r.Outcome)
	require.Equal(t, 3, r.Attempts)
	require.Equal(t, errBoom, r.Err)
	require.Equal(t, policy.Open, state(p))
	r = Try(t.Context(), p, nil, fails)
	require.Equal(t, messages.Fallback, r.Outcome, "the breaker's refusal is answered too")
	require.Zero(t, r.Attempts)
	require.ErrorIs(t, r.Err, messages.ErrBreakerOpen)
}
