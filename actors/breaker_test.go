package actors

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func state(p *Pipeline) policy.BreakerState { return layerOf[*breaker](p).view.Load().State }

// A sequential caller sees exactly what the core would decide if it were told every outcome one by one.
func TestBreakerIsExactForASequentialCaller(t *testing.T) {
	sys := newSystem(t)
	for i, cfg := range []policy.Breaker{
		{MinCalls: 20, FailureRate: 0.5, Window: 24 * time.Hour}, // time stands still
		{Consecutive: 3, Window: 24 * time.Hour},
		{MinCalls: 20, FailureRate: 0.6, Calls: 30},
		{MinCalls: 1, FailureRate: 0.9, Calls: 7, Consecutive: 6},
	} {
		for round := range 50 {
			p, err := sys.Pipeline(fmt.Sprintf("p-%d-%d", i, round), Spec{Layers: []policy.Config{cfg}})
			require.NoError(t, err)
			model := policy.NewBreaker(cfg.WithDefaults().(policy.Breaker), nil)
			seen := uint64(0)
			for step := range 5000 {
				open := model.Snapshot().State == policy.Open
				bad := rand.Uint32()%100 < 45
				_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) {
					if bad {
						return 0, errBoom
					}
					return 1, nil
				})
				if open {
					require.ErrorIs(t, err, messages.ErrBreakerOpen, "step %d", step)
					break
				}
				require.NotErrorIs(t, err, messages.ErrRejected, "step %d", step)
				fact := policy.BreakerFact{Kind: policy.Ticked, Epoch: 1, Seen: seen, Now: 1}
				if bad {
					fact.Kind = policy.CallFailed
				} else {
					seen++
					fact.Seen = seen
				}
				model.Apply(fact)
			}
		}
	}
}

// Failures that wait in the mailbox must not look consecutive, nor the rate look high, because successes are still
// on their way.
func TestBreakerNeverTripsFalsely(t *testing.T) {
	calls := int64(200_000)
	if testing.Short() {
		calls /= 10
	}
	for name, cfg := range map[string]policy.Breaker{
		// of 1000 calls 50 fail by chance once in 1e19; of fewer, when a busy machine stood still, more often
		"rate": {MinCalls: 1000, FailureRate: 0.05, Window: 100 * time.Millisecond},
		// 64 callers may fail at the same time by chance: a run of 10 at one in a hundred is once in 1e20
		"consecutive": {Consecutive: 10},
		"calls":       {MinCalls: 100, FailureRate: 0.2, Calls: 100},
	} {
		t.Run(name, func(t *testing.T) {
			p := pipelineOf(t, cfg)
			var refused, failures atomic.Int64
			var all sync.WaitGroup
			for g := range 64 {
				all.Go(func() {
					random := rand.New(rand.NewPCG(uint64(g), 1))
					for range calls / 64 {
						bad := random.Uint32()%100 == 0
						_, err := Do0(context.Background(), p, nil, func() (int, error) {
							if bad {
								failures.Add(1)
								return 0, errBoom
							}
							return 1, nil
						})
						if err != nil && err != errBoom { //nolint:errorlint // it is the very error
							refused.Add(1)
						}
					}
				})
			}
			all.Wait()
			require.Positive(t, failures.Load())
			require.Zero(t, refused.Load(), "calls refused by a breaker that should never have opened")
			require.Zero(t, layerOf[*breaker](p).view.Load().Trips)
		})
	}
}

// Failures told without waiting, each followed by a success: never two in a row.
func TestBreakerKeepsTheOrderOfUnawaitedFailures(t *testing.T) {
	p := pipelineOf(t, policy.Breaker{Consecutive: 2, Window: time.Hour})
	b := layerOf[*breaker](p)
	for i := range 20_000 {
		v := b.view.Load()
		b.host.Tell(b.fact(policy.CallFailed, v, p.sys.now()))
		_, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err, "pair %d", i)
	}
	b.host.Tell(b.fact(policy.CallFailed, b.view.Load(), p.sys.now()))
	b.host.Await(t.Context(), b.fact(policy.CallFailed, b.view.Load(), p.sys.now()))
	require.Equal(t, policy.Open, state(p), "and two in a row do trip")
}

