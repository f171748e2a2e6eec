package actors

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// toldCore is a core that writes down what it is told and what it decided, and panics when it is told to.
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
	p := &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
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
		untilIdle()
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
		untilIdle()
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
		untilIdle()
		require.NoError(t, sys.Close(context.Background()))
	})
}

func TestAdaptiveTellsWhenTheLimitMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer untilIdle()
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
			move := e.Data.(messages.LimitMove)
			require.Equal(t, at, move.From)
			require.NotEqual(t, at, move.To)
			at = move.To
			if len(events.C()) == 0 {
				limit, _ := p.Limit("adaptive")
				require.InDelta(t, limit, at, 3, "where it came to in the end is told")
			}
		}
	})
}
