package actors

import (
	"context"
	"errors"
	"fmt"
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

func byOrder(c messages.Context) string { return c.OrderID }

func orderOf(id string) *messages.Context { return &messages.Context{OrderID: id} }

func returns[T any](v T) func(context.Context) (T, error) {
	return func(context.Context) (T, error) { return v, nil }
}

func never(t *testing.T) func(context.Context) (int, error) {
	return func(context.Context) (int, error) { t.Error("it ran"); return 0, nil }
}

func TestCacheHit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		p := newPipeline(t, newSystem(t), Spec{
			Layers: []policy.Config{policy.Timeout{Limit: time.Minute}, policy.Cache{Key: byOrder, TTL: time.Second}, policy.Retry{}},
			Hooks:  []Hook{rec.hook()},
		})
		ctx := t.Context()
		v, err := Do(ctx, p, orderOf("1"), returns(1))
		require.NoError(t, err)
		require.Equal(t, 1, v)
		synctest.Wait()
		rec.take()
		r := Try(ctx, p, orderOf("1"), never(t))
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, 1, r.Value)
		require.Zero(t, r.Attempts)
		require.NoError(t, r.Err)
		require.Equal(t, []string{"timeout", "cache"}, r.Policies())
		synctest.Wait()
		require.Equal(t, []string{"execute 0", "success 0 success"}, rec.take())

		v, err = Go(ctx, p, orderOf("1"), never(t)).Await(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		v, _ = Do(ctx, p, orderOf("2"), returns(2))
		require.Equal(t, 2, v, "another key")
		for n := range 2 {
			v, _ = Do(ctx, p, nil, returns(n))
			require.Equal(t, n, v, "no key, no cache")
		}
		time.Sleep(time.Second - 1)
		v, _ = Do(ctx, p, orderOf("1"), never(t))
		require.Equal(t, 1, v)
		time.Sleep(time.Nanosecond)
		v, _ = Do(ctx, p, orderOf("1"), returns(3))
		require.Equal(t, 3, v, "the time is up, to the nanosecond")
	})
}

func TestCacheKeepsNoErrorsAndNoFallbackAnswers(t *testing.T) {
	p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour}, policy.Fallback{
		Func: func(context.Context, error) (any, error) { return 5, nil },
		If:   func(err error) bool { return errors.Is(err, errBoom) },
	})
	ctx := t.Context()
	other := errors.New("other")
	_, err := Do(ctx, p, orderOf("1"), ctxFails(other))
	require.ErrorIs(t, err, other)
	r := Try(ctx, p, orderOf("1"), fails)
	require.Equal(t, messages.Fallback, r.Outcome)
	v, err := Do(ctx, p, orderOf("1"), succeeds)
	require.NoError(t, err)
	require.Equal(t, 7, v)
	v, _ = Do(ctx, p, orderOf("1"), never(t))
	require.Equal(t, 7, v)
}

// One pipeline serves calls of several types, and values of every shape.
func TestCacheNeverMixesTypes(t *testing.T) {
	p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true})
	ctx, k := t.Context(), orderOf("same")
	type thing struct{ n int }
	for range 2 { // made, and kept
		i, err := Do(ctx, p, k, returns(1))
		require.NoError(t, err)
		require.Equal(t, 1, i)
		s, err := Do(ctx, p, k, returns("x"))
		require.NoError(t, err)
		require.Equal(t, "x", s)
		ptr, err := Do(ctx, p, k, returns[*thing](nil))
		require.NoError(t, err)
		require.Nil(t, ptr)
		e, err := Do(ctx, p, k, returns[error](nil))
		require.NoError(t, err)
		require.NoError(t, e)
	}
	a, err := Do(ctx, p, k, returns[any](thing{3}))
	require.NoError(t, err)
	require.Equal(t, thing{3}, a)
	a, err = Do(ctx, p, k, returns[any]("not this one"))
	require.NoError(t, err)
	require.Equal(t, thing{3}, a, "a type that differs within an interface")
}

func TestStaleValueAnswersErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memorySink{}
		p := newPipeline(t, newSystem(t), Spec{
			Layers: []policy.Config{
				policy.Cache{Key: byOrder, TTL: time.Second, StaleFor: time.Hour}, policy.Timeout{Limit: 10 * time.Second}, policy.Breaker{Consecutive: 2, OpenFor: time.Minute},
			},
			Sinks: []FailureSink{sink},
		})
		ctx := t.Context()
		_, _ = Do(ctx, p, orderOf("1"), succeeds)
		time.Sleep(2 * time.Second)
		stale := func(fn func(context.Context) (int, error)) Result[int] {
			t.Helper()
			r := Try(ctx, p, orderOf("1"), fn)
			require.Equal(t, messages.Fallback, r.Outcome)
			require.Equal(t, 7, r.Value)
			return r
		}
		r := stale(fails)
		require.ErrorIs(t, r.Err, errBoom)
		require.Equal(t, 1, r.Attempts)
		require.Equal(t, []string{"cache", "timeout", "breaker"}, r.Policies())
		hangs := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		require.ErrorIs(t, stale(hangs).Err, messages.ErrTimeout)
		require.Equal(t, policy.Open, state(p), "the breaker inside saw both failures")
		require.ErrorIs(t, stale(never(t)).Err, messages.ErrBreakerOpen)
		synctest.Wait()
		require.Empty(t, sink.letters, "what was answered is no dead letter, unless asked for")

		gone, cancel := context.WithCancel(ctx)
		cancel()
		require.Equal(t, messages.Canceled, Try(gone, p, orderOf("1"), never(t)).Outcome)
		require.Equal(t, messages.Rejected, Try(ctx, p, orderOf("2"), never(t)).Outcome, "no value, no answer")
		time.Sleep(time.Hour)
		_, _ = Do(ctx, p, orderOf("3"), fails) // the probe
		require.Equal(t, messages.Rejected, Try(ctx, p, orderOf("1"), never(t)).Outcome, "too stale")
	})
}

func TestStaleValueNeverAnswersACancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Second, StaleFor: time.Hour})
		_, _ = Do(t.Context(), p, orderOf("1"), succeeds)
		time.Sleep(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		r := Try(ctx, p, orderOf("1"), func(ctx context.Context) (int, error) { cancel(); return 0, ctx.Err() })
		require.Equal(t, messages.Canceled, r.Outcome)
	})
}

// A call that is answered at its limit, or finds the intake full, is answered by those who stand outside: a cache does.
func TestStaleValueAnswersForFunctionsThatStillRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Intake: 1, Layers: []policy.Config{
			policy.Cache{Key: byOrder, TTL: time.Second, StaleFor: time.Hour}, policy.Timeout{Limit: time.Second},
		}})
		ctx := t.Context()
		_, _ = Do(ctx, p, orderOf("1"), succeeds)
		time.Sleep(time.Minute)
		r := Go(ctx, p, orderOf("1"), func(context.Context) (int, error) { time.Sleep(time.Minute); return 9, nil }).Result(ctx)
		require.Equal(t, messages.Fallback, r.Outcome)
		require.Equal(t, 7, r.Value)
		require.ErrorIs(t, r.Err, messages.ErrTimeout)
		r = Go(ctx, p, orderOf("1"), never(t)).Result(ctx)
		require.Equal(t, messages.Fallback, r.Outcome)
		require.ErrorIs(t, r.Err, messages.ErrIntakeFull)
		r = Go(ctx, p, nil, never(t)).Result(ctx)
		require.Equal(t, messages.Rejected, r.Outcome)
		require.NoError(t, p.Observe("cache", true))
		r = Go(ctx, p, orderOf("1"), never(t)).Result(ctx)
		require.Equal(t, messages.Rejected, r.Outcome, "it only observes")
		require.Equal(t, []string{"cache"}, r.Observed())
		time.Sleep(time.Minute)
	})
}

// A call may be over before it began while its record still remembers what was observed when it was used last.
func TestObservingFallbackAnsweredAFullIntake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Intake: 1, Observe: true, Layers: []policy.Config{policy.FallbackValue(1)}})
		busy := Go(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(time.Minute); return 9, nil })
		_, err := Go(t.Context(), p, nil, never(t)).Await(t.Context())
		require.ErrorIs(t, err, messages.ErrIntakeFull)
		_, _ = busy.Await(t.Context())
	})
}

