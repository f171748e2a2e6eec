package actors

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func give(t *testing.T, p *Pipeline, kind policy.BreakerOrderKind, ttl time.Duration) {
	t.Helper()
	require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: kind, Reason: "test", By: "ops", TTL: ttl}))
}

// refused asserts that a call is refused, and why, and for how long.
func refused(t *testing.T, p *Pipeline, reason string, after time.Duration) {
	t.Helper()
	_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { t.Error("ran"); return 0, nil })
	rejected := new(messages.RejectedError)
	require.ErrorAs(t, err, &rejected)
	require.ErrorIs(t, err, messages.ErrBreakerOpen)
	require.Equal(t, reason, rejected.Reason)
	require.Equal(t, after, rejected.RetryAfter)
}

func passes(t *testing.T, p *Pipeline) {
	t.Helper()
	_, err := Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err)
}

func TestForceOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 2, OpenFor: time.Second, Probes: 1})
		_, _ = Do(t.Context(), p, nil, fails)
		flying := make(chan error)
		late := Go(t.Context(), p, nil, func(context.Context) (int, error) { return 0, <-flying })
		synctest.Wait()
		give(t, p, policy.ForceOpen, time.Minute)
		refused(t, p, "forced_open", time.Minute)
		time.Sleep(20 * time.Second)
		refused(t, p, "forced_open", 40*time.Second)
		n, wait, why := p.Room("")
		require.Equal(t, []any{0, 40 * time.Second, "breaker"}, []any{n, wait, why})
		flying <- errBoom
		_, _ = late.Await(t.Context())
		require.Equal(t, policy.Closed, state(p), "what was in flight is no evidence")
		time.Sleep(40*time.Second - 1)
		refused(t, p, "forced_open", 1)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Zero(t, layerOf[*breaker](p).view.Load().Order, "the actor ended it itself")
		passes(t, p)

		give(t, p, policy.ForceOpen, 0)
		refused(t, p, "forced_open", 0)
		n, wait, why = p.Room("")
		require.Equal(t, []any{0, time.Duration(0), "breaker"}, []any{n, wait, why})
		give(t, p, policy.Automatic, 0)
		passes(t, p)
	})
}

// The gate knows by itself when an order's time is up, to the nanosecond, whether the actor's timer fired or not.
func TestOrderEndsLazily(t *testing.T) {
	for name, kind := range map[string]policy.BreakerOrderKind{"forced open": policy.ForceOpen, "disabled": policy.Disable, "forced closed": policy.ForceClosed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Hour, Probes: 1})
				b := layerOf[*breaker](p)
				_, _ = Do(t.Context(), p, nil, fails)
				give(t, p, kind, time.Minute)
				enter := func(now int64) (bool, string) {
					r := poolOf[int](p).Get().(*record[int])
					r.caller, r.now = t.Context(), now
					v, no := b.enter(&r.call)
					return v != nil || no.reason == "", no.reason
				}
				until := int64(b.view.Load().OrderUntil)
				pass, why := enter(until - 1)
				require.Equal(t, kind != policy.ForceOpen, pass)
				pass, again := enter(until)
				require.False(t, pass, "the breaker itself is open")
				require.Equal(t, "open", again)
				require.NotEqual(t, why, again)
				require.Zero(t, b.view.Load().Order)
			})
		})
	}
}

