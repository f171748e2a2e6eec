package actors

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Many configure at once, and the actors they tell panic meanwhile.

// everyLayer is settings for one layer of each kind of ours, different ones for each i.
func everyLayer(i int) []policy.Config {
	d := time.Duration(i+1) * time.Second
	return []policy.Config{
		answering(-int64(i + 1)),
		policy.Cache{Key: orderKey, TTL: d},
		policy.RateLimit{Limit: 1_000_000 + i},
		policy.Shed{Limit: 1000 + i},
		policy.Timeout{Limit: time.Hour + d},
		policy.Idempotency{Hold: time.Hour + d, Max: 1000 + i},
		policy.Throttle{Window: 2*time.Second + d, MinRequests: 1 << 30},
		retryBy(2+i, policy.RetryBudget{Ratio: float64(i%9+1) / 10, MinPerSecond: 1e6}),
		policy.Hedge{Idempotent: true, Delay: time.Hour + d},
		policy.Breaker{Consecutive: 1<<20 + i},
		policy.Adaptive{Min: 500, Initial: 500, Max: 1000 + i, Seed: 1},
		policy.Bulkhead{Permits: 1000 + i},
		policy.AttemptTimeout{Limit: time.Hour + d},
	}
}

// fragilePipeline is one of every layer whose actors panic on what they are told next, as often as crash says.
func fragilePipeline(t *testing.T, restarts RestartPolicy) (p *Pipeline, crash *atomic.Int64) {
	t.Helper()
	sys, err := NewSystem(Options{Restarts: restarts, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sys.Close(context.Background())) })
	crash = new(atomic.Int64)
	p = &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
	p.intake.size = 256
	require.NoError(t, p.build(Spec{Layers: everyLayer(0), Intake: 256}))
	for _, l := range p.stack {
		switch l := l.(type) {
		case *breaker:
			l.revive = func(cfg policy.Breaker, last *policy.BreakerSnapshot) breakerCore {
				return crasher{policy.NewBreaker(cfg, last), crash}
			}
		case *throttle:
			l.revive = func(cfg policy.Throttle, last *policy.ThrottleSnapshot) throttleCore {
				return throttleCrasher{policy.NewThrottle(cfg, last), crash}
			}
		case *adaptive:
			l.revive = func(cfg policy.Adaptive, last *policy.AdaptiveSnapshot) adaptiveCore {
				return toldCore{policy.NewAdaptive(cfg, last), &adaptiveLog{}}
			}
		case *fallback:
			breaks(&l.settled, crash)
		case *cache:
			breaks(&l.settled, crash)
		case *rateLimit:
			breaks(&l.settled, crash)
		case *shed:
			breaks(&l.settled, crash)
		case *timeout:
			breaks(&l.settled, crash)
		case *idempotency:
			breaks(&l.settled, crash)
		case *retry:
			breaks(&l.settled, crash)
		case *bulkhead:
			breaks(&l.settled, crash)
		case *attemptTimeout:
			breaks(&l.settled, crash)
		}
	}
	require.NoError(t, p.borrow())
	require.NoError(t, sys.within(func(c actor.SpawnerContext) error {
		for _, l := range p.stack {
			if err := l.start(c); err != nil {
				return err
			}
		}
		return nil
	}))
	return p, crash
}

// breaks makes the actor of a layer panic once its settings are published.
func breaks[C policy.Config](l *settled[C], crash *atomic.Int64) {
	then := l.changed
	l.changed = func(c C) {
		if crash.Add(-1) >= 0 {
			panic("it is broken")
		}
		if then != nil {
			then(c)
		}
	}
}

// agrees checks that settings are in force, and are those that are explained.
func agrees(t *testing.T, p *Pipeline, want []policy.Config) {
	t.Helper()
	explained := p.Explain().Layers
	for i, l := range p.stack {
		full := want[i].WithDefaults()
		require.Equal(t, describe(full), explained[i].Settings)
		if l, ok := l.(*fallback); ok {
			v, _ := l.settings.Load().Func(t.Context(), errBoom)
			expected, _ := full.(policy.Fallback).Func(t.Context(), errBoom)
			require.Equal(t, expected, v)
			continue
		}
		if c, ok := full.(policy.Cache); ok {
			require.Equal(t, c.TTL, l.inForce().(policy.Cache).TTL)
			continue
		}
		require.True(t, reflect.DeepEqual(full, l.inForce()), "%s: %+v", l.base().name, l.inForce())
	}
}

