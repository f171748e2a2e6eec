package actors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	goruntime "runtime"
	"strconv"
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

// While calls of all kinds run, keys come and go, and settings and orders change: everything is given back, half-open
// admits no more than its limit, and there never are too many keys.
func TestKeysThatComeAndGoLostAPermit(t *testing.T) {
	cfg := func(n int) policy.Keyed {
		return policy.Keyed{
			Each: policy.Breaker{Consecutive: 2, Window: 10 * time.Millisecond, OpenFor: time.Millisecond, Probes: 2, Dwell: time.Hour, FailureRate: float64(n%3+1) / 4},
			Max:  50 + n%2, Idle: time.Second,
		}
	}
	p := pipelineOf(t, cfg(0))
	k := layerOf[*keyedBreaker](p)
	var inside [200]atomic.Int64
	var over, tooMany, ran atomic.Int64
	var all sync.WaitGroup
	until := time.Now().Add(1500 * time.Millisecond)
	for g := range 64 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 4))
			for time.Now().Before(until) {
				n := random.IntN(200)
				if random.IntN(3) > 0 {
					n %= 20
				}
				key := strconv.Itoa(n)
				ctx, cancel := context.WithCancel(context.Background())
				var before *breakerView
				e := circuitOf(p, key)
				if e != nil {
					before = e.view.Load()
				}
				fn := func(context.Context) (int, error) {
					if ran.Add(1); e != nil && before.State == policy.HalfOpen && before.Order.Kind == 0 && e.view.Load() == before {
						if inside[n].Add(1) > 2 {
							over.Add(1)
						}
						goruntime.Gosched()
						inside[n].Add(-1)
					}
					switch random.IntN(8) {
					case 0:
						panic("x")
					case 1, 2, 3:
						return 0, errBoom
					case 4:
						cancel()
						return 0, ctx.Err()
					}
					return 1, nil
				}
				switch random.IntN(12) {
				case 0:
					if permit, err := Acquire(ctx, p, to(key)); err == nil {
						permit.Done(errBoom)
					}
				case 1:
					left := make(chan struct{})
					go func() {
						defer close(left)
						_, _ = Do(ctx, p, to(key), func(context.Context) (int, error) { goruntime.Goexit(); return 0, nil })
					}()
					<-left
				default:
					_, _ = Do(ctx, p, to(key), fn)
				}
				if k.ring.live.Load() > 51 {
					tooMany.Add(1)
				}
				cancel()
			}
		})
	}
	all.Go(func() {
		random := rand.New(rand.NewPCG(99, 4))
		for n := 0; time.Now().Before(until); n++ {
			if random.IntN(4) == 0 {
				require.NoError(t, p.Configure("keyed_breaker", cfg(n)))
			}
			o := policy.BreakerOrder{Kind: policy.BreakerOrderKind(1 + random.IntN(5)), Reason: "test"}
			if o.Kind <= policy.Disable {
				o.TTL = time.Duration(1 + random.IntN(int(5*time.Millisecond)))
			}
			if err := p.Order("keyed_breaker/"+strconv.Itoa(random.IntN(20)), o); err != nil {
				require.ErrorIs(t, err, messages.ErrUnavailable)
			}
			for s := range p.Keys("keyed_breaker") {
				require.NotEmpty(t, s.State)
			}
			time.Sleep(time.Millisecond)
		}
	})
	all.Wait()
	require.Zero(t, over.Load())
	require.Zero(t, tooMany.Load())
	t.Logf("%d calls ran, %d without a place", ran.Load(), k.ring.crowd.Load())
	require.Positive(t, ran.Load())
	require.Zero(t, p.inFlight())
	n := 0
	for i := range k.ring.shards {
		for e := range k.ring.shards[i].all() {
			require.Zero(t, e.probes.Load(), e.key)
			n++
		}
	}
	require.Zero(t, k.ring.overflow.probes.Load())
	require.EqualValues(t, n, k.ring.live.Load())
	require.Positive(t, k.ring.crowd.Load())
}