func TestBreakerHalfOpenNeverAdmitsTooMany(t *testing.T) {
	const probes = 3
	p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Millisecond, Probes: probes, Successes: probes})
	b := layerOf[*breaker](p)
	var inside, over, probed atomic.Int64
	var all sync.WaitGroup
	until := time.Now().Add(300 * time.Millisecond)
	for g := range 64 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 2))
			for time.Now().Before(until) {
				before := b.view.Load()
				_, _ = Do0(context.Background(), p, nil, func() (int, error) {
					if before.State == policy.HalfOpen && b.view.Load() == before { // admitted under it, and so a probe
						probed.Add(1)
						if inside.Add(1) > probes {
							over.Add(1)
						}
						goruntime.Gosched()
						inside.Add(-1)
					}
					if random.Uint32()%4 == 0 {
						return 0, errBoom
					}
					return 1, nil
				})
				goruntime.Gosched()
			}
		})
	}
	all.Wait()
	require.Greater(t, b.view.Load().Trips, uint64(3), "too few epochs to mean anything")
	require.Positive(t, probed.Load())
	require.Zero(t, b.probes.Load(), "permits come back")
	require.Zero(t, over.Load())
}

func TestBreakerHalfOpenPermitsAreStrict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 2})
		_, _ = Do(t.Context(), p, nil, fails)
		require.Equal(t, policy.Open, state(p))
		_, err := Do(t.Context(), p, nil, succeeds)
		rejected := new(messages.RejectedError)
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, time.Second, rejected.RetryAfter)
		require.Equal(t, "breaker", rejected.By)
		time.Sleep(time.Second)

		release := make(chan error)
		var probes []Future[int]
		for range 2 {
			probes = append(probes, Go(t.Context(), p, nil, func(context.Context) (int, error) { return 1, <-release }))
		}
		synctest.Wait()
		_, err = Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrBreakerOpen, "no third probe at once")
		release <- nil
		release <- errBoom
		for _, f := range probes {
			_, _ = f.Await(t.Context())
		}
		require.Equal(t, policy.Open, state(p), "one failed probe opens again")
		require.Zero(t, layerOf[*breaker](p).probes.Load())
		time.Sleep(time.Second)
		for range 2 {
			_, err = Do(t.Context(), p, nil, succeeds)
			require.NoError(t, err)
		}
		require.Equal(t, policy.Closed, state(p))
	})
}

func TestBreakerIgnoresResultsOfAnEarlierEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1})
		release := make(chan error)
		late := []Future[int]{}
		for range 2 {
			late = append(late, Go(t.Context(), p, nil, func(context.Context) (int, error) { return 1, <-release }))
		}
		synctest.Wait()
		_, _ = Do(t.Context(), p, nil, fails) // opens
		time.Sleep(time.Second)
		b := layerOf[*breaker](p)
		b.host.Await(t.Context(), b.fact(policy.Ticked, b.view.Load(), p.sys.now()))
		require.Equal(t, policy.HalfOpen, state(p))
		release <- nil
		release <- errBoom
		for _, f := range late {
			_, _ = f.Await(t.Context())
		}
		require.Equal(t, policy.HalfOpen, state(p), "a late success must not close it, a late failure not open it")
		require.Zero(t, b.probes.Load())
	})
}

// Successes made while nobody read the shards must expire at their own time, not count when the next failure comes.
func TestBreakerWindowForgetsWhatASleeperCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{MinCalls: 10, FailureRate: 0.5, Window: time.Second})
		for range 3 {
			_, _ = Do(t.Context(), p, nil, succeeds)
			time.Sleep(5 * time.Second)
			require.True(t, layerOf[*breaker](p).view.Load().asleep.Load())
		}
		for range 10_000 {
			_, _ = Do(t.Context(), p, nil, succeeds)
		}
		time.Sleep(5 * time.Second)
		n := 0
		for ; state(p) == policy.Closed; n++ {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		require.Equal(t, 10, n, "opened at the minimum of calls: old successes dilute nothing")
	})
}

func TestBreakerCountsNoCancellationAndNoHopelessInput(t *testing.T) {
	p := pipelineOf(t, policy.Breaker{Consecutive: 1})
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Do(ctx, p, nil, func(ctx context.Context) (int, error) {
			cancel()
			return 0, fmt.Errorf("call: %w", ctx.Err())
		})
		require.ErrorIs(t, err, context.Canceled)
		_, err = Do(t.Context(), p, nil, func(context.Context) (int, error) { return 0, messages.DeadLetterNow(errBoom) })
		require.ErrorIs(t, err, errBoom)
	}
	require.Equal(t, policy.Closed, state(p))
}

// recording is a core that writes down what it is told and what it decided.
type recording struct {
	*policy.BreakerCore
	facts     *[]policy.BreakerFact
	decisions *[]policy.BreakerSnapshot
}

func (c recording) Apply(f policy.BreakerFact) bool {
	changed := c.BreakerCore.Apply(f)
	*c.facts = append(*c.facts, f)
	if changed {
		*c.decisions = append(*c.decisions, c.Snapshot())
	}
	return changed
}