func TestCacheNeverHoldsMoreThanItsMax(t *testing.T) {
	p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour, Max: 50})
	l := layerOf[*cache](p)
	kept := func() (n int) {
		for i := range l.store.parts {
			n += len(l.store.parts[i].values)
		}
		require.EqualValues(t, n, l.store.size.Load())
		return n
	}
	var all sync.WaitGroup
	var over atomic.Int64
	for g := range 16 {
		all.Go(func() {
			for i := range 500 {
				_, _ = Do(context.Background(), p, orderOf(fmt.Sprint(g*7+i)), succeeds)
				if l.store.size.Load() > 50 {
					over.Add(1)
				}
			}
		})
	}
	all.Wait()
	require.Zero(t, over.Load())
	require.Equal(t, 50, kept())
	require.NoError(t, p.Configure("cache", policy.Cache{Key: byOrder, TTL: time.Hour, Max: 3}))
	require.Equal(t, 3, kept())
	_, _ = Do(t.Context(), p, orderOf("new"), succeeds)
	require.Equal(t, 3, kept())
	_, err := Do(t.Context(), p, orderOf("new"), never(t))
	require.NoError(t, err, "the newest is there")
}

func TestCacheGivesUpWhatIsNotUsed(t *testing.T) {
	p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour, Max: 64})
	runs := 0
	hot := func() {
		_, _ = Do(t.Context(), p, orderOf("hot"), func(context.Context) (int, error) { runs++; return 1, nil })
	}
	for i := range 5000 {
		hot()
		_, _ = Do(t.Context(), p, orderOf(fmt.Sprint("cold ", i)), succeeds)
	}
	require.Less(t, runs, 50, "what is used between any two others stays, all but always")
}

// Among values that nobody used the oldest goes, and the newest is not the next to go.
func TestCacheGivesUpTheOldest(t *testing.T) {
	s := newCacheStore(3)
	var keys []cacheKey // of one part
	for i := 0; len(keys) < 20; i++ {
		if k := (cacheKey{key: fmt.Sprint(i)}); s.part(k) == 0 {
			keys = append(keys, k)
		}
	}
	for i, k := range keys {
		s.put(k, i, 0, 0)
		for j, old := range keys[:i+1] {
			require.Equal(t, j > i-3, s.parts[0].values[old] != nil, "%d of %d", j, i)
		}
	}
}

// The store agrees with a map of what was put last, for as long as it remembers, and with its limit always.
func TestCacheStoreAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		model := map[cacheKey]*cachedValue{}
		limit := int64(rapid.IntRange(1, 8).Draw(t, "limit"))
		s := newCacheStore(limit)
		var now int64
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			k := cacheKey{nil, rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}).Draw(t, "key")}
			now++
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0, 1:
				began := now - rapid.Int64Range(0, 5).Draw(t, "took")
				_, _, had := s.get(k)
				s.put(k, now, began, now)
				if m, ok := model[k]; !had || !ok || began >= m.began {
					model[k] = &cachedValue{value: now, began: began, at: now}
				}
				_, _, ok := s.get(k)
				require.True(t, ok, "the newest is kept")
			case 2, 3:
				if v, at, ok := s.get(k); ok {
					require.Equal(t, model[k].value, v)
					require.Equal(t, model[k].at, at)
				}
			case 4:
				limit = int64(rapid.IntRange(1, 8).Draw(t, "limit"))
				s.trim(limit)
			}
			n := 0
			for i := range s.parts {
				p := &s.parts[i]
				n += len(p.values)
				require.Len(t, p.ring, len(p.values)+len(p.free))
			}
			require.EqualValues(t, n, s.size.Load())
			require.LessOrEqual(t, s.size.Load(), limit)
		}
	})
}

// A value whose call began earlier, and ended later, is older: it does not replace the newer one.
func TestSlowCallReplacedTheValueOfANewerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour})
		slow := Go(t.Context(), p, orderOf("1"), func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil })
		time.Sleep(time.Second)
		_, _ = Do(t.Context(), p, orderOf("1"), returns(2))
		v, _ := slow.Await(t.Context())
		require.Equal(t, 1, v)
		v, _ = Do(t.Context(), p, orderOf("1"), never(t))
		require.Equal(t, 2, v)
	})
}

func noFlights(t *testing.T, p *Pipeline) {
	t.Helper()
	for i := range layerOf[*cache](p).store.parts {
		require.Empty(t, layerOf[*cache](p).store.parts[i].flights)
	}
}

