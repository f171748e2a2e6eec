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

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// shared is a downstream that calls share once there are more than its capacity.
type shared struct {
	base     time.Duration
	capacity atomic.Int64
	running  atomic.Int64
	most     atomic.Int64 // at once, since it was last set to 0
}

func (d *shared) serve(context.Context) (int, error) {
	n := d.running.Add(1)
	defer d.running.Add(-1)
	for was := d.most.Load(); n > was && !d.most.CompareAndSwap(was, n); was = d.most.Load() {
	}
	time.Sleep(d.base * time.Duration(max(n, d.capacity.Load())) / time.Duration(d.capacity.Load()))
	return 1, nil
}

func samplesOf(p *Pipeline) (count, drops uint64) {
	v := layerOf[*adaptive](p).view.Load()
	count, _ = v.sum()
	return count, v.drops.Load()
}

// requireIdle checks that all permits are back and nobody is left waiting.
func requireIdle(t *testing.T, p *Pipeline) {
	t.Helper()
	a := layerOf[*adaptive](p)
	a.sizing.Lock()
	defer a.sizing.Unlock()
	require.EqualValues(t, a.view.Load().Permits, a.size)
	require.Equal(t, a.size, a.count())
	require.Zero(t, a.owed.Load())
	require.Empty(t, a.queue)
	require.Zero(t, p.inFlight())
}

// untilIdle lets a limit fall asleep, so that no tick is on its way to an actor that stops.
func untilIdle() { time.Sleep(time.Minute) }

func TestAdaptiveFindsTheLimitOfALiveDownstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Queue: 64, Seed: 1})
		d := &shared{base: 50 * time.Millisecond}
		d.capacity.Store(10)
		var over atomic.Bool
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for !over.Load() {
					_, err := Do(context.Background(), p, nil, d.serve)
					require.NoError(t, err)
				}
			})
		}
		settled := func(low, high int) {
			t.Helper()
			for range 10 {
				time.Sleep(time.Second)
				limit, ok := p.Limit("adaptive")
				require.True(t, ok)
				require.GreaterOrEqual(t, limit, low)
				require.LessOrEqual(t, limit, high)
			}
		}
		time.Sleep(30 * time.Second)
		d.most.Store(0)
		settled(10, 28)
		require.LessOrEqual(t, d.most.Load(), int64(28))
		d.capacity.Store(3)
		time.Sleep(30 * time.Second)
		settled(3, 13)
		d.capacity.Store(25)
		time.Sleep(30 * time.Second)
		settled(25, 60)
		over.Store(true)
		all.Wait()
		requireIdle(t, p)
		_, ok := p.Limit("bulkhead")
		require.False(t, ok)
	})
}

func TestAdaptiveNeverAdmitsMoreThanItsLimit(t *testing.T) {
	p := pipelineOf(t, policy.Adaptive{Min: 5, Max: 5, Queue: 40})
	var inside, over, ran atomic.Int64
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			for i := range 300 {
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if i%7 == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(g)*time.Microsecond)
				}
				_, _ = Do0(ctx, p, nil, func() (int, error) {
					if inside.Add(1) > 5 {
						over.Add(1)
					}
					goruntime.Gosched()
					inside.Add(-1)
					ran.Add(1)
					return 1, nil
				})
				cancel()
			}
		})
	}
	all.Wait()
	require.Zero(t, over.Load())
	require.Positive(t, ran.Load())
	requireIdle(t, p)
}

