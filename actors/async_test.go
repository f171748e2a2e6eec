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

func TestFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Retry{})
		release := make(chan struct{})
		f := Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 7, nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := f.Await(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded, "the wait was bounded, not the call")
		select {
		case <-f.Done():
			t.Fatal("done before its time")
		default:
		}
		close(release)
		<-f.Done()
		v, err := f.Await(t.Context())
		require.NoError(t, err)
		require.Equal(t, 7, v)
		_, err = f.Await(t.Context())
		require.ErrorIs(t, err, ErrAwaited)
		require.Equal(t, messages.Canceled, f.Result(t.Context()).Outcome)
		f.Cancel() // has no effect any more

		f = Go(t.Context(), p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		synctest.Wait()
		f.Cancel()
		r := f.Result(t.Context())
		require.Equal(t, messages.Canceled, r.Outcome)
		require.ErrorIs(t, r.Err, context.Canceled)

		_, err = Ended[int](errBoom).Await(t.Context())
		require.ErrorIs(t, err, errBoom)
		_, err = Future[int]{}.Await(t.Context())
		require.ErrorIs(t, err, ErrAwaited)
	})
}

// An asynchronous call is answered at its limit, by the fallback if there is one, even if the function ignores its
// context; the function keeps what it holds until it returns.
func TestAsyncIsAnsweredAtTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.FallbackValue(3), policy.Timeout{Limit: time.Second}, policy.Bulkhead{Permits: 1})
		begin := time.Now()
		deaf := func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil }
		r := Go(t.Context(), p, nil, deaf).Result(t.Context())
		require.Equal(t, time.Second, time.Since(begin).Truncate(10*time.Millisecond))
		require.Equal(t, messages.Fallback, r.Outcome)
		require.Equal(t, 3, r.Value)
		require.Equal(t, 1, r.Attempts)
		limit := new(messages.TimeoutError)
		require.ErrorAs(t, r.Err, &limit)
		require.Equal(t, messages.TimeoutError{Limit: time.Second, Scope: "timeout"}, *limit)
		require.Equal(t, []string{"fallback", "timeout", "bulkhead"}, r.Policies())
		require.Equal(t, time.Second, r.Duration.Truncate(10*time.Millisecond))
		require.False(t, r.FirstFailure.IsZero())

		used, abandoned := p.InFlight()
		require.Equal(t, []int{1, 1}, []int{used, abandoned})
		r = Try(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, r.Err, messages.ErrBulkheadFull, "its permit is still out")
		time.Sleep(time.Minute)
		synctest.Wait()
		used, abandoned = p.InFlight()
		require.Equal(t, []int{0, 0}, []int{used, abandoned})
		require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
	})
}

func TestAsyncTimeoutCountsFromTheSubmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: time.Second}, policy.Bulkhead{Permits: 1, Queue: 1})
		release := make(chan struct{})
		first := Go(t.Context(), p, nil, func(ctx context.Context) (int, error) { <-release; return 1, nil })
		synctest.Wait()
		second := Go(t.Context(), p, nil, succeeds)
		r := second.Result(t.Context())
		require.Equal(t, messages.Timeout, r.Outcome)
		require.Zero(t, r.Attempts)
		close(release)
		require.Equal(t, messages.Timeout, first.Result(t.Context()).Outcome)
	})
}

func TestFullIntakeTakesTheRefusalPath(t *testing.T) {
	sys := newSystem(t)
	release := make(chan struct{})
	p, err := sys.Pipeline("p", Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Hour}, policy.FallbackValue(3)}, Intake: 2})
	require.NoError(t, err)
	var held []Future[int]
	for range 2 {
		held = append(held, Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil }))
	}
	r := Go(t.Context(), p, nil, succeeds).Result(t.Context())
	require.Equal(t, messages.Fallback, r.Outcome)
	require.ErrorIs(t, r.Err, messages.ErrIntakeFull)
	require.Zero(t, r.Attempts)
	n, wait, why := p.Room("")
	require.Zero(t, n)
	require.Positive(t, wait)
	require.Empty(t, why)
	close(release)
	for _, f := range held {
		_, err := f.Await(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, 2, p.Reserve(5))
	p.Release(2)
}

// Values never cross between calls that share pooled records, whatever the mix of endings and of types.
func TestPooledRecordsShowNobodyElsesCall(t *testing.T) {
	p := pipelineOf(t, policy.Timeout{Limit: 3 * time.Millisecond}, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)})
	var wrong atomic.Int64
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for i := range 300 {
				want := g*1000 + i
				fn := func(ctx context.Context) (int, error) {
					switch {
					case i%50 == 0:
						<-ctx.Done() // the timer fires on this record
					case i%7 == 0:
						return -1, errBoom
					}
					return want, nil
				}
				if v, err := Do(context.Background(), p, nil, fn); err == nil && v != want {
					wrong.Add(1)
				}
				f := Go(context.Background(), p, nil, fn)
				if i%11 == 0 {
					go f.Cancel()
				}
				if v, err := f.Await(context.Background()); err == nil && v != want {
					wrong.Add(1)
				}
				s, err := Do(context.Background(), p, &messages.Context{OrderID: "1"}, func(context.Context) (string, error) { return "s", nil })
				if err == nil && s != "s" {
					wrong.Add(1)
				}
			}
		})
	}
	all.Wait()
	require.Zero(t, wrong.Load())
}

