package actors

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// to is the context of a call to a target.
func to(key string) *messages.Context { return &messages.Context{Target: key} }

// circuitOf is what is kept of a key; nil if nothing is.
func circuitOf(p *Pipeline, key string) *keyCircuit { return layerOf[*keyedBreaker](p).ring.peek(key) }

// keyIs is the decision about a key.
func keyIs(p *Pipeline, key string) policy.BreakerState {
	return circuitOf(p, key).view.Load().State
}

func keyedBy(b policy.Breaker) policy.Keyed { return policy.Keyed{Each: b} }

func TestKeyedBreakerKeepsKeysApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, keyedBy(policy.Breaker{Consecutive: 2, OpenFor: time.Second, Probes: 1}))
		for range 2 {
			_, _ = Do(t.Context(), p, to("a"), fails)
			_, err := Do(t.Context(), p, to("b"), succeeds)
			require.NoError(t, err)
		}
		_, err := Do(t.Context(), p, to("a"), succeeds)
		refused := new(messages.RejectedError)
		require.ErrorAs(t, err, &refused)
		require.ErrorIs(t, err, messages.ErrBreakerOpen)
		require.Equal(t, []any{"keyed_breaker", "a", "open", time.Second}, []any{refused.By, refused.Key, refused.Reason, refused.RetryAfter})
		_, err = Do(t.Context(), p, to("b"), succeeds)
		require.NoError(t, err)
		time.Sleep(time.Second)
		_, err = Do(t.Context(), p, to("a"), succeeds)
		require.NoError(t, err)
		require.Equal(t, policy.Closed, keyIs(p, "a"))
		_, _ = Do(t.Context(), p, nil, succeeds)
		_, _ = Do(t.Context(), p, &messages.Context{Tenant: "x"}, succeeds)
		var keys []string
		for k := range p.Keys("keyed_breaker") {
			keys = append(keys, k.Key)
			require.Equal(t, "closed", k.State)
		}
		slices.Sort(keys)
		require.Equal(t, []string{"", "a", "b"}, keys, "calls without a key share an entry")
	})
}

// A keyed breaker decides as one that stands alone, whatever happens to it and when.
func TestKeyedBreakerAgreesWithOneThatStandsAlone(t *testing.T) {
	for name, cfg := range map[string]policy.Breaker{
		"rate":        {FailureRate: 0.4, MinCalls: 5, Window: time.Second, OpenFor: 700 * time.Millisecond, OpenMax: 5 * time.Second, Probes: 2, Dwell: 900 * time.Millisecond},
		"calls":       {FailureRate: 0.5, Calls: 8, MinCalls: 4, OpenFor: 700 * time.Millisecond, Probes: 2, ProbeFailureRate: 0.6},
		"consecutive": {Consecutive: 3, Window: time.Second, OpenFor: 300 * time.Millisecond, Probes: 1},
		"slow, ramp": {
			FailureRate: 0.6, MinCalls: 6, Window: 2 * time.Second, SlowCall: 50 * time.Millisecond, SlowRate: 0.7, OpenFor: time.Second,
			Probes: 1, Ramp: []float64{0.3, 0.7}, RampStep: 1100 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				seed, steps := rapid.Uint64().Draw(rt, "seed"), rapid.IntRange(20, 250).Draw(rt, "steps")
				mostly := rapid.SampledFrom([]int{10, 30, 50, 90}).Draw(rt, "failures of 100")
				pause := rapid.SampledFrom([]time.Duration{time.Millisecond, 40 * time.Millisecond, 200 * time.Millisecond}).Draw(rt, "pause")
				synctest.Test(t, func(t *testing.T) { sameDecisions(t, cfg, seed, steps, mostly, pause) })
			})
		})
	}
}

