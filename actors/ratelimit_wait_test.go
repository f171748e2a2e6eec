package actors

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// waiters are calls that came one after another, and when each began.
type waiters struct {
	mu    sync.Mutex
	began map[int]time.Duration
	order []int
	errs  map[int]error
	start time.Time
	all   sync.WaitGroup
}

func newWaiters() *waiters {
	return &waiters{began: map[int]time.Duration{}, errs: map[int]error{}, start: time.Now()}
}

func (w *waiters) add(ctx context.Context, p *Pipeline, i int) {
	w.all.Go(func() {
		_, err := Do(ctx, p, nil, func(context.Context) (int, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.began[i] = time.Since(w.start)
			w.order = append(w.order, i)
			return i, nil
		})
		if err != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.errs[i] = err
		}
	})
	synctest.Wait()
}

func TestRateLimitWaitsAreExactAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 10, Smooth: true, Queue: 5})
		w := newWaiters()
		for i := range 6 {
			w.add(t.Context(), p, i)
		}
		_, err := Do(t.Context(), p, nil, succeeds)
		reason, after := refusedFor(t, err)
		require.Equal(t, "queue_full", reason)
		require.Equal(t, 600*ms, after, "when the tokens of those who wait are taken, and there is one more")
		w.all.Wait()
		require.Empty(t, w.errs)
		require.Equal(t, []int{0, 1, 2, 3, 4, 5}, w.order)
		for i := range 6 {
			require.Equal(t, time.Duration(i)*100*ms, w.began[i])
		}
		layerOf[*rateLimit](p).drained(t)
	})
}

// A wait that is cancelled gives its place back, and everybody behind it moves up.
func TestCancelledWaiterKeptItsReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, leaves := range []int{1, 2, 4} { // the first, one between, the last
			p, err := newSystem(t).Pipeline("p", Spec{Layers: []policy.Config{policy.RateLimit{Limit: 10, Burst: 1, Queue: 4}}})
			require.NoError(t, err)
			w := newWaiters()
			ctx, cancel := context.WithCancelCause(t.Context())
			for i := range 5 {
				if i == leaves {
					w.add(ctx, p, i)
				} else {
					w.add(t.Context(), p, i)
				}
			}
			time.Sleep(50 * ms)
			why := errors.New("the user left")
			cancel(why)
			synctest.Wait()
			require.Equal(t, map[int]error{leaves: why}, w.errs, "at once")
			w.add(t.Context(), p, 5) // finds a place in the queue
			w.all.Wait()
			require.Len(t, w.errs, 1)
			at := time.Duration(0)
			for i := range 6 {
				if i != leaves {
					require.Equal(t, at, w.began[i], "call %d when %d left", i, leaves)
					at += 100 * ms
				}
			}
			_, err = Do(t.Context(), p, nil, succeeds)
			if err != nil {
				_, after := refusedFor(t, err)
				require.LessOrEqual(t, after, 100*ms, "nothing was spent for who left")
			}
			layerOf[*rateLimit](p).drained(t)
		}
	})
}

// One that leaves at the very moment its token is there spends it, or does not; nobody behind it may lose by it.
func TestWaiterThatLeftWhenItWasItsTurnTookATokenAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 10, Burst: 1, Queue: 8})
		for range 50 {
			time.Sleep(time.Minute)
			w := newWaiters()
			w.add(t.Context(), p, 0)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*ms, cancel)
			w.add(ctx, p, 1)
			w.add(t.Context(), p, 2)
			w.all.Wait()
			if w.errs[1] == nil {
				require.Equal(t, 100*ms, w.began[1])
				require.Equal(t, 200*ms, w.began[2])
			} else {
				require.NotContains(t, w.began, 1)
				require.Equal(t, 100*ms, w.began[2])
			}
		}
		layerOf[*rateLimit](p).drained(t)
	})
}

func TestNewcomerOvertookAWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 10, Burst: 1, Queue: 100})
		w := newWaiters()
		w.add(t.Context(), p, 0)
		w.add(t.Context(), p, 1)
		for i := 2; i < 40; i++ { // one comes each time a token does, and in between
			time.Sleep(50 * ms)
			w.add(t.Context(), p, i)
		}
		w.all.Wait()
		require.Empty(t, w.errs)
		require.True(t, slices.IsSorted(w.order), w.order)
		for i := range 40 {
			require.Equal(t, time.Duration(i)*100*ms, w.began[i])
		}
	})
}