func TestAdaptivePermitsComeBackAfterAnyMixOfEndings(t *testing.T) {
	p := pipelineOf(t, policy.Timeout{Limit: 20 * time.Millisecond}, policy.Adaptive{Initial: 4, Max: 6, Queue: 16, Overload: func(err error) bool {
		if errors.Is(err, context.Canceled) {
			panic("predicate")
		}
		return true
	}}, policy.AttemptTimeout{Limit: 10 * time.Millisecond})
	var endings [6]atomic.Int64
	var all sync.WaitGroup
	for g := range 32 {
		all.Go(func() {
			for i := range 60 {
				kind := (g*7 + i) % 6
				fn := func(ctx context.Context) (int, error) {
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
						return 0, context.Canceled // the predicate panics on it
					}
					return 1, nil
				}
				ctx, cancel := context.WithCancel(context.Background())
				var one sync.WaitGroup
				one.Go(func() { // its own goroutine: Goexit ends it
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
	for kind := range endings {
		require.Positive(t, endings[kind].Load())
	}
	require.Eventually(t, func() bool { return p.inFlight() == 0 }, 5*time.Second, time.Millisecond)
	a := layerOf[*adaptive](p)
	require.NoError(t, p.Configure("adaptive", policy.Adaptive{Min: 5, Max: 5})) // no probe is going on
	require.EqualValues(t, 5, a.count())
	requireIdle(t, p)
}

// What is a sample, what means overload, and what says nothing.
func TestAdaptiveSamples(t *testing.T) {
	waits := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
	late := func(context.Context) (int, error) { time.Sleep(2 * time.Second); return 1, nil }
	busy := func(err error) bool { return errors.Is(err, errBoom) }
	for _, row := range []struct {
		name         string
		layers       []policy.Config
		fn           func(context.Context) (int, error)
		count, drops uint64
	}{
		{"success", []policy.Config{policy.Adaptive{}}, succeeds, 1, 0},
		{"failure", []policy.Config{policy.Adaptive{}}, fails, 0, 0},
		{"panic", []policy.Config{policy.Adaptive{}}, func(context.Context) (int, error) { panic("x") }, 0, 0},
		{"failure that is overload", []policy.Config{policy.Adaptive{Overload: busy}}, fails, 0, 1},
		{"failure that is not", []policy.Config{policy.Adaptive{Overload: busy}}, ctxFails(context.DeadlineExceeded), 0, 0},
		{"the function's own deadline", []policy.Config{policy.Adaptive{}}, ctxFails(fmt.Errorf("call: %w", context.DeadlineExceeded)), 0, 1},
		{"timeout inside", []policy.Config{policy.Adaptive{Overload: busy}, policy.AttemptTimeout{Limit: time.Second}}, waits, 0, 1},
		{"timeout around", []policy.Config{policy.Timeout{Limit: time.Second}, policy.Adaptive{Overload: busy}}, waits, 0, 1},
		{"value too late", []policy.Config{policy.Timeout{Limit: time.Second}, policy.Adaptive{}}, late, 0, 1},
		{"refusal inside", []policy.Config{policy.Adaptive{}, policy.Breaker{Consecutive: 1}}, nil, 0, 0},
		{"fallback inside", []policy.Config{policy.Adaptive{}, policy.FallbackValue(1)}, fails, 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer untilIdle()
				p := pipelineOf(t, row.layers...)
				if row.fn == nil {
					_, _ = Do(t.Context(), p, nil, fails)
					row.fn = succeeds
				}
				_, _ = Do(t.Context(), p, nil, row.fn)
				count, drops := samplesOf(p)
				require.Equal(t, row.count, count)
				require.Equal(t, row.drops, drops)
				requireIdle(t, p)
			})
		})
	}
}

func TestAdaptiveCountsNoCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Overload: func(error) bool { return true }})
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Do(ctx, p, nil, func(ctx context.Context) (int, error) { cancel(); return 0, ctx.Err() })
		require.ErrorIs(t, err, context.Canceled)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = Do(ctx, p, nil, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		count, drops := samplesOf(p)
		require.Zero(t, count)
		require.Zero(t, drops)
		requireIdle(t, p)
	})
}

func TestAdaptiveLatencyIsThatOfTheFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Min: 1, Max: 1, Queue: 9})
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				_, _ = Do0(t.Context(), p, nil, func() (int, error) { time.Sleep(time.Second); return 1, nil })
			})
		}
		all.Wait()
		count, sum := layerOf[*adaptive](p).view.Load().sum()
		require.EqualValues(t, 5, count)
		require.Equal(t, 5*time.Second, time.Duration(sum), "without the wait for a permit")
	})
}