// Forced closed, the breaker goes on beneath as if it only observed: it opens, its probes are taken when due, it closes.
func TestForceClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 2, OpenFor: time.Second, Probes: 1})
		give(t, p, policy.ForceClosed, 0)
		var ran int
		do := func(fn func(context.Context) (int, error)) {
			_, err := Do(t.Context(), p, nil, func(ctx context.Context) (int, error) { ran++; return fn(ctx) })
			require.NotErrorIs(t, err, messages.ErrRejected)
		}
		do(fails)
		do(fails)
		require.Equal(t, policy.Open, state(p))
		do(succeeds) // would have been refused: no evidence
		require.Equal(t, policy.Open, state(p))
		n, _, _ := p.Room("")
		require.Equal(t, 256, n)
		time.Sleep(time.Second)
		release := make(chan error)
		probe := Go(t.Context(), p, nil, func(context.Context) (int, error) { ran++; return 1, <-release })
		synctest.Wait()
		require.Equal(t, policy.HalfOpen, state(p))
		do(fails) // not a probe: the only one is taken
		require.Equal(t, policy.HalfOpen, state(p))
		release <- nil
		_, err := probe.Await(t.Context())
		require.NoError(t, err)
		require.Equal(t, policy.Closed, state(p))
		do(fails)
		do(fails)
		require.Equal(t, policy.Open, state(p))
		give(t, p, policy.Automatic, 0)
		refused(t, p, "open", time.Second)
		require.Equal(t, 7, ran)
		require.Zero(t, layerOf[*breaker](p).probes.Load())
	})
}

func TestDisable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 2, OpenFor: time.Minute, Probes: 1})
		_, _ = Do(t.Context(), p, nil, fails)
		give(t, p, policy.Disable, time.Second)
		for range 5 {
			_, err := Do(t.Context(), p, nil, fails)
			require.Equal(t, errBoom, err)
			passes(t, p)
		}
		require.Equal(t, policy.Closed, state(p))
		time.Sleep(time.Second)
		_, _ = Do(t.Context(), p, nil, fails)
		require.Equal(t, policy.Open, state(p), "the failure before it and the one after it: nothing between them was counted")
		give(t, p, policy.Disable, 0)
		passes(t, p)
		give(t, p, policy.Automatic, 0)
		refused(t, p, "open", time.Minute)
	})
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 2, OpenFor: time.Second, OpenMax: time.Hour, Probes: 1})
		trip := func(after time.Duration) {
			_, _ = Do(t.Context(), p, nil, fails)
			_, _ = Do(t.Context(), p, nil, fails)
			refused(t, p, "open", after)
		}
		trip(time.Second)
		time.Sleep(time.Second)
		_, _ = Do(t.Context(), p, nil, fails)
		refused(t, p, "open", 2*time.Second)
		give(t, p, policy.ForceOpen, 0)
		give(t, p, policy.Reset, 0)
		passes(t, p)
		_, _ = Do(t.Context(), p, nil, fails)
		give(t, p, policy.Reset, 0)
		_, _ = Do(t.Context(), p, nil, fails)
		require.Equal(t, policy.Closed, state(p), "evidence is gone")
		_, _ = Do(t.Context(), p, nil, fails)
		refused(t, p, "open", time.Second) // and so is the growth
	})
}

// Orders stay over trips and new settings, and over a restart of the actor.
func TestOrdersAreSticky(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{Restarts: RestartPolicy{Initial: time.Second}, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer func() { require.NoError(t, sys.Close(context.Background())) }()
		events := sys.Events().Subscribe(64, nil)
		crash := new(atomic.Int64)
		p := &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
		p.intake.size = 1
		cfg := policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1, Ramp: []float64{0.5}, RampStep: time.Hour}
		require.NoError(t, p.build(Spec{Layers: []policy.Config{cfg}, Intake: 1}))
		b := layerOf[*breaker](p)
		b.revive = func(cfg policy.Breaker, last *policy.BreakerSnapshot) breakerCore {
			return crasher{policy.NewBreaker(cfg, last), crash}
		}
		require.NoError(t, sys.within(b.start))
		restart := func() {
			crash.Store(1)
			b.host.Tell(b.fact(policy.Ticked, b.view.Load(), sys.now()))
			require.Equal(t, hostFailed, b.host.status.Load())
			time.Sleep(3 * time.Second)
			require.Equal(t, hostUp, b.host.status.Load())
		}
		give(t, p, policy.ForceClosed, time.Hour)
		_, _ = Do(t.Context(), p, nil, fails)
		require.Equal(t, policy.Open, state(p))
		passes(t, p)
		require.NoError(t, p.Configure("breaker", cfg))
		passes(t, p)
		restart()
		s := b.view.Load()
		require.Equal(t, policy.ForceClosed, s.Order.Kind)
		require.Equal(t, "ops", s.Order.By)
		passes(t, p) // the probe
		require.Equal(t, policy.Ramping, state(p))
		restart()
		require.Equal(t, policy.Ramping, state(p), "a restart goes on with the ramp")
		passes(t, p)
		passes(t, p)
		time.Sleep(time.Hour)
		require.Equal(t, policy.Closed, state(p))
		require.Zero(t, b.view.Load().Order)
		give(t, p, policy.ForceOpen, 0)
		restart()
		refused(t, p, "forced_open", 0)
		var kinds []string
		for len(events.C()) > 0 {
			if e := <-events.C(); e.Kind != messages.ActorRestarted && e.Kind != messages.SettingsChanged {
				kinds = append(kinds, string(e.Kind))
			}
		}
		require.Equal(t, []string{
			"breaker.ordered", "breaker.opened", "breaker.half_opened", "breaker.ramping", "breaker.order_ended", "breaker.closed", "breaker.ordered",
		}, kinds)
	})
}

func TestOrderEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Second, OpenMax: 3 * time.Second, Probes: 1, Ramp: []float64{0.25, 0.5}, RampStep: time.Second, MinCalls: 1, Calls: 9, SlowCall: time.Minute})
		events := p.sys.Events().Subscribe(64, nil)
		next := func(kind messages.Kind, reason string, data map[string]any) {
			t.Helper()
			synctest.Wait()
			require.NotEmpty(t, events.C(), "no %s", kind)
			e := <-events.C()
			require.Equal(t, kind, e.Kind)
			require.Equal(t, "breaker", e.Source)
			require.Equal(t, "p", e.Pipeline)
			require.Equal(t, reason, e.Reason)
			for k, want := range data {
				require.Equal(t, fmt.Sprint(want), fmt.Sprint(e.Fields()[k]), k)
			}
		}
		passes(t, p)
		_, _ = Do(t.Context(), p, nil, fails)
		next(messages.BreakerOpened, "consecutive", map[string]any{"from": "closed", "to": "open", "cause": "consecutive", "good": uint64(1), "bad": uint64(1), "run": 1, "trips": uint64(1), "open_ms": int64(1000)})
		give(t, p, policy.ForceOpen, 2*time.Second)
		next(messages.BreakerOrdered, "test", map[string]any{"kind": "force_open", "by": "ops", "ttl_ms": int64(2000)})
		time.Sleep(2 * time.Second)
		next(messages.BreakerOrderEnded, "its time is up", map[string]any{"kind": "force_open", "by": "ops", "cause": "expired"})
		next(messages.BreakerHalfOpened, "delay over", map[string]any{"cause": "delay_over"}) // its own time is up, too
		give(t, p, policy.Disable, 0)
		next(messages.BreakerOrdered, "test", map[string]any{"kind": "disable", "ttl_ms": int64(0)})
		give(t, p, policy.ForceClosed, 0)
		next(messages.BreakerOrderEnded, "test", map[string]any{"kind": "disable", "cause": "force_closed", "ended_by": "ops"})
		next(messages.BreakerOrdered, "test", map[string]any{"kind": "force_closed"})
		give(t, p, policy.Automatic, 0)
		next(messages.BreakerOrderEnded, "test", map[string]any{"kind": "force_closed", "cause": "automatic"})
		give(t, p, policy.Automatic, 0) // which is nothing
		passes(t, p)
		next(messages.BreakerRamping, "probes succeeded", map[string]any{"cause": "probes_succeeded", "share": 0.25, "from": "half_open", "good": uint64(1)})
		time.Sleep(time.Second)
		next(messages.BreakerRamping, "ramp step", map[string]any{"cause": "ramp_step", "share": 0.5, "from": "ramping"})
		time.Sleep(time.Second)
		next(messages.BreakerClosed, "ramped", map[string]any{"cause": "ramped"})
		_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil })
		next(messages.BreakerOpened, "slow rate", map[string]any{"cause": "slow_rate", "slow": uint64(1), "good": uint64(1), "bad": uint64(0)})
		give(t, p, policy.ForceOpen, 0)
		give(t, p, policy.Reset, 0)
		next(messages.BreakerOrdered, "test", nil)
		next(messages.BreakerOrderEnded, "test", map[string]any{"kind": "force_open", "cause": "reset"})
		next(messages.BreakerOrdered, "test", map[string]any{"kind": "reset"})
		next(messages.BreakerClosed, "order", map[string]any{"cause": "order", "from": "open"})
		require.Empty(t, events.C())
	})
}