// A restart of a shard's actor keeps what was decided, drops the evidence of those that had some, and takes nothing from
// the others.
func TestKeyedBreakerSurvivesRestartAndQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k, crash := crashingKeys(t, RestartPolicy{Initial: time.Second, Max: time.Minute, Budget: 3, HalfLife: time.Hour},
			policy.Keyed{Each: policy.Breaker{FailureRate: 0.5, MinCalls: 4, Window: time.Hour, OpenFor: 10 * time.Second, Probes: 1}})
		near := []string{"open"} // of one shard
		shard, _ := k.ring.hash("open")
		for i := 0; len(near) < 3; i++ {
			if s, _ := k.ring.hash(strconv.Itoa(i)); s == shard {
				near = append(near, strconv.Itoa(i))
			}
		}
		for range 4 {
			_, _ = Do(t.Context(), p, to("open"), fails)
		}
		for range 2 {
			_, _ = Do(t.Context(), p, to(near[1]), fails)
			_, _ = Do(t.Context(), p, to(near[2]), succeeds)
		}
		host := k.actors[shard].host
		epochs := func() (list []uint64) {
			for _, key := range near {
				list = append(list, circuitOf(p, key).view.Load().Epoch)
			}
			return list
		}
		was := epochs()
		crash.Store(1)
		time.Sleep(10 * time.Second)
		_, err := Do(t.Context(), p, to("open"), succeeds)
		require.NoError(t, err, "a host that failed keeps nobody out for longer than it said")
		require.Equal(t, hostFailed, host.status.Load())
		time.Sleep(2 * time.Second)
		require.Equal(t, hostUp, host.status.Load())
		require.Equal(t, policy.Open, keyIs(p, "open"), "what it decided last is in force")
		require.Equal(t, []uint64{was[0] + 1, was[1] + 1, was[2]}, epochs())
		for range 3 {
			_, _ = Do(t.Context(), p, to(near[1]), fails)
		}
		require.Equal(t, policy.Closed, keyIs(p, near[1]), "its two failures are forgotten")
		for range 2 {
			_, _ = Do(t.Context(), p, to(near[2]), fails)
		}
		require.Equal(t, policy.Open, keyIs(p, near[2]), "two of four: its successes are not")

		for host.status.Load() != hostGone {
			crash.Store(1)
			host.Tell(keyFact{of: circuitOf(p, "open"), BreakerFact: policy.BreakerFact{Kind: policy.Ordered, Order: &policy.BreakerOrder{Kind: policy.Automatic}}})
			time.Sleep(time.Minute)
		}
		_, err = Do(t.Context(), p, to("open"), succeeds)
		require.NoError(t, err, "a quarantined one that is open goes on to probe")
		release := make(chan struct{})
		hung := make(chan struct{})
		go func() {
			defer close(hung)
			_, _ = Do(context.Background(), p, to("open"), func(context.Context) (int, error) { <-release; return 1, nil })
		}()
		synctest.Wait()
		_, err = Do(t.Context(), p, to("open"), succeeds)
		require.ErrorIs(t, err, messages.ErrBreakerOpen, "one at a time")
		time.Sleep(30 * time.Second)
		_, err = Do(t.Context(), p, to("open"), succeeds)
		require.NoError(t, err, "and writes off the one that hangs")
		close(release)
		<-hung
		require.Zero(t, circuitOf(p, "open").probes.Load())
		_, err = Do(t.Context(), p, to(near[1]), succeeds)
		require.NoError(t, err)
		require.ErrorIs(t, p.Order("keyed_breaker/open", policy.BreakerOrder{Kind: policy.Reset, Reason: "test"}), messages.ErrStopped)
		err = p.Configure("keyed_breaker", policy.Keyed{Each: policy.Breaker{}})
		require.ErrorIs(t, err, messages.ErrStopped, "one shard did not take them")
	})
}

