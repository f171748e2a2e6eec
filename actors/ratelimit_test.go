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

// drained asserts that nobody waits and nothing is held.
func (l *rateLimit) drained(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.True(t, l.queue == nil || l.queue.Len() == 0)
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
			time.Sleep(time.Nanosecond)
			_, err = Do(t.Context(), p, nil, fails)
			require.Equal(t, errBoom, err, "a failure spends a token like any call")
		}
		time.Sleep(time.Hour)
		require.Equal(t, 3, spend(t, p), "a pause regains the burst and no more")
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
			burst := max(cfg.Burst, 1)
			first := time.Now()
			enough := func() bool { // on a busy machine it takes longer until something happened
				took := time.Since(first)
				mu.Lock()
				defer mu.Unlock()
				return took > 10*time.Second || took > 300*ms && len(began) > burst && refused.Load() > 0
			}
			for g := range 64 {
				all.Go(func() {
					for i := 0; !enough(); i++ {
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
				fn := func(context.Context) (int, error) { ran.Add(1); return exit(i, cancel) }
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