func TestOrdersThatAreRefused(t *testing.T) {
	p := pipelineOf(t, policy.Retry{}, policy.Breaker{})
	for name, o := range map[string]policy.BreakerOrder{
		"order.Kind":     {Reason: "x"},
		"order.Kind is":  {Kind: 9, Reason: "x"},
		"order.Reason":   {Kind: policy.ForceOpen, Reason: " "},
		"order.TTL":      {Kind: policy.ForceOpen, Reason: "x", TTL: -1},
		"order.TTL is 0": {Kind: policy.Reset, Reason: "x", TTL: 1},
	} {
		err := p.Order("breaker", o)
		require.ErrorIs(t, err, messages.ErrInvalid, name)
		require.ErrorContains(t, err, name[:len("order.TTL")])
	}
	fine := policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "x"}
	require.ErrorIs(t, p.Order("breaker-2", fine), messages.ErrNotFound)
	require.ErrorIs(t, p.Order("retry", fine), messages.ErrInvalid)
	require.NoError(t, p.Close(t.Context()))
	require.ErrorIs(t, p.Order("breaker", fine), messages.ErrStopped)
}

// A breaker that only observes lets pass what an order, its state or its ramp would have refused, and says so.
func TestObservingBreakerActsOnNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Observe: true, Layers: []policy.Config{policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1, Ramp: []float64{0.5}, RampStep: time.Second}}})
		would := func(want bool) {
			t.Helper()
			r := Try(t.Context(), p, nil, succeeds)
			require.Equal(t, messages.Success, r.Outcome)
			require.Equal(t, want, len(r.Observed()) == 1)
		}
		would(false)
		give(t, p, policy.ForceOpen, 0)
		would(true)
		give(t, p, policy.Disable, 0)
		would(false)
		give(t, p, policy.Automatic, 0)
		_, err := Do(t.Context(), p, nil, fails)
		require.Equal(t, errBoom, err)
		would(true)
		give(t, p, policy.ForceClosed, 0)
		would(false)
		give(t, p, policy.Automatic, 0)
		time.Sleep(time.Second)
		would(false) // the probe
		require.Equal(t, policy.Ramping, state(p))
		would(false)
		would(true)
		would(false)
		time.Sleep(time.Second)
		would(false)
		require.Equal(t, policy.Closed, state(p))
	})
}

// The window goes on expiring while an order with a TTL is in force, and a sleeping breaker is woken all the same.
func TestOrderKeptTheBreakerFromFallingAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{MinCalls: 10, FailureRate: 0.5, Window: time.Second})
		give(t, p, policy.ForceClosed, time.Hour)
		for range 3 {
			passes(t, p)
			time.Sleep(5 * time.Second)
			require.True(t, layerOf[*breaker](p).view.Load().asleep.Load())
		}
		for range 1000 {
			passes(t, p)
		}
		time.Sleep(5 * time.Second)
		n := 0
		for ; state(p) == policy.Closed; n++ {
			_, _ = Do(t.Context(), p, nil, fails)
		}
		require.Equal(t, 10, n)
		time.Sleep(time.Hour)
		require.Zero(t, layerOf[*breaker](p).view.Load().Order)
	})
}