// A call that waited counts in the epoch in which it was let in, one that was in already in its own.
func TestAdaptiveCountsACallWhereItWasAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Min: 1, Max: 1, Queue: 1})
		a := layerOf[*adaptive](p)
		var held []Future[int]
		for range 2 {
			held = append(held, Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil }))
			synctest.Wait()
		}
		old := a.view.Load()
		require.NoError(t, p.Configure("adaptive", policy.Adaptive{Min: 1, Max: 1}))
		require.NotEqual(t, old.Epoch, a.view.Load().Epoch)
		for _, f := range held {
			_, err := f.Await(t.Context())
			require.NoError(t, err)
		}
		count, _ := old.sum()
		require.EqualValues(t, 1, count)
		count, _ = samplesOf(p)
		require.EqualValues(t, 1, count)
	})
}

// Calls that run are counted even when none is refused.
func TestAdaptiveGrowsOnlyWhenHalfOfItIsUsed(t *testing.T) {
	for _, row := range []struct{ callers, low, high int }{{8, 20, 20}, {18, 34, 44}} {
		synctest.Test(t, func(t *testing.T) {
			defer untilIdle()
			p := pipelineOf(t, policy.Adaptive{})
			begin := time.Now()
			var all sync.WaitGroup
			for range row.callers {
				all.Go(func() {
					for time.Since(begin) < 20*time.Second {
						_, err := Do0(context.Background(), p, nil, func() (int, error) { time.Sleep(50 * time.Millisecond); return 1, nil })
						require.NoError(t, err)
					}
				})
			}
			all.Wait()
			limit, _ := p.Limit("adaptive")
			require.GreaterOrEqual(t, limit, row.low)
			require.LessOrEqual(t, limit, row.high)
		})
	}
}

func TestAdaptiveRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Timeout{Limit: time.Minute}, policy.Adaptive{Min: 1, Max: 1, Queue: 1, MaxWait: time.Second})
		release := make(chan struct{})
		busy := func(context.Context) (int, error) { <-release; return 1, nil }
		held := Go(t.Context(), p, nil, busy)
		synctest.Wait()
		waiting := Go(t.Context(), p, nil, busy)
		synctest.Wait()
		_, err := Do(t.Context(), p, nil, busy)
		require.ErrorIs(t, err, messages.ErrOverloaded)
		require.ErrorIs(t, err, messages.ErrRejected)
		refused := new(messages.RejectedError)
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "adaptive", refused.By)
		require.Equal(t, "full", refused.Reason)
		begin := time.Now()
		_, err = waiting.Await(t.Context())
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "wait_too_long", refused.Reason)
		require.Equal(t, time.Second, time.Since(begin))

		require.NoError(t, p.Configure("adaptive", policy.Adaptive{Min: 1, Max: 1, Queue: 1}))
		ctx, cancel := context.WithCancel(t.Context())
		leaving := Go(ctx, p, nil, busy)
		synctest.Wait()
		cancel()
		_, err = leaving.Await(t.Context())
		require.ErrorIs(t, err, context.Canceled, "a waiter that leaves")
		begin = time.Now()
		r := Try(t.Context(), p, nil, busy)
		require.Equal(t, messages.Timeout, r.Outcome, "the wait was ended by a limit of ours")
		_, err = Do0(t.Context(), p, nil, func() (int, error) { return 1, nil })
		require.ErrorIs(t, err, messages.ErrTimeout, "without a context too")
		require.Equal(t, 2*time.Minute, time.Since(begin))
		close(release)
		_, _ = held.Await(t.Context())
		synctest.Wait()
		requireIdle(t, p)
	})
}

func TestAdaptiveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Min: 3, Max: 3, Queue: 2})
		room := func() int { n, _, _ := p.Room("t"); return n }
		require.Equal(t, 5, room())
		release := make(chan struct{})
		var held []Future[int]
		for want := 4; want >= 0; want-- {
			held = append(held, Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil }))
			synctest.Wait()
			require.Equal(t, want, room())
		}
		n, wait, why := p.Room("t")
		require.Zero(t, n)
		require.Positive(t, wait)
		require.Empty(t, why, "full is nobody's fault")
		close(release)
		for _, f := range held {
			_, _ = f.Await(t.Context())
		}
		require.Equal(t, 5, room())
	})
}