// However many configure however many layers at once, while layers are told to observe, orders are given, calls run and
// actors are restarted: none waits for more than 5 s, and whoever comes last has the last word.
func TestConfigureTogether(t *testing.T) {
	p, crash := fragilePipeline(t, RestartPolicy{Initial: time.Millisecond, Max: 2 * time.Millisecond, Budget: 1e9})
	var told, failed, at atomic.Int64
	begin := time.Now()
	under := func() bool { // on a busy machine it takes longer until something happened
		took := time.Since(begin)
		return took < 700*time.Millisecond || failed.Load() == 0 && took < 20*time.Second
	}
	var all sync.WaitGroup
	for g := range 6 {
		all.Go(func() {
			for i := 0; under(); i++ {
				n := int(at.Add(1))
				k := (g + i) % len(p.stack)
				begin := time.Now()
				err := p.Configure(p.stack[k].base().name, everyLayer(n)[k])
				if took := time.Since(begin); took > settleWait+time.Second {
					t.Errorf("%s: it took %v", p.stack[k].base().name, took)
				}
				switch {
				case err == nil:
					told.Add(1)
				case errors.Is(err, messages.ErrUnavailable):
					failed.Add(1)
				default:
					t.Errorf("%s: %v", p.stack[k].base().name, err)
				}
			}
		})
	}
	all.Go(func() {
		for i := 0; under(); i++ {
			if i%20 == 0 {
				crash.Store(1)
			}
			err := errors.Join(p.Observe("", i%2 == 0), p.Order("breaker", policy.BreakerOrder{Kind: policy.Automatic, Reason: "test"}))
			if err != nil && !errors.Is(err, messages.ErrUnavailable) {
				t.Error(err)
			}
			_ = p.Explain()
		}
	})
	for range 4 {
		all.Go(func() {
			for i := 0; under(); i++ {
				if _, err := Do(context.Background(), p, nil, succeeds); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	crash.Store(0)
	require.NoError(t, p.Observe("", false))
	require.Positive(t, told.Load())
	require.Positive(t, failed.Load(), "no actor was restarted")
	for i := range 3 {
		last := everyLayer(int(at.Add(1)) + i)
		for k, l := range p.stack {
			require.NoError(t, p.Configure(l.base().name, last[k]))
		}
		agrees(t, p, last)
	}
}

// Of those who configure one layer at once one has the last word, wholly: what is in force is one of what they said.
func TestConfigureOneLayerTogether(t *testing.T) {
	p := newPipeline(t, newSystem(t), Spec{Layers: everyLayer(0)})
	for k, l := range p.stack {
		for round := range 20 {
			var all sync.WaitGroup
			begun := make(chan struct{})
			for g := range 4 {
				all.Go(func() {
					<-begun
					if err := p.Configure(l.base().name, everyLayer(4*round + g)[k]); err != nil {
						t.Error(err)
					}
				})
			}
			close(begun)
			all.Wait()
			now, explained := describe(l.inForce()), p.Explain().Layers[k].Settings
			require.Equal(t, now, explained)
			found := false
			for g := range 4 {
				found = found || reflect.DeepEqual(now, describe(everyLayer(4*round + g)[k].WithDefaults()))
			}
			require.True(t, found, "%s: nobody said %v", l.base().name, now)
		}
	}
}

// An actor that is quarantined takes no settings, at once or within a second of its end, and keeps those it had; the others
// go on.
func TestConfigureALayerInQuarantine(t *testing.T) {
	p, _ := fragilePipeline(t, RestartPolicy{})
	for k, l := range p.stack {
		pid := actor.NewPID(p.sys.actors.Address(), p.sys.top.Id+"/"+l.base().name)
		require.NoError(t, p.sys.root.StopFuture(pid).Wait())
		before := describe(l.inForce())
		begin := time.Now()
		require.ErrorIs(t, p.Configure(l.base().name, everyLayer(5)[k]), messages.ErrStopped)
		require.Less(t, time.Since(begin), 3*time.Second)
		require.Equal(t, before, describe(l.inForce()))
		require.Equal(t, before, p.Explain().Layers[k].Settings)
		if k+1 < len(p.stack) {
			require.NoError(t, p.Configure(p.stack[k+1].base().name, everyLayer(k)[k+1]))
		}
		v, err := Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
		require.Equal(t, 7, v)
	}
}

// Settings come too late for a pipeline that ends, and never hold its end up.
func TestConfigureWhileThePipelineCloses(t *testing.T) {
	sys := newSystem(t)
	for round := range 10 {
		p, err := sys.Pipeline("p"+string(rune('a'+round)), Spec{Layers: everyLayer(0)})
		require.NoError(t, err)
		var all sync.WaitGroup
		for k, l := range p.stack {
			all.Go(func() {
				for i := range 100 {
					begin := time.Now()
					err := p.Configure(l.base().name, everyLayer(i)[k])
					if took := time.Since(begin); took > settleWait+time.Second {
						t.Errorf("it took %v", took)
					}
					if errors.Is(err, messages.ErrStopped) {
						return
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		begin := time.Now()
		require.NoError(t, p.Close(t.Context()))
		require.Less(t, time.Since(begin), 5*time.Second)
		all.Wait()
		require.ErrorIs(t, p.Configure("retry", policy.Retry{}), messages.ErrStopped)
	}
}

// Settings with faults change nothing under load, for anybody, and all their faults are told at once.
func TestInvalidSettingsChangeNothingUnderLoad(t *testing.T) {
	sys := newSystem(t)
	p, err := sys.Pipeline("p", Spec{Layers: everyLayer(0)})
	require.NoError(t, err)
	was := p.Explain()
	views := func() (v []any) {
		for _, l := range p.stack {
			switch l := l.(type) {
			case *breaker:
				v = append(v, l.view.Load().Epoch)
			case *rateLimit:
				v = append(v, l.view.Load())
			case *retry:
				v = append(v, l.settings.Load(), l.budget.current.Load(), l.budget.current.Load().view.Load().Settings)
			case *bulkhead:
				v = append(v, l.settings.Load(), l.size)
			}
		}
		return v
	}
	before := views()
	faulty := map[string]struct {
		cfg    policy.Config
		faults int
	}{
		"breaker":         {policy.Breaker{FailureRate: 2, MinCalls: -1, OpenFor: -1}, 3},
		"bulkhead":        {policy.Bulkhead{Permits: -1, Queue: -1}, 2},
		"rate_limit":      {policy.RateLimit{Limit: -1, Per: -1, Queue: -1}, 3},
		"throttle":        {policy.Throttle{K: 0.5, MinRequests: -1}, 2},
		"shed":            {policy.Shed{Limit: -1, Standard: 2}, 2},
		"adaptive":        {policy.Adaptive{Backoff: 2, Tolerance: 99}, 2},
		"retry":           {policy.Retry{Attempts: -1, MaxElapsed: -1, Budget: policy.RetryBudget{Ratio: -1}}, 3},
		"hedge":           {policy.Hedge{Delay: -1, Max: 99, Budget: policy.RetryBudget{Window: -1}}, 4},
		"timeout":         {policy.Timeout{MaxAbandoned: -1}, 2},
		"attempt_timeout": {policy.AttemptTimeout{}, 1},
		"cache":           {policy.Cache{}, 2},
		"idempotency":     {policy.Idempotency{Keep: -1, Max: -1}, 2},
		"fallback":        {policy.Fallback{}, 1},
	}
	require.Len(t, faulty, len(p.stack))
	var done atomic.Bool
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for !done.Load() {
				if r := Try(context.Background(), p, nil, succeeds); r.Outcome != messages.Success || r.Attempts != 1 {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	for range 5 {
		for layer, row := range faulty {
			err := p.Configure(layer, row.cfg)
			require.ErrorIs(t, err, messages.ErrInvalid, layer)
			require.Equal(t, row.faults, faultsIn(err), "%s: %v", layer, err)
		}
	}
	done.Store(true)
	all.Wait()
	require.Equal(t, was, p.Explain())
	require.Equal(t, before, views())
}

// faultsIn is how many problems an error is made of.
func faultsIn(err error) (n int) {
	if many, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // it is taken apart
		for _, e := range many.Unwrap() {
			n += faultsIn(e)
		}
		return n
	}
	if _, is := err.(*messages.FieldError); is { //nolint:errorlint // it is taken apart
		return 1
	}
	if inner := errors.Unwrap(err); inner != nil {
		return faultsIn(inner)
	}
	return 0
}
