package actors

import (
	"context"
	"errors"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// body is a value that must be closed.
type body struct{ closed atomic.Int32 }

func (b *body) Close() error { b.closed.Add(1); return nil }

// takes is a function whose runs take those times, in order, and return what they are told; it honours its context
// unless deaf.
type takes struct {
	times []time.Duration
	errs  []error
	deaf  bool
	runs  atomic.Int32
	ended atomic.Int32
	left  []*body
}

func (f *takes) call(ctx context.Context) (*body, error) {
	n := int(f.runs.Add(1)) - 1
	defer f.ended.Add(1)
	t := time.NewTimer(f.times[min(n, len(f.times)-1)])
	defer t.Stop()
	if f.deaf {
		<-t.C
		return f.left[n], nil
	}
	select {
	case <-t.C:
		if n < len(f.errs) && f.errs[n] != nil {
			return nil, f.errs[n]
		}
		return f.left[n], nil
	case <-ctx.Done():
		return f.left[n], ctx.Err()
	}
}

func bodies(n int) (list []*body) {
	for range n {
		list = append(list, &body{})
	}
	return list
}

const ms = time.Millisecond

func TestHedge(t *testing.T) {
	hedge := policy.Hedge{Idempotent: true, Delay: 10 * ms}
	twice := hedge
	twice.Max = 2
	picky := hedge
	picky.Accept = func(v any, err error) bool { return errors.Is(err, errBoom) }
	for _, row := range []struct {
		name string
		cfg  policy.Hedge
		fn   *takes
		took time.Duration
		runs int32
		won  int // whose value, or -1
		err  error
	}{
		{"a quick call is not hedged", hedge, &takes{times: []time.Duration{9 * ms}}, 9 * ms, 1, 0, nil},
		{"a slow one is, and the second wins", hedge, &takes{times: []time.Duration{time.Hour, 5 * ms}}, 15 * ms, 2, 1, nil},
		{"the first wins if it is quicker", hedge, &takes{times: []time.Duration{12 * ms, time.Hour}}, 12 * ms, 2, 0, nil},
		{"a failure before the delay is the end", hedge, &takes{times: []time.Duration{ms}, errs: []error{errBoom}}, ms, 1, -1, errBoom},
		{"a failure after it waits for the other", hedge, &takes{times: []time.Duration{12 * ms, 5 * ms}, errs: []error{errBoom}}, 15 * ms, 2, 1, nil},
		{"the other's failure is waited out", hedge, &takes{times: []time.Duration{30 * ms, 5 * ms}, errs: []error{nil, errBoom}}, 30 * ms, 2, 0, nil},
		{"when both fail, the first one's error counts", hedge, &takes{times: []time.Duration{30 * ms, 5 * ms}, errs: []error{errBoom, errors.New("second")}}, 30 * ms, 2, -1, errBoom},
		{"two more at most", twice, &takes{times: []time.Duration{time.Hour, time.Hour, 5 * ms}}, 25 * ms, 3, 2, nil},
		{"what is accepted wins, an error too", picky, &takes{times: []time.Duration{11 * ms, 5 * ms}, errs: []error{nil, errBoom}}, 15 * ms, 2, -1, errBoom},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fn := row.fn
				fn.left = bodies(3)
				p := pipelineOf(t, row.cfg, policy.Bulkhead{Permits: 4})
				begin := time.Now()
				r := Try(t.Context(), p, nil, fn.call)
				require.Equal(t, row.took, time.Since(begin))
				require.Equal(t, row.took, r.Duration)
				require.Equal(t, row.runs, fn.runs.Load())
				require.Equal(t, int(row.runs), r.Attempts)
				require.Equal(t, []string{"hedge", "bulkhead"}, r.Policies())
				synctest.Wait()
				require.Equal(t, row.runs, fn.ended.Load(), "losers are canceled")
				for i, b := range fn.left[:row.runs] {
					switch {
					case i == row.won:
						require.Same(t, b, r.Value)
						require.Zero(t, b.closed.Load())
					case row.err == nil && (i >= len(fn.errs) || fn.errs[i] == nil):
						require.EqualValues(t, 1, b.closed.Load(), "what a loser returns is closed")
					}
				}
				if row.err != nil {
					require.Equal(t, messages.Failure, r.Outcome)
					require.ErrorIs(t, r.Err, row.err)
				}
				quietHedge(t, p)
			})
		})
	}
}

// quietHedge asserts that nothing is held or counted any more.
func quietHedge(t *testing.T, p *Pipeline) {
	t.Helper()
	synctest.Wait()
	require.Zero(t, p.inFlight())
	for _, l := range p.stack {
		switch l := l.(type) {
		case *hedge:
			require.Zero(t, l.losers.Load())
		case *bulkhead:
			require.EqualValues(t, l.settings.Load().Permits, l.count())
		case *breaker:
			require.Zero(t, l.probes.Load())
		}
	}
}