// New settings keep what keys with evidence have decided; the others begin anew, and a call from before counts for nothing.
func TestKeyedSettingsOnALivePipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Consecutive: 2, OpenFor: time.Minute}, Max: 10})
		k := layerOf[*keyedBreaker](p)
		for range 2 {
			_, _ = Do(t.Context(), p, to("open"), fails)
		}
		_, _ = Do(t.Context(), p, to("fine"), succeeds)
		release := make(chan struct{})
		var late []Future[int]
		for _, key := range []string{"fine", "fine", "new"} {
			late = append(late, Go(t.Context(), p, to(key), func(context.Context) (int, error) { <-release; return 0, errBoom }))
		}
		synctest.Wait()
		require.NoError(t, p.Configure("keyed_breaker", policy.Keyed{Each: policy.Breaker{Consecutive: 1, OpenFor: time.Hour}, Max: 2}))
		require.Nil(t, circuitOf(p, "fine"))
		require.Equal(t, policy.Open, keyIs(p, "open"))
		require.EqualValues(t, 1, k.ring.live.Load())
		_, _ = Do(t.Context(), p, to("fine"), succeeds)
		close(release)
		for _, f := range late {
			_, _ = f.Await(t.Context())
		}
		require.Equal(t, policy.Closed, keyIs(p, "fine"), "they were admitted before")
		require.Nil(t, circuitOf(p, "fine").cold.Load())
		require.Nil(t, circuitOf(p, "new"))
		_, _ = Do(t.Context(), p, to("fine"), fails)
		require.Equal(t, policy.Open, keyIs(p, "fine"), "and this one after")
		require.Equal(t, time.Hour, circuitOf(p, "fine").view.Load().OpenDelay)
		_, _ = Do(t.Context(), p, to("third"), succeeds)
		require.Nil(t, circuitOf(p, "third"), "there is place for two now")
		time.Sleep(time.Minute)
		_, _ = Do(t.Context(), p, to("open"), fails)
		require.Equal(t, time.Hour, circuitOf(p, "open").view.Load().OpenDelay)
		for _, cfg := range []policy.Config{policy.Breaker{}, policy.Keyed{Each: policy.Bulkhead{}}, policy.Keyed{}} {
			require.ErrorIs(t, p.Configure("keyed_breaker", cfg), messages.ErrInvalid)
		}
		own := policy.Keyed{Each: policy.Breaker{}, Key: func(c messages.Context) string { return c.Tenant }}
		require.NoError(t, p.Configure("keyed_breaker", own))
		_, _ = Do(t.Context(), p, &messages.Context{Tenant: "t", Target: "x"}, succeeds)
		require.Equal(t, 100_000, p.stack[0].inForce().(policy.Keyed).Max)
	})
}

func TestOrdersByKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, keyedBy(policy.Breaker{Consecutive: 1}), policy.Breaker{})
		sub := p.sys.Events().Subscribe(8, nil)
		o := policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "maintenance", By: "ann", TTL: time.Minute}
		require.NoError(t, p.Order("keyed_breaker/http://host/a", o))
		_, err := Do(t.Context(), p, to("http://host/a"), succeeds)
		refused := new(messages.RejectedError)
		require.ErrorAs(t, err, &refused)
		require.Equal(t, []any{"http://host/a", "forced_open", time.Minute, "ann"}, []any{refused.Key, refused.Reason, refused.RetryAfter, refused.Metadata["by"]})
		_, err = Do(t.Context(), p, to("http://host/b"), succeeds)
		require.NoError(t, err)
		s, ok := p.KeyState("keyed_breaker", "http://host/a")
		require.True(t, ok)
		require.Equal(t, []any{"forced open by ann for 1m0s more: maintenance", o}, []any{s.State, s.Order})
		require.Equal(t, "2 keys, 1 under an order", p.Explain().Layers[0].State)
		time.Sleep(time.Minute)
		synctest.Wait()
		_, err = Do(t.Context(), p, to("http://host/a"), succeeds)
		require.NoError(t, err, "its time is up")
		for _, want := range []messages.Kind{messages.BreakerOrdered, messages.BreakerOrderEnded} {
			e := <-sub.C()
			require.Equal(t, []any{want, "keyed_breaker", "http://host/a"}, []any{e.Kind, e.Source, e.Fields()["key"]})
		}
		for layer, says := range map[string]string{"keyed_breaker": "keyed_breaker/ and the key", "breaker/a": "it has no keys"} {
			err := p.Order(layer, o)
			require.ErrorIs(t, err, messages.ErrInvalid)
			require.ErrorContains(t, err, says)
		}
		require.ErrorIs(t, p.Order("keyed_breaker-2/a", o), messages.ErrNotFound)
		require.NoError(t, p.Order("keyed_breaker/", o))
		_, err = Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrBreakerOpen, "the empty key is one")
		_, ok = p.KeyState("keyed_breaker", "nobody")
		require.False(t, ok)
		_, ok = p.KeyState("breaker", "a")
		require.False(t, ok)
		for range p.Keys("no such layer") {
			t.Error("a key of nothing")
		}
	})
}

func TestKeyedBreakerEventsSayTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, keyedBy(policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1}))
		sub := p.sys.Events().Subscribe(64, nil)
		for _, key := range []string{"a", "b"} {
			_, _ = Do(t.Context(), p, to(key), fails)
		}
		time.Sleep(time.Second)
		_, _ = Do(t.Context(), p, to("a"), succeeds)
		var told []string
		for len(sub.C()) > 0 {
			e := <-sub.C()
			told = append(told, fmt.Sprintf("%s %s %s", e.Source, e.Kind, e.Fields()["key"]))
		}
		require.Equal(t, "keyed_breaker breaker.opened a, keyed_breaker breaker.opened b, keyed_breaker breaker.half_opened a, keyed_breaker breaker.closed a", strings.Join(told, ", "))
	})
}

func TestKeyedBreakerWithPermitsAndObserving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, keyedBy(policy.Breaker{Consecutive: 2, OpenFor: time.Second, Probes: 1}))
		for range 2 {
			permit, err := Acquire(t.Context(), p, to("a"))
			require.NoError(t, err)
			permit.Done(errBoom)
		}
		_, err := Acquire(t.Context(), p, to("a"))
		require.ErrorIs(t, err, messages.ErrBreakerOpen)
		permit, err := Acquire(t.Context(), p, to("b"))
		require.NoError(t, err)
		permit.Done(nil)
		require.EqualValues(t, 1, circuitOf(p, "b").first.good.Load())
		time.Sleep(time.Second)
		permit, err = Acquire(t.Context(), p, to("a"))
		require.NoError(t, err)
		require.EqualValues(t, 1, circuitOf(p, "a").probes.Load())
		permit.Done(context.Canceled)
		require.Zero(t, circuitOf(p, "a").probes.Load(), "who left decides nothing, and gives its permit back")
		require.Equal(t, policy.HalfOpen, keyIs(p, "a"))

		require.NoError(t, p.Observe("keyed_breaker", true))
		for range 2 {
			_, _ = Do(t.Context(), p, to("c"), fails)
		}
		r := Try(t.Context(), p, to("c"), succeeds)
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, []string{"keyed_breaker"}, r.Observed())
		require.NoError(t, p.Observe("keyed_breaker", false))
		_, err = Do(t.Context(), p, to("c"), succeeds)
		require.ErrorIs(t, err, messages.ErrBreakerOpen)
		n, _, why := p.Room("x")
		require.Positive(t, n)
		require.Empty(t, why, "whose call comes next nobody knows")
	})
}

