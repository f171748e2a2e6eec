package actors

import (
	"context"
	"errors"
	goruntime "runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

const ms = time.Millisecond

// drained asserts that nobody waits and nothing is held.
func (l *rateLimit) drained(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Zero(t, l.queue.Len())
	require.Zero(t, l.waiting.Load())
	require.Zero(t, l.queued.Load())
	require.Zero(t, l.inside.Load())
}

// refusedFor asserts that err is a rate limit's refusal, and returns why and for how long.
func refusedFor(t *testing.T, err error) (string, time.Duration) {
	t.Helper()
	rejected := new(messages.RejectedError)
	require.ErrorAs(t, err, &rejected)
	require.ErrorIs(t, err, messages.ErrRateLimited)
	require.Equal(t, "rate_limit", rejected.By)
	return rejected.Reason, rejected.RetryAfter
}

// spend takes every token there is.
func spend(t *testing.T, p *Pipeline) (n int) {
	t.Helper()
	for {
		if _, err := Do(t.Context(), p, nil, succeeds); err != nil {
			refusedFor(t, err)
			return n
		}
		n++
	}
}

func TestRateLimitRefusalsTellExactlyWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 3}) // a third of a second is no whole number of nanoseconds
		require.Equal(t, 3, spend(t, p))
		for range 10 {
			_, err := Do(t.Context(), p, nil, fails)
			reason, after := refusedFor(t, err)
			require.Equal(t, "limited", reason)
			time.Sleep(after - 1)
			_, err = Do(t.Context(), p, nil, fails)
			_, left := refusedFor(t, err)
			require.EqualValues(t, 1, left)
			time.Sleep(1)
			_, err = Do(t.Context(), p, nil, fails)
			require.Equal(t, errBoom, err, "a failure spends a token like any call")
		}
		time.Sleep(time.Hour)
		require.Equal(t, 3, spend(t, p), "a pause regains the burst and no more")
	})
}

// waiters starts n calls that wait, one after another, and returns when each began.
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

func TestRateLimitSettingsKeepWhatWasSpentLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 10})
		for range 4 {
			_, err := Do(t.Context(), p, nil, succeeds)
			require.NoError(t, err)
		}
		require.NoError(t, p.Configure("rate_limit", policy.RateLimit{Limit: 1, Burst: 10}))
		require.Equal(t, 6, spend(t, p))
		require.NoError(t, p.Configure("rate_limit", policy.RateLimit{Limit: 1000, Burst: 10}))
		require.Zero(t, spend(t, p))
		require.NoError(t, p.Configure("rate_limit", policy.RateLimit{Limit: 1000, Burst: 15}))
		require.Equal(t, 5, spend(t, p))
		require.ErrorIs(t, p.Configure("rate_limit", policy.Bulkhead{}), messages.ErrInvalid)
	})
}

func TestRateLimitSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := policy.RateLimit{Limit: 1, Per: time.Hour, Burst: 2, Queue: 3}
		p, crash := crashing[*rateLimit](t, cfg, func(l *rateLimit) *func(policy.RateLimit) { return &l.changed })
		l := layerOf[*rateLimit](p)
		w := newWaiters()
		for i := range 4 {
			w.add(t.Context(), p, i)
		}
		crash.Store(1)
		l.host.Tell(*l.settings.Load())
		require.Equal(t, hostFailed, l.host.status.Load())
		time.Sleep(time.Minute)
		require.Equal(t, hostUp, l.host.status.Load())
		require.Len(t, w.began, 2, "what was spent is spent")
		w.add(t.Context(), p, 4)
		w.all.Wait()
		require.Empty(t, w.errs)
		require.Equal(t, []int{0, 1, 2, 3, 4}, w.order)
		require.Equal(t, 2*time.Hour, w.began[3])
		l.drained(t)
	})
}

// From 64 goroutines, with waits, cancellations and new settings of the same rate: never more than the limit.
func TestRateLimitNeverAdmitsTooMany(t *testing.T) {
	for name, cfg := range map[string]policy.RateLimit{
		"refusing": {Limit: 2000, Burst: 20},
		"waiting":  {Limit: 2000, Burst: 20, Queue: 30},
		"smooth":   {Limit: 2000, Smooth: true, Queue: 30, MaxWait: 5 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			p := pipelineOf(t, cfg)
			l := layerOf[*rateLimit](p)
			var began []time.Time
			var mu sync.Mutex
			var refused, left atomic.Int64
			var all sync.WaitGroup
			first := time.Now()
			until := first.Add(300 * ms)
			for g := range 64 {
				all.Go(func() {
					for i := 0; time.Now().Before(until); i++ {
						ctx, cancel := context.WithCancel(context.Background())
						if cfg.Queue > 0 && i%3 == 0 {
							ctx, cancel = context.WithCancel(ctx)
							time.AfterFunc(time.Duration(i%7)*100*time.Microsecond, cancel)
						}
						_, err := Do0(ctx, p, nil, func() (int, error) {
							mu.Lock()
							began = append(began, time.Now())
							mu.Unlock()
							return 1, nil
						})
						switch {
						case errors.Is(err, messages.ErrRateLimited):
							refused.Add(1)
						case errors.Is(err, context.Canceled):
							left.Add(1)
						}
						cancel()
						if g == 0 && i%50 == 0 { // other settings with the same rate
							again := cfg
							again.MaxWait = time.Duration(20+i%3) * ms
							_ = p.Configure("rate_limit", again)
						}
						goruntime.Gosched()
					}
				})
			}
			all.Wait()
			took := time.Since(first)
			burst := max(cfg.Burst, 1)
			require.LessOrEqual(t, float64(len(began)), float64(burst)+took.Seconds()*float64(cfg.Limit))
			require.Greater(t, len(began), burst)
			require.Positive(t, refused.Load())
			t.Logf("%d began in %v, %d refused, %d left", len(began), took, refused.Load(), left.Load())
			l.drained(t)
		})
	}
}