// The value of a function that went on after its caller was told of a timeout is kept, when the cache stands inside.
func TestLateValueIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: time.Second}, policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true})
		_, err := Go(t.Context(), p, orderOf("1"), func(context.Context) (int, error) { time.Sleep(time.Minute); return 7, nil }).Await(t.Context())
		require.ErrorIs(t, err, messages.ErrTimeout)
		time.Sleep(time.Minute)
		v, _ := Do(t.Context(), p, orderOf("1"), never(t))
		require.Equal(t, 7, v)
	})
}

func TestCacheThatOnlyObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Observe: true, Layers: []policy.Config{policy.Cache{Key: byOrder, TTL: time.Second, StaleFor: time.Hour, Collapse: true}}})
		events := p.sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.PolicyObserved })
		r := Try(t.Context(), p, orderOf("1"), returns(1))
		require.Empty(t, r.Observed())
		r = Try(t.Context(), p, orderOf("1"), returns(2))
		require.Equal(t, 2, r.Value, "it ran")
		require.Equal(t, []string{"cache"}, r.Observed())
		require.Equal(t, "would have answered", (<-events.C()).Reason)
		time.Sleep(time.Minute)
		r = Try(t.Context(), p, orderOf("1"), fails)
		require.Equal(t, messages.Failure, r.Outcome)
		require.Equal(t, []string{"cache"}, r.Observed())
		slow := Go(t.Context(), p, orderOf("2"), func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil })
		synctest.Wait()
		r = Try(t.Context(), p, orderOf("2"), returns(2))
		require.Equal(t, 2, r.Value, "nobody waits for another")
		_, _ = slow.Await(t.Context())
		require.NoError(t, p.Observe("", false))
		v, _ := Do(t.Context(), p, orderOf("3"), returns(3))
		require.Equal(t, 3, v)
		v, _ = Do(t.Context(), p, orderOf("3"), never(t))
		require.Equal(t, 3, v)
	})
}

// restart makes a layer's actor fail once. meanwhile runs before it is back, and again after.
func restart[C policy.Config](t *testing.T, l *settled[C], meanwhile func()) {
	t.Helper()
	inner, broken := l.changed, true
	l.changed = func(c C) {
		if broken {
			broken = false
			panic("broken")
		}
		inner(c)
	}
	require.ErrorIs(t, settle(l.host, *l.settings.Load()), messages.ErrUnavailable)
	require.Equal(t, hostFailed, l.host.status.Load())
	meanwhile()
	time.Sleep(time.Minute)
	require.Equal(t, hostUp, l.host.status.Load())
	meanwhile()
}

func TestCacheSurvivesRestartAndNewSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour})
		_, _ = Do(t.Context(), p, orderOf("1"), succeeds)
		restart(t, &layerOf[*cache](p).settled, func() {
			v, err := Do(t.Context(), p, orderOf("1"), never(t))
			require.NoError(t, err)
			require.Equal(t, 7, v)
		})
		require.NoError(t, p.Configure("cache", policy.Cache{Key: byOrder, TTL: time.Second}))
		v, _ := Do(t.Context(), p, orderOf("1"), returns(8))
		require.Equal(t, 8, v, "judged by the settings of now")
		require.NoError(t, p.Configure("cache", policy.Cache{Key: byOrder, TTL: time.Hour}))
		v, _ = Do(t.Context(), p, orderOf("1"), never(t))
		require.Equal(t, 8, v)
	})
}

func TestCacheKeyThatPanicsIsAFailure(t *testing.T) {
	p := pipelineOf(t, policy.Bulkhead{Permits: 1}, policy.Cache{Key: func(messages.Context) string { panic("key") }, TTL: time.Hour, Collapse: true})
	for range 2 {
		_, err := Do(t.Context(), p, orderOf("1"), never(t))
		panicked := new(messages.PanicError)
		require.ErrorAs(t, err, &panicked)
	}
	require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
}

func TestPermitsPassTheCacheBy(t *testing.T) {
	p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true}, policy.Idempotency{})
	for range 2 {
		permit, err := Acquire(t.Context(), p, &messages.Context{OrderID: "1", IdempotencyKey: "1"})
		require.NoError(t, err)
		defer permit.Done(nil)
	}
}