// A copy that lost says nothing about the downstream, whatever it made of being canceled.
func TestHedgeLosersAreNeutral(t *testing.T) {
	for name, end := range map[string]func() error{
		"its context's error": func() error { return context.Canceled }, "an error of its own": func() error { return errBoom },
		"a value": func() error { return nil }, "a panic": func() error { panic("lost") }, "Goexit": func() error { goruntime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: ms}, policy.Breaker{Consecutive: 1})
				var runs atomic.Int32
				v, err := Do(t.Context(), p, nil, func(ctx context.Context) (int, error) {
					if runs.Add(1) > 1 {
						return 2, nil
					}
					<-ctx.Done()
					return 1, end()
				})
				require.NoError(t, err)
				require.Equal(t, 2, v)
				quietHedge(t, p)
				require.Equal(t, policy.Closed, layerOf[*breaker](p).view.Load().State)
			})
		})
	}
}

// A downstream that hangs until a limit outside of the hedge ends it is seen by the breaker inside.
func TestHedgeHidNoHungDownstreamFromTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: 100 * ms}, policy.Hedge{Idempotent: true, Delay: 10 * ms}, policy.Breaker{Consecutive: 2, OpenFor: time.Hour})
		fn := &takes{times: []time.Duration{time.Hour}, left: bodies(2)}
		r := Try(t.Context(), p, nil, fn.call)
		require.Equal(t, messages.Timeout, r.Outcome)
		require.ErrorIs(t, r.Err, messages.ErrTimeout)
		require.Equal(t, 2, r.Attempts)
		quietHedge(t, p)
		require.Equal(t, policy.Open, layerOf[*breaker](p).view.Load().State)
	})
}

func TestHedgeOfACallerWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 10 * ms}, policy.Breaker{Consecutive: 1}, policy.Bulkhead{})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(20*ms, func() { cancel(errBoom) })
		fn := &takes{times: []time.Duration{time.Hour}, left: bodies(2)}
		r := Try(ctx, p, nil, fn.call)
		require.Equal(t, messages.Canceled, r.Outcome)
		require.ErrorIs(t, r.Err, errBoom)
		quietHedge(t, p)
		require.Equal(t, policy.Closed, layerOf[*breaker](p).view.Load().State)
		require.EqualValues(t, 2, fn.ended.Load())

		f := Go(t.Context(), p, nil, (&takes{times: []time.Duration{time.Hour}, left: bodies(2)}).call)
		time.Sleep(20 * ms)
		f.Cancel()
		require.Equal(t, messages.Canceled, f.Result(t.Context()).Outcome)
		quietHedge(t, p)
		require.Equal(t, policy.Closed, layerOf[*breaker](p).view.Load().State)
	})
}

// Functions that ignore their context lose all the same: the answer does not wait for them, but the end of the pipeline
// does; and when too many of them run, no more calls are hedged.
func TestHedgeLosersAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 10 * ms, MaxLosers: 1}, policy.Bulkhead{Permits: 3})
		deaf := func() *takes {
			return &takes{times: []time.Duration{time.Minute, 5 * ms}, deaf: true, left: bodies(2)}
		}
		first := deaf()
		begin := time.Now()
		v, err := Do(t.Context(), p, nil, first.call)
		require.NoError(t, err)
		require.Same(t, first.left[1], v)
		require.Equal(t, 15*ms, time.Since(begin))
		require.EqualValues(t, 1, p.inFlight(), "the loser still runs")
		require.EqualValues(t, 2, layerOf[*bulkhead](p).count(), "and keeps its permit")

		second := deaf()
		second.times[0] = 30 * time.Second
		v, err = Do(t.Context(), p, nil, second.call)
		require.NoError(t, err)
		require.Same(t, second.left[0], v)
		require.EqualValues(t, 1, second.runs.Load(), "one loser is enough")
		time.Sleep(time.Minute)
		quietHedge(t, p)
		require.EqualValues(t, 1, first.left[0].closed.Load())
	})
}

func TestHedgeWithoutAContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: 100 * ms}, policy.Hedge{Idempotent: true, Delay: 10 * ms})
		var runs atomic.Int32
		v, err := Do0(t.Context(), p, nil, func() (int32, error) {
			n := runs.Add(1)
			if n == 1 {
				time.Sleep(time.Minute)
			}
			return n, nil
		})
		require.NoError(t, err)
		require.EqualValues(t, 2, v)
		_, err = Do0(t.Context(), p, nil, func() (int32, error) { time.Sleep(time.Hour); return 0, nil })
		require.ErrorIs(t, err, messages.ErrTimeout, "and the limit is kept though no context can end")
		time.Sleep(time.Hour)
		quietHedge(t, p)
	})
}