// The facts of a breaker that lived through everything, under load, lead a fresh core to the same decisions.
func TestBreakerReplaysFromItsRecordedFacts(t *testing.T) {
	cfg := policy.Breaker{
		Consecutive: 4, FailureRate: 0.4, MinCalls: 10, Window: 20 * time.Millisecond, SlowCall: 20 * time.Microsecond, SlowRate: 0.9,
		OpenFor: time.Millisecond, OpenMax: 4 * time.Millisecond, OpenJitter: 0.5, Seed: 17,
		Probes: 3, ProbeFailureRate: 0.5, Ramp: []float64{0.3, 0.6}, RampStep: time.Millisecond,
	}.WithDefaults().(policy.Breaker)
	var facts []policy.BreakerFact
	var decisions []policy.BreakerSnapshot
	sys, err := NewSystem(Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	p := &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
	require.NoError(t, p.build(Spec{Layers: []policy.Config{cfg}, Intake: 1}))
	b := layerOf[*breaker](p)
	b.revive = func(cfg policy.Breaker, last *policy.BreakerSnapshot) breakerCore {
		return recording{policy.NewBreaker(cfg, last), &facts, &decisions}
	}
	require.NoError(t, sys.within(b.start))
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 3))
			for range 20_000 {
				_, _ = Do0(context.Background(), p, nil, func() (int, error) {
					if random.Uint32()%3 == 0 {
						return 0, errBoom
					}
					return 1, nil
				})
			}
		})
	}
	all.Go(func() {
		random := rand.New(rand.NewPCG(99, 3))
		for range 200 {
			o := policy.BreakerOrder{Kind: policy.BreakerOrderKind(1 + random.IntN(5)), Reason: "test"}
			if o.Kind <= policy.Disable {
				o.TTL = time.Duration(1 + random.IntN(int(2*time.Millisecond)))
			}
			_ = p.Order(b.name, o)
			time.Sleep(time.Duration(random.IntN(int(time.Millisecond))))
		}
	})
	all.Wait()
	require.Zero(t, b.probes.Load())
	require.NoError(t, sys.Close(context.Background())) // from here on nobody writes
	require.Greater(t, len(decisions), 10)

	var again []policy.BreakerSnapshot
	core := policy.NewBreaker(cfg, nil)
	for _, f := range facts {
		if core.Apply(f) {
			again = append(again, core.Snapshot())
		}
	}
	require.Equal(t, decisions, again)
	t.Logf("%d facts, %d decisions", len(facts), len(decisions))
}

// crasher is a core that panics when it is told to.
type crasher struct {
	*policy.BreakerCore
	crash *atomic.Int64
}

func (c crasher) Apply(f policy.BreakerFact) bool {
	if c.crash.Add(-1) >= 0 {
		panic("core is broken")
	}
	return c.BreakerCore.Apply(f)
}

func TestBreakerSurvivesRestartAndQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{Restarts: RestartPolicy{Initial: time.Second, Max: time.Minute, Budget: 3, HalfLife: time.Hour}, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer func() { require.NoError(t, sys.Close(context.Background())) }()
		events := sys.Events().Subscribe(64, nil)
		crash := new(atomic.Int64)
		p := &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
		p.intake.size = 1
		require.NoError(t, p.build(Spec{Layers: []policy.Config{policy.Breaker{Consecutive: 1, OpenFor: 10 * time.Second, Probes: 1}}, Intake: 1}))
		b := layerOf[*breaker](p)
		b.revive = func(cfg policy.Breaker, last *policy.BreakerSnapshot) breakerCore {
			return crasher{policy.NewBreaker(cfg, last), crash}
		}
		require.NoError(t, sys.within(b.start))

		_, _ = Do(t.Context(), p, nil, fails)
		require.Equal(t, policy.Open, state(p))
		epoch := b.view.Load().Epoch
		time.Sleep(10 * time.Second)
		crash.Store(1)
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err, "a host that failed keeps nobody out for longer than it said")
		require.Equal(t, hostFailed, b.host.status.Load())
		time.Sleep(2 * time.Second)
		require.Equal(t, hostUp, b.host.status.Load())
		require.Equal(t, policy.Open, state(p), "what it decided last is in force")
		require.Greater(t, b.view.Load().Epoch, epoch)

		for b.host.status.Load() != hostGone {
			crash.Store(1)
			b.host.Tell(b.fact(policy.Ticked, b.view.Load(), sys.now()))
			time.Sleep(time.Minute)
		}
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err, "a quarantined breaker that is open goes on to probe")
		require.Zero(t, b.probes.Load())
		var kinds []string
		for len(events.C()) > 0 {
			kinds = append(kinds, string((<-events.C()).Kind))
		}
		require.Equal(t, "breaker.opened actor.restarted actor.restarted actor.restarted actor.quarantined", strings.Join(kinds, " "))
	})
}