func TestRateLimitRefusesAtOnceWhatCannotBeServedInTime(t *testing.T) {
	limit := policy.RateLimit{Limit: 10, Burst: 1, Queue: 100, MaxWait: 300 * ms}
	unbounded := policy.RateLimit{Limit: 10, Burst: 1, Queue: 100}
	soon := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 300*ms)
	}
	never := func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }
	for _, row := range []struct {
		name   string
		layers []policy.Config
		within func(context.Context) (context.Context, context.CancelFunc)
		served int // of those who wait
	}{
		{"the longest wait", []policy.Config{limit}, never, 3},
		{"the caller's deadline, boundary excluded", []policy.Config{unbounded}, soon, 2},
		{"our own timeout", []policy.Config{policy.Timeout{Limit: 250 * ms}, unbounded}, never, 2},
		{"the timeout of the attempt", []policy.Config{policy.AttemptTimeout{Limit: 150 * ms}, limit}, never, 1},
		{"the nearest counts", []policy.Config{policy.Timeout{Limit: 250 * ms}, limit}, soon, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, row.layers...)
				_, err := Do(t.Context(), p, nil, succeeds)
				require.NoError(t, err)
				var all sync.WaitGroup
				for range row.served {
					all.Go(func() {
						ctx, cancel := row.within(context.Background())
						defer cancel()
						_, err := Do(ctx, p, nil, succeeds)
						require.NoError(t, err)
					})
					synctest.Wait()
				}
				begin := time.Now()
				call := map[string]func(context.Context) error{
					"with a context": func(ctx context.Context) error { _, err := Do(ctx, p, nil, succeeds); return err },
					"without":        func(ctx context.Context) error { _, err := Do0(ctx, p, nil, noop); return err },
					"asynchronous":   func(ctx context.Context) error { _, err := Go(ctx, p, nil, succeeds).Await(t.Context()); return err },
				}
				for name, do := range call {
					ctx, cancel := row.within(t.Context())
					reason, after := refusedFor(t, do(ctx))
					cancel()
					require.Equal(t, "wait_too_long", reason, name)
					require.Equal(t, time.Duration(row.served+1)*100*ms, after, name)
				}
				require.Zero(t, time.Since(begin), "nobody was kept waiting for it")
				all.Wait()
				layerOf[*rateLimit](p).drained(t)
			})
		})
	}
}

func TestRateLimitNewSettingsTimeWaitersAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 10, Burst: 1, Queue: 10})
		w := newWaiters()
		for i := range 6 {
			w.add(t.Context(), p, i)
		}
		time.Sleep(150 * ms) // 0 and 1 began; the next token is half there
		require.NoError(t, p.Configure("rate_limit", policy.RateLimit{Limit: 100, Burst: 1, Queue: 10}))
		time.Sleep(20 * ms) // faster: 2 after 5 ms, 3 after 15
		require.NoError(t, p.Configure("rate_limit", policy.RateLimit{Limit: 1, Burst: 1, Queue: 10, MaxWait: time.Second}))
		synctest.Wait()
		// slower: 4 has half a second left, half a token being missing; 5 would need one and a half
		require.Len(t, w.errs, 1)
		reason, after := refusedFor(t, w.errs[5])
		require.Equal(t, "wait_too_long", reason)
		require.Equal(t, 1500*ms, after)
		w.all.Wait()
		require.Len(t, w.errs, 1)
		for i, at := range []time.Duration{0, 100 * ms, 155 * ms, 165 * ms, 670 * ms} {
			require.Equal(t, at, w.began[i], "call %d", i)
		}
		layerOf[*rateLimit](p).drained(t)
	})
}

func TestRateLimitSettingsThatLeaveNoTimeSendTheWaiterAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 1, Burst: 1, Queue: 10})
		require.Equal(t, 1, func() int { _, err := Do(t.Context(), p, nil, succeeds); require.NoError(t, err); return 1 }())
		w := newWaiters()
		w.add(t.Context(), p, 0)
		time.Sleep(900 * ms)
		// It waited longer already than is allowed now, and there is a token: it is sent away all the same, without one.
		require.NoError(t, p.Configure("rate_limit", policy.RateLimit{Limit: 1, Burst: 2, Queue: 10, MaxWait: ms}))
		w.all.Wait()
		require.ErrorIs(t, w.errs[0], messages.ErrRateLimited)
		require.Equal(t, 1, spend(t, p), "its token is still there")
	})
}

func TestRateLimitWaitEndsWithItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: 3 * time.Second}, policy.Breaker{Consecutive: 1}, policy.RateLimit{Limit: 1, Burst: 1, Queue: 10})
		require.NoError(t, func() error { _, err := Do(t.Context(), p, nil, succeeds); return err }())
		f := Go(t.Context(), p, nil, succeeds)
		synctest.Wait()
		f.Cancel()
		_, err := f.Await(t.Context())
		require.ErrorIs(t, err, context.Canceled)
		// A wait that was to end in time and does not, because it is made longer meanwhile, is refused when that is known.
		begin := time.Now()
		g := Go(t.Context(), p, nil, succeeds)
		synctest.Wait()
		require.NoError(t, p.Configure("rate_limit", policy.RateLimit{Limit: 1, Per: time.Hour, Burst: 1, Queue: 10}))
		_, err = g.Await(t.Context())
		reason, after := refusedFor(t, err)
		require.Equal(t, "wait_too_long", reason)
		require.Equal(t, time.Hour, after)
		require.Zero(t, time.Since(begin))
		require.Equal(t, policy.Closed, state(p), "none of it says anything about the downstream")
		layerOf[*rateLimit](p).drained(t)
	})
}