func sameDecisions(t *testing.T, cfg policy.Breaker, seed uint64, steps, mostly int, pause time.Duration) {
	sys := newSystem(t)
	alone, byKey := newPipelineNamed(t, sys, "alone", cfg), newPipelineNamed(t, sys, "keyed", keyedBy(cfg))
	random := rand.New(rand.NewPCG(seed, 1))
	time.Sleep(time.Duration(random.IntN(int(time.Minute))))
	was := ""
	for step := range steps {
		time.Sleep(time.Duration(1 + random.IntN(int(pause))))
		if random.IntN(40) == 0 {
			time.Sleep(time.Duration(random.IntN(int(5 * time.Second))))
		}
		if random.IntN(60) == 0 {
			o := policy.BreakerOrder{Kind: policy.BreakerOrderKind(1 + random.IntN(5)), Reason: "test"}
			if o.Kind <= policy.Disable {
				o.TTL = time.Duration(1 + random.IntN(int(time.Second)))
			}
			require.NoError(t, alone.Order("breaker", o))
			require.NoError(t, byKey.Order("keyed_breaker/k", o))
		}
		bad, takes := random.IntN(100) < mostly, time.Duration(0)
		if cfg.SlowCall > 0 && random.IntN(3) == 0 {
			takes = cfg.SlowCall
		}
		fn := func(context.Context) (int, error) {
			time.Sleep(takes)
			if bad {
				return 0, errBoom
			}
			return 1, nil
		}
		var both sync.WaitGroup
		var got [2]Result[int]
		both.Go(func() { got[0] = Try(context.Background(), alone, to("k"), fn) })
		both.Go(func() { got[1] = Try(context.Background(), byKey, to("k"), fn) })
		both.Wait()
		synctest.Wait()
		told := fmt.Sprintf("step %d, after %s", step, was)
		require.Equal(t, got[0].Outcome, got[1].Outcome, told)
		if got[0].Outcome == messages.Rejected {
			var a, b *messages.RejectedError
			require.ErrorAs(t, got[0].Err, &a)
			require.ErrorAs(t, got[1].Err, &b)
			require.Equal(t, []any{a.Reason, a.RetryAfter, a.Metadata}, []any{b.Reason, b.RetryAfter, b.Metadata}, told)
		}
		a, e := layerOf[*breaker](alone).view.Load().BreakerSnapshot, circuitOf(byKey, "k")
		b := e.view.Load().BreakerSnapshot
		if a.State == policy.HalfOpen && b.State == policy.Open && b.Until <= policy.Instant(sys.now()) {
			continue // a timer of an order that was lifted told the one that its delay is over; the other hears it from a call
		}
		a.Epoch, b.Epoch = 0, 0 // which is one more for having heard it earlier
		require.Equal(t, a, b, told)
		require.Equal(t, layerOf[*breaker](alone).probes.Load(), e.probes.Load())
		was = fmt.Sprintf("%v %v", bad, a.State)
	}
}

// Hosts that failed once and are never called again must not take all places for good.
func TestKeysThatStayedOpenKeptTheirPlacesForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Consecutive: 1, OpenFor: time.Second, Window: time.Second}, Idle: 10 * time.Second, Max: 3})
		for _, key := range []string{"a", "b", "c"} {
			_, _ = Do(t.Context(), p, to(key), fails)
		}
		time.Sleep(10 * time.Second)
		_, _ = Do(t.Context(), p, to("new"), succeeds)
		require.Nil(t, circuitOf(p, "new"), "there is no place")
		_, _ = Do(t.Context(), p, to("c"), fails) // somebody came
		time.Sleep(8 * time.Second)
		_, _ = Do(t.Context(), p, to("new"), succeeds)
		require.NotNil(t, circuitOf(p, "new"))
		require.Equal(t, policy.Open, keyIs(p, "c"))
		gone := 0
		for _, key := range []string{"a", "b"} {
			if circuitOf(p, key) == nil {
				gone++
			}
		}
		require.Positive(t, gone)
		time.Sleep(time.Minute)
		require.Equal(t, policy.Open, keyIs(p, "c"), "while there is place it stays")
	})
}

func TestOpenKeyWasEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Consecutive: 1, OpenFor: time.Second, OpenMax: time.Hour, Probes: 1, Window: time.Second}, Idle: 10 * time.Second, Max: 4})
		_, _ = Do(t.Context(), p, to("open"), fails)
		_, _ = Do(t.Context(), p, to("fine"), succeeds)
		require.NoError(t, p.Order("keyed_breaker/ordered", policy.BreakerOrder{Kind: policy.ForceClosed, Reason: "test"}))
		time.Sleep(5 * time.Minute)
		require.Nil(t, circuitOf(p, "fine"), "it was idle, and closed")
		require.Equal(t, policy.Open, keyIs(p, "open"))
		require.NotNil(t, circuitOf(p, "ordered"))
		s, ok := p.KeyState("keyed_breaker", "open")
		require.True(t, ok)
		require.Equal(t, "open until the next call", s.State)
		_, _ = Do(t.Context(), p, to("open"), fails) // a probe: open for 2 s
		for i := range 50 {
			_, _ = Do(t.Context(), p, to(strconv.Itoa(i)), succeeds)
		}
		require.Equal(t, policy.Open, keyIs(p, "open"), "nor when its place is wanted")
		require.NotNil(t, circuitOf(p, "ordered"))

		time.Sleep(2 * time.Second)
		_, _ = Do(t.Context(), p, to("open"), succeeds)
		v := circuitOf(p, "open").view.Load()
		require.Equal(t, policy.Closed, v.State)
		require.Equal(t, 2*time.Second, v.OpenDelay)
		require.NoError(t, p.Order("keyed_breaker/ordered", policy.BreakerOrder{Kind: policy.Automatic, Reason: "test"}))
		time.Sleep(time.Minute)
		require.Nil(t, circuitOf(p, "open"), "it has recovered, and its growth is forgotten")
		require.Nil(t, circuitOf(p, "ordered"))
		require.Zero(t, layerOf[*keyedBreaker](p).ring.live.Load())
	})
}

// The growth of the open delay is remembered until the key has been calm for as long as it was open.
func TestEvictionForgotTheGrowthOfTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Consecutive: 1, OpenFor: time.Minute, OpenMax: time.Hour, Probes: 1, Window: time.Second}, Idle: time.Second, Max: 1})
		_, _ = Do(t.Context(), p, to("k"), fails)
		time.Sleep(time.Minute)
		_, _ = Do(t.Context(), p, to("k"), succeeds) // closes; calm in a minute
		time.Sleep(59 * time.Second)
		require.NotNil(t, circuitOf(p, "k"))
		_, _ = Do(t.Context(), p, to("other"), succeeds)
		require.NotNil(t, circuitOf(p, "k"), "nor for another that wants its place")
		_, _ = Do(t.Context(), p, to("k"), fails)
		require.Equal(t, 2*time.Minute, circuitOf(p, "k").view.Load().OpenDelay)
	})
}

// A call that is under way when its entry goes is told to the entry that its key has then, under its own epoch.
func TestEvictionLostTheCallUnderWay(t *testing.T) {
	for name, fn := range map[string]func(context.Context) (int, error){"success": succeeds, "failure": fails} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{FailureRate: 1, MinCalls: 1, OpenFor: time.Minute, Probes: 1, Window: time.Second}, Idle: time.Second})
				start := func() (chan struct{}, Future[int]) {
					release := make(chan struct{})
					f := Go(t.Context(), p, to("k"), func(ctx context.Context) (int, error) { <-release; return fn(ctx) })
					synctest.Wait()
					return release, f
				}
				end := func(release chan struct{}, f Future[int]) { close(release); _, _ = f.Await(t.Context()) }
				release, f := start()
				old := circuitOf(p, "k")
				time.Sleep(time.Minute)
				require.Nil(t, circuitOf(p, "k"))
				end(release, f)
				now := circuitOf(p, "k")
				require.NotSame(t, old, now)
				if name == "failure" {
					require.Equal(t, policy.Open, now.view.Load().State)
				} else {
					require.EqualValues(t, 1, now.first.good.Load())
				}
				// What was admitted before the key tripped and recovered is of another epoch, for ever.
				if name == "success" {
					_, _ = Do(t.Context(), p, to("k"), fails) // one of two: it stays closed
				}
				require.NoError(t, p.Order("keyed_breaker/k", policy.BreakerOrder{Kind: policy.Reset, Reason: "test"}))
				release, f = start()
				epoch := circuitOf(p, "k").view.Load().Epoch
				time.Sleep(time.Minute)
				require.Nil(t, circuitOf(p, "k"))
				_, _ = Do(t.Context(), p, to("k"), succeeds)
				require.Greater(t, circuitOf(p, "k").view.Load().Epoch, epoch)
				end(release, f)
				require.Equal(t, policy.Closed, keyIs(p, "k"))
				require.EqualValues(t, 1, circuitOf(p, "k").first.good.Load())
				require.Nil(t, circuitOf(p, "k").cold.Load())
			})
		})
	}
}

func TestKeysWithoutAPlaceShareOneBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Consecutive: 2, OpenFor: time.Second, Probes: 1}, Max: 2})
		sub := p.sys.Events().Subscribe(64, nil)
		_, _ = Do(t.Context(), p, to("a"), succeeds)
		_, _ = Do(t.Context(), p, to("b"), succeeds)
		require.Empty(t, sub.C())
		_, _ = Do(t.Context(), p, to("c"), fails)
		_, _ = Do(t.Context(), p, to("d"), fails)
		_, err := Do(t.Context(), p, to("e"), succeeds)
		refused := new(messages.RejectedError)
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "e", refused.Key)
		_, err = Do(t.Context(), p, to("a"), succeeds)
		require.NoError(t, err)
		require.EqualValues(t, 2, layerOf[*keyedBreaker](p).ring.live.Load())
		_, ok := p.KeyState("keyed_breaker", "c")
		require.False(t, ok)
		require.Equal(t, "2 keys, 3 calls without a place for their key", p.Explain().Layers[0].State)
		time.Sleep(time.Second)
		_, _ = Do(t.Context(), p, to("f"), succeeds)
		e := <-sub.C()
		require.Equal(t, []any{messages.KeyedOverflow, "keyed_breaker", int64(1)}, []any{e.Kind, e.Source, e.Data.(messages.KeysOverflow).Count})
		e = <-sub.C()
		require.Equal(t, []any{messages.BreakerOpened, messages.OfKey{Overflow: true}}, []any{e.Kind, e.Data.(messages.BreakerChange).OfKey})
		e = <-sub.C()
		require.Equal(t, []any{messages.KeyedOverflow, int64(3)}, []any{e.Kind, e.Data.(messages.KeysOverflow).Count}, "once a second at most")
		err = p.Order("keyed_breaker/g", policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "test"})
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "g", refused.Key)
		require.ErrorIs(t, err, messages.ErrUnavailable)
		time.Sleep(13 * time.Minute)
		require.Zero(t, layerOf[*keyedBreaker](p).ring.live.Load())
		_, err = Do(t.Context(), p, to("e"), succeeds)
		require.NoError(t, err)
		require.NotNil(t, circuitOf(p, "e"), "there is a place again")
	})
}

// At the cap a place is given up once the window has passed: nothing would be decided otherwise.
func TestPlaceIsGivenUpAfterTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Window: 10 * time.Second}, Max: 1})
		_, _ = Do(t.Context(), p, to("a"), succeeds)
		time.Sleep(10 * time.Second)
		_, _ = Do(t.Context(), p, to("b"), succeeds)
		require.Nil(t, circuitOf(p, "b"), "what is left of a's window counts")
		time.Sleep(time.Second)
		_, _ = Do(t.Context(), p, to("b"), fails)
		require.Nil(t, circuitOf(p, "a"))
		time.Sleep(20 * time.Second)
		_, _ = Do(t.Context(), p, to("c"), succeeds)
		require.Nil(t, circuitOf(p, "c"), "one with a core is not given up to others")
		time.Sleep(150 * time.Second) // its core is looked at, and forgotten
		_, _ = Do(t.Context(), p, to("c"), succeeds)
		require.NotNil(t, circuitOf(p, "c"))
	})
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Consecutive: 5, Window: time.Second}, Max: 1, Idle: time.Minute})
		_, _ = Do(t.Context(), p, to("a"), succeeds)
		time.Sleep(59 * time.Second)
		_, _ = Do(t.Context(), p, to("b"), succeeds)
		require.Nil(t, circuitOf(p, "b"), "failures in a row are forgotten with the key only")
	})
}

// crashingKeys is a pipeline with a keyed breaker whose cores panic on as many facts as they are told to.
func crashingKeys(t *testing.T, restarts RestartPolicy, cfg policy.Keyed) (p *Pipeline, k *keyedBreaker, crash *atomic.Int64) {
	t.Helper()
	sys, err := NewSystem(Options{Restarts: restarts, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sys.Close(context.Background())) })
	crash = new(atomic.Int64)
	p = &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
	require.NoError(t, p.build(Spec{Layers: []policy.Config{cfg}, Intake: 1}))
	k = layerOf[*keyedBreaker](p)
	k.revive = func(cfg policy.Breaker, last *policy.BreakerSnapshot) keyCore {
		return crasher{policy.NewBreaker(cfg, last), crash}
	}
	require.NoError(t, sys.within(k.start))
	return p, k, crash
}