// What holds of all calls holds of hedged ones: functions run as often as reported, one end is told, nothing is held.
func TestHedgeAnyMixOfEndings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int32
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{
			Layers: []policy.Config{
				policy.Timeout{Limit: 50 * ms},
				policy.Retry{Attempts: 3, Backoff: policy.Constant(ms)},
				policy.Hedge{Idempotent: true, Delay: 3 * ms, Max: 2},
				policy.Breaker{FailureRate: 1, MinCalls: 1 << 30},
				policy.Bulkhead{Permits: 40, Queue: 1000},
				policy.AttemptTimeout{Limit: 20 * ms},
			},
			Hooks: []Hook{{Queue: 4096, OnSuccess: func(Moment) { told.Add(1) }}},
		})
		var all sync.WaitGroup
		var good atomic.Int32
		for g := range 32 {
			all.Go(func() {
				for i := range 12 {
					var runs atomic.Int32
					ctx, cancel := context.WithCancel(t.Context())
					fn := func(ctx context.Context) (*body, error) {
						n := int(runs.Add(1))
						time.Sleep(time.Duration((g*7+i*3+n*5)%11) * ms)
						switch (g + i + n) % 7 {
						case 0:
							return nil, errBoom
						case 1:
							panic("boom")
						case 2:
							goruntime.Goexit()
						case 3:
							<-ctx.Done()
							return &body{}, ctx.Err()
						case 4:
							if i%4 == 0 {
								cancel()
							}
						}
						return &body{}, nil
					}
					var r Result[*body]
					if i%2 == 0 {
						r = Try(ctx, p, nil, fn)
					} else {
						r = Go(ctx, p, nil, fn).Result(t.Context())
					}
					require.EqualValues(t, runs.Load(), r.Attempts)
					if r.Success() {
						good.Add(1)
						require.Zero(t, r.Value.closed.Load(), "the winner's value is the caller's")
					}
					cancel()
				}
			})
		}
		all.Wait()
		time.Sleep(time.Second) // some ignore their context
		quietHedge(t, p)
		require.Positive(t, good.Load())
		require.Equal(t, good.Load(), told.Load())
	})
}

// A hedge beyond its budget is not sent; the call goes on.
func TestHedgeIsBudgeted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := policy.RetryBudget{Name: "psp", Ratio: 0.1, MinPerSecond: 0.1, Window: 10 * time.Second}
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: ms, Max: 2, Budget: budget})
		more := 0
		for range 30 { // three by ratio, one by the floor
			fn := &takes{times: []time.Duration{5 * ms}, left: bodies(3)}
			_, err := Do(t.Context(), p, nil, fn.call)
			require.NoError(t, err)
			more += int(fn.runs.Load()) - 1
		}
		require.Equal(t, 4, more)
		q := newPipelineNamed(t, p.sys, "q", policy.Retry{Attempts: 2, Backoff: policy.Constant(0), Budget: policy.RetryBudget{Name: "psp"}})
		_, err := Do(t.Context(), q, nil, fails)
		require.ErrorIs(t, err, messages.ErrRetryBudget, "those who name it share it")
		require.NoError(t, p.Configure("hedge", policy.Hedge{Idempotent: true, Delay: ms}))
		fn := &takes{times: []time.Duration{5 * ms}, left: bodies(3)}
		_, err = Do(t.Context(), p, nil, fn.call)
		require.NoError(t, err)
		require.EqualValues(t, 2, fn.runs.Load(), "new settings lift it")
		_, err = p.sys.Pipeline("r", Spec{Layers: []policy.Config{policy.Hedge{Idempotent: true, Budget: policy.RetryBudget{Name: "psp", Ratio: 0.5}}}})
		require.ErrorContains(t, err, "retry budget psp")
	})
}

func TestHedgeObservesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Hedge{Idempotent: true, Delay: 10 * ms}}, Observe: true})
		slow := &takes{times: []time.Duration{20 * ms}, left: bodies(1)}
		r := Try(t.Context(), p, nil, slow.call)
		require.Equal(t, messages.Success, r.Outcome)
		require.EqualValues(t, 1, slow.runs.Load())
		require.Equal(t, []string{"hedge"}, r.Observed())
	})
}

// The delay follows the quantile of first calls, those that were overtaken included: were they left out, each hedge would
// make the next one come sooner.
func TestHedgeDelayFollowsTheLiveQuantile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Idempotent: true, Quantile: 0.9, MinCalls: 50, Window: 10 * time.Second})
		h := layerOf[*hedge](p)
		require.Zero(t, h.view.Load().Delay, "it hedges nothing before it knows")
		hedged := 0
		for i := range 1000 {
			took := time.Duration(i%20+1) * ms
			var runs int32
			_, err := Do(t.Context(), p, nil, func(ctx context.Context) (int, error) {
				if atomic.AddInt32(&runs, 1) > 1 {
					return 1, nil
				}
				time.Sleep(took)
				return 1, nil
			})
			require.NoError(t, err)
			if atomic.LoadInt32(&runs) > 1 {
				hedged++
			}
		}
		require.InDelta(t, 18*ms, h.view.Load().Delay, float64(2*ms))
		require.InDelta(t, 100, hedged, 60, "about one in ten")

		require.NoError(t, p.Configure("hedge", policy.Hedge{Idempotent: true, Quantile: 0.5, MinCalls: 50, Window: 10 * time.Second}))
		require.InDelta(t, 10*ms, h.view.Load().Delay, float64(2*ms), "new settings keep what was learnt")
		time.Sleep(time.Minute)
		require.InDelta(t, 10*ms, h.view.Load().Delay, float64(2*ms), "and so does an idle minute")
		synctest.Wait()
		require.True(t, h.asleep.Load())
	})
}
