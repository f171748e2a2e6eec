package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	require.EqualValues(t, a.view.Load().Permits, a.size)
	require.Equal(t, a.size, a.count())
	require.Zero(t, a.debt.Load())
	require.Zero(t, a.waiting.Load())
	require.Empty(t, a.queue)
	require.Zero(t, p.inFlight())
}

func TestAdaptiveFindsTheLimitOfALiveDownstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	var inside, over, refused, ran atomic.Int64
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			for i := range 300 {
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if i%7 == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(g)*time.Microsecond)
				}
				_, err := Do0(ctx, p, nil, func() (int, error) {
					if inside.Add(1) > 5 {
						over.Add(1)
					}
					goruntime.Gosched()
					inside.Add(-1)
					ran.Add(1)
					return 1, nil
				})
				if errors.Is(err, messages.ErrOverloaded) {
					refused.Add(1)
				}
				cancel()
			}
		})
	}
	all.Wait()
	require.Zero(t, over.Load())
	require.Positive(t, ran.Load())
	require.Positive(t, refused.Load())
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

func TestAdaptiveRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
		require.Equal(t, "waited too long", refused.Reason)
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

// told is a core that writes down what it is told and what it decided, and panics when it is told to.
type toldCore struct {
	*policy.AdaptiveCore
	log *adaptiveLog
}

type adaptiveLog struct {
	facts     []policy.AdaptiveFact
	decisions []policy.AdaptiveSnapshot
	crash     atomic.Int64
	applied   atomic.Int64
}

func (c toldCore) Apply(f policy.AdaptiveFact) bool {
	if c.log.crash.Add(-1) >= 0 {
		panic("core is broken")
	}
	c.log.applied.Add(1)
	changed := c.AdaptiveCore.Apply(f)
	c.log.facts = append(c.log.facts, f)
	if changed {
		c.log.decisions = append(c.log.decisions, c.Snapshot())
	}
	return changed
}

// loggedAdaptive is a pipeline of one adaptive limit whose core is written down.
func loggedAdaptive(t *testing.T, sys *System, cfg policy.Adaptive) (*Pipeline, *adaptiveLog) {
	t.Helper()
	log := &adaptiveLog{}
	p := &Pipeline{sys: sys, name: "p"}
	p.intake.size = 256
	require.NoError(t, p.build(Spec{Layers: []policy.Config{cfg}, Intake: 256}))
	a := layerOf[*adaptive](p)
	a.revive = func(cfg policy.Adaptive, last *policy.AdaptiveSnapshot) adaptiveCore {
		return toldCore{policy.NewAdaptive(cfg, last), log}
	}
	require.NoError(t, sys.within(a.start))
	return p, log
}

func TestAdaptiveTellsItsActorNothingOnSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		p, log := loggedAdaptive(t, sys, policy.Adaptive{})
		for range 10_000 {
			_, _ = Do(t.Context(), p, nil, succeeds)
		}
		require.EqualValues(t, 1, log.applied.Load(), "the first one after a silence is told")
		time.Sleep(time.Hour)
		require.Less(t, log.applied.Load(), int64(20), "no ticks when idle")
		require.True(t, layerOf[*adaptive](p).view.Load().asleep.Load())
		before := log.applied.Load()
		_, _ = Do(t.Context(), p, nil, succeeds)
		require.Equal(t, before+1, log.applied.Load(), "and it wakes up")
		time.Sleep(time.Second)
		require.Greater(t, log.applied.Load(), before+1)
		require.NoError(t, sys.Close(context.Background()))
	})
}

// The facts of a limit that lived through load and probes lead a fresh core to the same decisions.
func TestAdaptiveReplaysFromItsRecordedFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := bare(t)
		cfg := policy.Adaptive{Initial: 30, Queue: 64, Probe: time.Second, Seed: 7}.WithDefaults().(policy.Adaptive)
		p, log := loggedAdaptive(t, sys, cfg)
		d := &shared{base: 5 * time.Millisecond}
		d.capacity.Store(6)
		var all sync.WaitGroup
		for g := range 40 {
			all.Go(func() {
				random := rand.New(rand.NewPCG(uint64(g), 5))
				for range 500 {
					_, _ = Do(context.Background(), p, nil, func(ctx context.Context) (int, error) {
						if random.Uint32()%2000 == 0 {
							return 0, context.DeadlineExceeded
						}
						return d.serve(ctx)
					})
				}
			})
		}
		all.Wait()
		require.NoError(t, sys.Close(context.Background()))
		last := log.decisions[len(log.decisions)-1]
		require.Greater(t, last.Probes, uint64(2))
		require.Positive(t, last.Backoffs)
		var again []policy.AdaptiveSnapshot
		core := policy.NewAdaptive(cfg, nil)
		for _, f := range log.facts {
			if core.Apply(f) {
				again = append(again, core.Snapshot())
			}
		}
		require.Equal(t, log.decisions, again)
	})
}

func TestAdaptiveSurvivesRestartAndQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{Restarts: RestartPolicy{Initial: time.Second, Max: time.Minute, Budget: 3, HalfLife: time.Hour}, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		p, log := loggedAdaptive(t, sys, policy.Adaptive{Initial: 50, Queue: 200, Seed: 3})
		a := layerOf[*adaptive](p)
		d := &shared{base: 200 * time.Millisecond}
		d.capacity.Store(20)
		var over atomic.Bool
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				for !over.Load() {
					_, err := Do(context.Background(), p, nil, d.serve)
					require.NoError(t, err)
				}
			})
		}
		time.Sleep(20 * time.Second)
		before := a.view.Load().AdaptiveSnapshot
		require.NotEqual(t, 50, before.Limit)
		log.crash.Store(1)
		for a.host.status.Load() != hostFailed {
			time.Sleep(10 * time.Millisecond)
		}
		failed := a.view.Load().AdaptiveSnapshot
		time.Sleep(500 * time.Millisecond)
		d.most.Store(0)
		time.Sleep(400 * time.Millisecond) // the limit is kept while it is down
		require.LessOrEqual(t, d.most.Load(), int64(failed.Permits))
		for a.host.status.Load() != hostUp {
			time.Sleep(time.Millisecond)
		}
		again := a.view.Load().AdaptiveSnapshot
		require.Equal(t, failed.Limit, again.Limit, "what it found last is in force")
		require.Equal(t, failed.Baseline, again.Baseline)
		require.Greater(t, again.Epoch, failed.Epoch)
		time.Sleep(10 * time.Second)
		d.most.Store(0)
		time.Sleep(time.Second)
		limit, _ := p.Limit("adaptive")
		require.GreaterOrEqual(t, limit, 20)
		require.LessOrEqual(t, d.most.Load(), int64(60), "permits in use were not forgotten")

		for a.view.Load().Permits == a.view.Load().Limit { // until it probes
			time.Sleep(time.Millisecond)
		}
		for a.host.status.Load() != hostGone {
			log.crash.Store(1)
			a.host.Tell(a.view.Load().fact(sys.now()))
			if v := a.view.Load(); a.host.status.Load() == hostGone {
				require.Less(t, v.Permits, v.Limit, "in the middle of a probe")
				break
			}
			time.Sleep(time.Minute)
			for a.host.status.Load() == hostUp && a.view.Load().Permits == a.view.Load().Limit {
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(10 * time.Second)
		v := a.view.Load()
		require.Equal(t, v.Limit, v.Permits, "a probe that nobody ends does not keep the limit down")
		over.Store(true)
		all.Wait()
		requireIdle(t, p)
		require.NoError(t, sys.Close(context.Background()))
	})
}

func TestAdaptiveTellsWhenTheLimitMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Adaptive{Queue: 64}}})
		events := sys.Events().Subscribe(256, func(e messages.Event) bool { return e.Kind == messages.LimitChanged })
		d := &shared{base: 10 * time.Millisecond}
		d.capacity.Store(5)
		begin := time.Now()
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for time.Since(begin) < 20*time.Second {
					_, _ = Do(context.Background(), p, nil, d.serve)
				}
			})
		}
		all.Wait()
		synctest.Wait()
		require.GreaterOrEqual(t, len(events.C()), 3)
		require.LessOrEqual(t, len(events.C()), 21, "once a second at most")
		for at := 20; len(events.C()) > 0; {
			e := <-events.C()
			require.Equal(t, "adaptive", e.Source)
			require.Equal(t, "p", e.Pipeline)
			require.Equal(t, at, e.Data["from"])
			require.NotEqual(t, at, e.Data["to"])
			at = e.Data["to"].(int)
		}
	})
}