// The context a function got shows the end of its own call, also after the call.
func TestDeadlineContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: time.Second}, policy.AttemptTimeout{Limit: time.Minute})
		type key struct{}
		parent := context.WithValue(t.Context(), key{}, "v")
		var kept context.Context
		var fired atomic.Bool
		_, err := Do(parent, p, nil, func(ctx context.Context) (int, error) {
			kept = ctx
			at, ok := ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, time.Second, time.Until(at), "the nearest limit counts")
			require.Equal(t, "v", ctx.Value(key{}))
			require.NoError(t, ctx.Err())
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			before := goruntime.NumGoroutine()
			grandchild, cancel2 := context.WithTimeout(child, time.Hour)
			defer cancel2()
			require.Equal(t, before, goruntime.NumGoroutine(), "children start no goroutine")
			context.AfterFunc(ctx, func() { fired.Store(true) })
			<-grandchild.Done()
			require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
			return 1, nil
		})
		require.ErrorIs(t, err, messages.ErrTimeout)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		require.True(t, fired.Load())
		require.Error(t, kept.Err())

		_, err = Do(parent, p, nil, func(ctx context.Context) (int, error) {
			kept = ctx
			stop := context.AfterFunc(ctx, func() { t.Error("stopped, and ran all the same") })
			require.True(t, stop())
			return 1, nil
		})
		require.NoError(t, err)
		<-kept.Done()
		require.ErrorIs(t, kept.Err(), context.Canceled, "ends with its call")

		ctx, cancel := context.WithCancel(parent)
		_, err = Do(ctx, p, nil, func(ctx context.Context) (int, error) {
			cancel()
			<-ctx.Done()
			return 0, ctx.Err()
		})
		require.ErrorIs(t, err, context.Canceled)
	})
}

// A context that is asked for its channel in the moment in which it ends closes it once.
func TestDeadlineContextEndsOnce(t *testing.T) {
	for range 20_000 {
		d := &deadlineContext{parent: context.Background()}
		var all sync.WaitGroup
		all.Go(func() { d.finish(endDeadline) })
		all.Go(func() { d.finish(endCanceled) })
		done := d.Done()
		<-done
		require.Error(t, d.Err())
		all.Wait()
	}
}

func TestWheel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := time.Now()
		w := newWheel(func() int64 { return int64(time.Since(base)) + 1 })
		defer w.close()
		count := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.count
		}
		due := []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 70 * time.Millisecond, 4095 * time.Millisecond, 4096 * time.Millisecond, 5 * time.Second, time.Hour}
		var mu sync.Mutex
		fired := map[int]time.Duration{}
		timers := make([]timer, len(due))
		for i, d := range due {
			timers[i].fire = func() {
				mu.Lock()
				defer mu.Unlock()
				fired[i] = time.Since(base)
			}
			w.arm(&timers[i], int64(d))
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		for i, d := range due {
			require.InDelta(t, d, fired[i], float64(2*time.Millisecond), "%v", d)
			require.GreaterOrEqual(t, fired[i]+1, d)
		}
		require.Zero(t, count())

		// Armed and disarmed over and over, a timer stays in the wheel once, and leaves it when it is idle.
		var again timer
		again.fire = func() { t.Error("disarmed, and fired all the same") }
		for range 1000 {
			word := w.arm(&again, int64(time.Since(base)+10*time.Millisecond))
			require.True(t, again.disarm(word))
		}
		require.Equal(t, 1, count())
		time.Sleep(time.Second)
		synctest.Wait()
		require.Zero(t, count())
	})
}

func TestCloseTellsWhatDidNotEnd(t *testing.T) {
	sys, err := NewSystem(Options{})
	require.NoError(t, err)
	p := newPipeline(t, sys, Spec{})
	release := make(chan struct{})
	f := Go(context.Background(), p, nil, func(context.Context) (int, error) { <-release; return 7, nil })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = sys.Close(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, `pipeline "p": 1 calls still in flight`)
	close(release)
	v, err := f.Await(t.Context())
	require.NoError(t, err)
	require.Equal(t, 7, v)
	_, err = sys.Pipeline("late", Spec{})
	require.True(t, errors.Is(err, messages.ErrStopped))
}