// Settings change while permits are out: what was taken away comes back first, and the limit that was found stays.
func TestAdaptiveKeepsItsLimitWhenConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Initial: 4})
		a := layerOf[*adaptive](p)
		release := make(chan struct{})
		var held []Future[int]
		for range 4 {
			held = append(held, Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil }))
		}
		synctest.Wait()
		require.NoError(t, p.Configure("adaptive", policy.Adaptive{Initial: 99}))
		limit, _ := p.Limit("adaptive")
		require.Equal(t, 4, limit)
		require.NoError(t, p.Configure("adaptive", policy.Adaptive{Max: 1}))
		limit, _ = p.Limit("adaptive")
		require.Equal(t, 1, limit)
		require.EqualValues(t, -3, a.count())
		close(release)
		for _, f := range held {
			_, err := f.Await(t.Context())
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, a.count())
		synctest.Wait()
		require.NoError(t, p.Configure("adaptive", policy.Adaptive{Min: 7}))
		require.EqualValues(t, 7, a.count())
		requireIdle(t, p)
		require.ErrorIs(t, p.Configure("adaptive", policy.Bulkhead{}), messages.ErrInvalid)
		require.ErrorIs(t, p.Configure("adaptive", policy.Adaptive{Min: -1}), messages.ErrInvalid)
	})
}

// One that only observes lets all in at once, counts them, tells what it would have done, and goes on learning.
func TestAdaptiveThatOnlyObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Adaptive{Initial: 2, Queue: 1}}, Observe: true})
		a := layerOf[*adaptive](p)
		events := sys.Events().Subscribe(64, func(e messages.Event) bool { return e.Kind == messages.PolicyObserved })
		release := make(chan struct{})
		var held []Future[int]
		for range 5 {
			held = append(held, Go(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 1, nil }))
		}
		synctest.Wait()
		require.EqualValues(t, -3, a.count(), "five run, two may")
		require.EqualValues(t, 3, a.view.Load().high.Load(), "more than the limit: a probe must know")
		require.Equal(t, "would have made it wait", (<-events.C()).Reason)
		n, _, _ := p.Room("t")
		require.Equal(t, 251, n, "it keeps no task out")
		require.NoError(t, p.Observe("adaptive", false))
		waiting := Go(t.Context(), p, nil, succeeds)
		synctest.Wait()
		_, err := Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrOverloaded, "in force again, with those that run")
		close(release)
		over := 0
		for _, f := range append(held, waiting) {
			r := f.Result(t.Context())
			require.NoError(t, r.Err)
			over += len(r.Observed())
		}
		require.Equal(t, 3, over)
		synctest.Wait()
		requireIdle(t, p)
		count, _ := samplesOf(p)
		require.EqualValues(t, 6, count, "it learns from all of them")
	})
}

func TestAdaptiveObservedUnderLoad(t *testing.T) {
	p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Adaptive{Min: 3, Max: 3}}, Observe: true})
	var ran atomic.Int64
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for i := range 2000 {
				if g == 0 && i%10 == 0 {
					_ = p.Observe("adaptive", i%20 == 0)
				}
				_, err := Do0(context.Background(), p, nil, func() (int, error) { goruntime.Gosched(); return 1, nil })
				if err == nil {
					ran.Add(1)
				}
			}
		})
	}
	all.Wait()
	require.Positive(t, ran.Load())
	requireIdle(t, p)
}

func TestAdaptivePermitInTwoSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
		p := pipelineOf(t, policy.Adaptive{Min: 2, Max: 2})
		one, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		two, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		_, err = Acquire(t.Context(), p, nil)
		require.ErrorIs(t, err, messages.ErrOverloaded)
		time.Sleep(time.Second)
		one.Done(nil)
		one.Done(nil)
		two.Done(context.DeadlineExceeded)
		count, sum := layerOf[*adaptive](p).view.Load().sum()
		require.EqualValues(t, 1, count)
		require.Equal(t, time.Second, time.Duration(sum))
		_, drops := samplesOf(p)
		require.EqualValues(t, 1, drops)
		requireIdle(t, p)
	})
}