// A key function of the user's may do anything; the call fails, and nothing is held.
func TestKeyFunctionThatPanicsFailsItsCall(t *testing.T) {
	p := pipelineOf(t, policy.Bulkhead{Permits: 2}, policy.Keyed{Each: policy.Breaker{}, Key: func(messages.Context) string { panic("why") }})
	r := Try(t.Context(), p, nil, succeeds)
	require.ErrorAs(t, r.Err, new(*messages.PanicError))
	_, err := Acquire(t.Context(), p, nil)
	require.ErrorAs(t, err, new(*messages.PanicError))
	require.EqualValues(t, 2, layerOf[*bulkhead](p).count())
	require.Zero(t, p.inFlight())
}

// Probes of one key that hang are written off, by the one timer of its shard, beside others that wait for theirs.
func TestProbeOfAKeyThatHangsIsWrittenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, keyedBy(policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1, Dwell: 2 * time.Second}))
		release := make(chan struct{})
		var all sync.WaitGroup
		for i := range 200 {
			key := strconv.Itoa(i)
			_, _ = Do(t.Context(), p, to(key), fails)
		}
		time.Sleep(time.Second)
		for i := range 200 {
			key := strconv.Itoa(i)
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				_, _ = Do(context.Background(), p, to(key), func(context.Context) (int, error) { <-release; return 1, nil })
			})
		}
		time.Sleep(2*time.Second + 100*time.Millisecond - 1)
		synctest.Wait()
		n := 0
		for i := range 200 {
			if keyIs(p, strconv.Itoa(i)) == policy.Open {
				n++
			}
		}
		require.Equal(t, 100, n, "each at its own time")
		time.Sleep(time.Second)
		close(release)
		all.Wait()
		for i := range 200 {
			require.Zero(t, circuitOf(p, strconv.Itoa(i)).probes.Load())
			require.Equal(t, policy.Open, keyIs(p, strconv.Itoa(i)), "what ended too late closes nothing")
		}
	})
}

// What is kept of a million keys that are fine must be small: nothing of them has a goroutine, a timer or a core.
func TestBytesPerKey(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's shadow is counted too; the run without it measures")
	}
	const keys = 100_000
	p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{}, Max: keys})
	names := make([]*messages.Context, keys)
	for i := range names {
		names[i] = to("host-" + strconv.Itoa(i) + ".example.com")
	}
	heap := func() uint64 {
		var m goruntime.MemStats
		goruntime.GC()
		goruntime.GC()
		goruntime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	_, _ = Do(t.Context(), p, nil, succeeds)
	before, routines := heap(), goruntime.NumGoroutine()
	for _, c := range names[1:] {
		_, _ = Do0(t.Context(), p, c, noop)
	}
	each := float64(heap()-before) / keys
	goruntime.KeepAlive(names)
	t.Logf("%.0f bytes a key, of them 32 for its text", each)
	require.Less(t, each, 300.0)
	require.EqualValues(t, keys, layerOf[*keyedBreaker](p).ring.live.Load())
	require.LessOrEqual(t, goruntime.NumGoroutine(), routines)
}

// Events of a keyed breaker are told outside its actors: who hears of one may call and order.
func TestListenerThatCalledBackIntoAKeyedBreakerDeadlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, keyedBy(policy.Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1}))
		var faults []error
		begin := time.Now()
		p.sys.Events().Subscribe(64, func(e messages.Event) bool {
			if e.Kind == messages.BreakerOpened && len(faults) == 0 {
				faults = append(faults, p.Order("keyed_breaker/a", policy.BreakerOrder{Kind: policy.Reset, Reason: "test"}))
				_, err := Do(context.Background(), p, to("a"), succeeds)
				faults = append(faults, err, p.Configure("keyed_breaker", keyedBy(policy.Breaker{Consecutive: 2})))
			}
			return true
		})
		_, _ = Do(t.Context(), p, to("a"), fails)
		require.Len(t, faults, 3)
		require.NoError(t, errors.Join(faults...))
		require.Zero(t, time.Since(begin), "nobody waited for anybody")
	})
}