func TestRateLimitHoldsNothingAfterAnyMixOfEndings(t *testing.T) {
	p := pipelineOf(t, policy.Timeout{Limit: 50 * ms}, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.RateLimit{Limit: 1000, Burst: 3, Queue: 4, MaxWait: 2 * ms})
	var ran, refused atomic.Int64
	var all sync.WaitGroup
	for g := range 32 {
		all.Go(func() {
			for i := range 60 {
				ctx, cancel := context.WithCancel(context.Background())
				fn := func(context.Context) (int, error) { ran.Add(1); return ending(i, cancel) }
				var one sync.WaitGroup
				one.Go(func() { // its own goroutine: Goexit ends it
					var err error
					if (g+i)%2 == 0 {
						_, err = Do(ctx, p, nil, fn)
					} else {
						_, err = Go(ctx, p, nil, fn).Await(context.Background())
					}
					if errors.Is(err, messages.ErrRateLimited) {
						refused.Add(1)
					}
				})
				if i%4 == 0 {
					goruntime.Gosched()
					cancel()
				}
				one.Wait()
				cancel()
			}
		})
	}
	all.Wait()
	require.Positive(t, ran.Load())
	require.Positive(t, refused.Load())
	require.Eventually(t, func() bool { used, _ := p.InFlight(); return used == 0 }, 5*time.Second, ms)
	layerOf[*rateLimit](p).drained(t)
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

func TestRateLimitWithPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.RateLimit{Limit: 10, Burst: 1, Queue: 1})
		begin := time.Now()
		for i := range 5 {
			permit, err := Acquire(t.Context(), p, nil)
			require.NoError(t, err)
			require.Equal(t, time.Duration(i)*100*ms, time.Since(begin))
			permit.Done([]error{nil, errBoom}[i%2])
			permit.Done(nil)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*ms, cancel)
		_, err := Acquire(ctx, p, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 450*ms, time.Since(begin))
		layerOf[*rateLimit](p).drained(t)
		require.Zero(t, p.inFlight())
	})
}

func TestRateLimitOnlyObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.RateLimit{Limit: 1}}, Observe: true})
		events := p.sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.PolicyObserved })
		require.Empty(t, Try(t.Context(), p, nil, succeeds).Observed())
		require.Equal(t, []string{"rate_limit"}, Try(t.Context(), p, nil, succeeds).Observed())
		require.Equal(t, "would have refused", (<-events.C()).Reason)
		n, _, _ := p.Room("")
		require.Equal(t, 256, n)
		require.NoError(t, p.Configure("rate_limit", policy.RateLimit{Limit: 1, Queue: 5}))
		begin := time.Now()
		require.Equal(t, []string{"rate_limit"}, Try(t.Context(), p, nil, succeeds).Observed())
		require.Zero(t, time.Since(begin), "it waits not")
		require.NoError(t, p.Observe("", false))
		_, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(begin), "those it let pass spent nothing")
	})
}

// Tasks are fetched as far as there are tokens for them, those on their way to the limit included.
func TestRoomKnowsTheRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Bulkhead{Permits: 100}, policy.RateLimit{Limit: 10})
		n, wait, why := p.Room("")
		require.Equal(t, 10, n)
		require.Zero(t, wait)
		require.Empty(t, why)

		require.Equal(t, 4, p.Reserve(4)) // being fetched
		n, _, _ = p.Room("")
		require.Equal(t, 6, n)
		p.Release(4)

		release := make(chan struct{})
		var held []Future[int]
		for range 8 {
			held = append(held, Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil }))
		}
		synctest.Wait()
		n, _, _ = p.Room("")
		require.Equal(t, 2, n, "long calls that have their tokens stand in nobody's way")
		time.Sleep(time.Second)
		n, _, _ = p.Room("")
		require.Equal(t, 10, n)

		require.Equal(t, 10, p.Reserve(10))
		n, wait, why = p.Room("")
		require.Zero(t, n)
		require.Equal(t, 100*ms, wait, "until there is a token for one more")
		require.Equal(t, "rate_limit", why)
		p.Release(10)
		require.Equal(t, 10, spend(t, p))
		n, wait, why = p.Room("")
		require.Zero(t, n)
		require.Equal(t, 100*ms, wait)
		require.Equal(t, "rate_limit", why)
		close(release)
		for _, f := range held {
			_, _ = f.Await(t.Context())
		}
		layerOf[*rateLimit](p).drained(t)
	})
}
