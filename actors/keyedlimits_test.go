package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	goruntime "runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// keptBy is what a layer keeps of its keys, by key.
func keptBy(p *Pipeline, layer string) map[string]string {
	kept := map[string]string{}
	for s := range p.Keys(layer) {
		kept[s.Key] = s.State
	}
	return kept
}

// outcome is how a call ended, without what it says of its layer.
func outcome(err error) string {
	rejected := new(messages.RejectedError)
	if errors.As(err, &rejected) {
		return fmt.Sprintf("%s %v: %v", rejected.Reason, rejected.RetryAfter, rejected.Cause)
	}
	return fmt.Sprint(err)
}

// side is one of two ways to have a limit for each key.
type side struct {
	began map[string][]int
	ended map[int]string
	mu    sync.Mutex
}

func newSide() *side { return &side{began: map[string][]int{}, ended: map[int]string{}} }

func (s *side) call(ctx context.Context, p *Pipeline, key string, id int, release chan struct{}) {
	go func() {
		_, err := Do(ctx, p, to(key), func(context.Context) (int, error) {
			s.mu.Lock()
			s.began[key] = append(s.began[key], id)
			s.mu.Unlock()
			<-release
			return 1, nil
		})
		s.mu.Lock()
		s.ended[id] = outcome(err)
		s.mu.Unlock()
	}()
}

// agree runs the same history through one layer that keeps all keys apart and through a pipeline for each key: what
// begins when, and how everything ends must be the same.
func agree(t *testing.T, seed uint64, keyed policy.Keyed, settings func(*rand.Rand) policy.Config, takes func(*rand.Rand) bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 17))
		sys := newSystem(t)
		one := newPipelineNamed(t, sys, "keyed", keyed)
		keys := []string{"", "a", "b", "c"}
		each := map[string]*Pipeline{}
		for _, k := range keys {
			each[k] = newPipelineNamed(t, sys, "plain-"+k, keyed.Each)
		}
		x, y := newSide(), newSide()
		type open struct {
			cancel  context.CancelFunc
			release chan struct{}
		}
		var running []open
		closed := make(chan struct{})
		close(closed)
		for id := range 400 {
			switch n := r.IntN(20); {
			case n < 10:
				ctx, cancel := context.WithCancel(t.Context())
				if r.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(400))*ms)
				}
				release := closed
				if takes(r) {
					release = make(chan struct{})
				}
				key := keys[r.IntN(len(keys))]
				x.call(ctx, one, key, id, release)
				y.call(ctx, each[key], key, id, release)
				running = append(running, open{cancel, release})
			case n < 14 && len(running) > 0:
				i := r.IntN(len(running))
				if running[i].release != closed {
					close(running[i].release)
				}
				running = slices.Delete(running, i, i+1)
			case n < 15 && len(running) > 0:
				running[r.IntN(len(running))].cancel()
			case n < 18:
				time.Sleep(time.Duration(r.IntN(300)) * ms)
			case n < 19:
				time.Sleep(time.Duration(r.IntN(5)) * time.Second) // keys go
			default:
				next := keyed
				next.Each = settings(r)
				require.NoError(t, one.Configure(keyed.Kind(), next))
				for _, p := range each {
					require.NoError(t, p.Configure(keyed.Each.Kind(), next.Each))
				}
			}
			synctest.Wait()
			x.mu.Lock()
			y.mu.Lock()
			for k := range y.began { // two that begin at once do so in any order
				slices.Sort(x.began[k])
				slices.Sort(y.began[k])
			}
			require.Equal(t, y.began, x.began, "seed %d, step %d", seed, id)
			require.Equal(t, y.ended, x.ended, "seed %d, step %d", seed, id)
			x.mu.Unlock()
			y.mu.Unlock()
		}
		for _, o := range running {
			o.cancel()
			synctest.Wait() // or it might begin, or not, in the same moment
			if o.release != closed {
				close(o.release)
			}
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		require.Equal(t, y.ended, x.ended)
	})
}

func TestKeyedBulkheadAgreesWithABulkheadForEachKey(t *testing.T) {
	settings := func(r *rand.Rand) policy.Config {
		b := policy.Bulkhead{Permits: 1 + r.IntN(4), Queue: r.IntN(4)}
		if b.Queue > 0 && r.IntN(2) == 0 {
			b.MaxWait = time.Duration(1+r.IntN(500)) * ms
		}
		return b
	}
	for seed := range uint64(20) {
		agree(t, seed, policy.Keyed{Each: policy.Bulkhead{Permits: 2, Queue: 2}, Idle: time.Second}, settings, func(r *rand.Rand) bool { return r.IntN(3) > 0 })
	}
}

func TestKeyedRateLimitAgreesWithARateLimitForEachKey(t *testing.T) {
	settings := func(r *rand.Rand) policy.Config {
		l := policy.RateLimit{Limit: 1 + r.IntN(10), Burst: 1 + r.IntN(5), Queue: r.IntN(4)}
		if l.Queue > 0 && r.IntN(2) == 0 {
			l.MaxWait = time.Duration(1+r.IntN(500)) * ms
		}
		return l
	}
	for seed := range uint64(20) {
		agree(t, seed, policy.Keyed{Each: policy.RateLimit{Limit: 3, Queue: 2}, Idle: time.Second}, settings, func(*rand.Rand) bool { return false })
	}
}

// From 64 goroutines, with more keys than places, entries that are dropped all the time and new settings: never more
// in use of a key than it may have, and nobody who waits is forgotten.
func TestKeyHadMorePermitsWhenItsEntryCameAgain(t *testing.T) {
	const permits, keys = 3, 24
	for name, most := range map[string]int{"places for all": 100, "places for some": 8, "a single place": 1} {
		t.Run(name, func(t *testing.T) {
			cfg := policy.Keyed{Each: policy.Bulkhead{Permits: permits, Queue: 4}, Max: most}
			p := pipelineOf(t, cfg)
			l := layerOf[*keyedBulkhead](p)
			var inUse [keys]atomic.Int64
			var over, ran, refused, dropped atomic.Int64
			done := make(chan struct{})
			var all, beside sync.WaitGroup
			beside.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-done:
						return
					default:
					}
					for shard := range l.ring.shards {
						for e := range l.ring.shards[shard].all() {
							if l.ring.drop(shard, e, p.sys.now()) {
								dropped.Add(1)
							}
						}
					}
					if i%10 == 0 {
						next := cfg
						next.Each = policy.Bulkhead{Permits: permits - i/10%2, Queue: 4}
						require.NoError(t, p.Configure("keyed_bulkhead", next))
					}
					require.LessOrEqual(t, l.ring.live.Load(), int64(most))
					goruntime.Gosched()
				}
			})
			for g := range 64 {
				all.Go(func() {
					for i := range 300 {
						k := (g*7 + i*i) % keys
						ctx, cancel := context.WithCancel(context.Background())
						if i%5 == 0 {
							time.AfterFunc(20*time.Microsecond, cancel)
						}
						var one sync.WaitGroup
						one.Go(func() { // its own goroutine: Goexit ends it
							_, err := Do(ctx, p, to(strconv.Itoa(k)), func(context.Context) (int, error) {
								if inUse[k].Add(1) > permits {
									over.Add(1)
								}
								defer inUse[k].Add(-1)
								ran.Add(1)
								goruntime.Gosched()
								return exit(i, cancel)
							})
							if errors.Is(err, messages.ErrBulkheadFull) {
								refused.Add(1)
							}
						})
						one.Wait()
						cancel()
					}
				})
			}
			all.Wait()
			close(done)
			beside.Wait()
			t.Logf("%d ran, %d refused, %d dropped", ran.Load(), refused.Load(), dropped.Load())
			require.Zero(t, over.Load())
			require.Positive(t, ran.Load())
			requireNothingInUse(t, l)
		})
	}
}

func requireNothingInUse(t *testing.T, l *keyedBulkhead) {
	t.Helper()
	for shard := range l.ring.shards {
		require.Empty(t, l.spilled[shard])
		for e := range l.ring.shards[shard].all() {
			require.Zero(t, e.load().inUse(), e.key)
			require.Zero(t, e.load().waiting(), e.key)
		}
	}
	require.Zero(t, l.ring.overflow.load().inUse())
	require.Zero(t, l.ring.overflow.load().waiting())
}

// The same of a rate limit: never more tokens of a key than its burst and what it regains.
func TestKeyHadMoreTokensWhenItsEntryCameAgain(t *testing.T) {
	const keys, rate, burst = 12, 500, 4
	for name, row := range map[string]struct{ most, queue int }{"places for all": {100, 0}, "places for some": {4, 0}, "waiting": {4, 3}, "a single place": {1, 2}} {
		t.Run(name, func(t *testing.T) {
			cfg := policy.Keyed{Each: policy.RateLimit{Limit: rate, Burst: burst, Queue: row.queue}, Max: row.most}
			p := pipelineOf(t, cfg)
			l := layerOf[*keyedRateLimit](p)
			var began [keys]atomic.Int64
			var refused, dropped atomic.Int64
			done := make(chan struct{})
			var all, beside sync.WaitGroup
			first := time.Now()
			beside.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-done:
						return
					default:
					}
					for shard := range l.ring.shards {
						for e := range l.ring.shards[shard].all() {
							if l.ring.drop(shard, e, p.sys.now()) {
								dropped.Add(1)
							}
						}
					}
					if i%10 == 0 { // other settings with the same rate
						next := cfg
						next.Each = policy.RateLimit{Limit: rate * (1 + i/10%2), Per: time.Second * time.Duration(1+i/10%2), Burst: burst, Queue: row.queue}
						require.NoError(t, p.Configure("keyed_rate_limit", next))
					}
					goruntime.Gosched()
				}
			})
			for g := range 64 {
				all.Go(func() {
					for i := 0; time.Since(first) < 400*ms; i++ {
						turn := int(time.Since(first) / (20 * ms)) // the others rest, and their buckets become full
						k := (turn%3*keys/3 + (g*7+i*i)%(keys/3)) % keys
						ctx, cancel := context.WithCancel(context.Background())
						if i%5 == 0 {
							time.AfterFunc(20*time.Microsecond, cancel)
						}
						_, err := Do0(ctx, p, to(strconv.Itoa(k)), func() (int, error) { began[k].Add(1); return 1, nil })
						if errors.Is(err, messages.ErrRateLimited) {
							refused.Add(1)
						}
						cancel()
						goruntime.Gosched()
					}
				})
			}
			all.Wait()
			close(done)
			beside.Wait()
			allowed := burst + time.Since(first).Seconds()*rate
			total := int64(0)
			for k := range began {
				require.LessOrEqual(t, float64(began[k].Load()), allowed, "key %d", k)
				total += began[k].Load()
			}
			t.Logf("%d began, of %.0f for each of %d keys; %d refused, %d dropped", total, allowed, keys, refused.Load(), dropped.Load())
			require.Positive(t, refused.Load())
			require.Positive(t, total)
		})
	}
}

// Everybody waits, and entries are dropped whenever they can be: all get their turn.
func TestWaiterWasForgottenWhenItsEntryWent(t *testing.T) {
	for _, cfg := range []policy.Keyed{
		{Each: policy.Bulkhead{Permits: 1, Queue: 1000}, Max: 2},
		{Each: policy.RateLimit{Limit: 20_000, Burst: 1, Queue: 1000}, Max: 2},
	} {
		t.Run(cfg.Kind(), func(t *testing.T) {
			p := pipelineOf(t, cfg)
			drop := func() {}
			switch l := p.stack[0].(type) {
			case *keyedBulkhead:
				drop = func() { dropAll(&l.ring, p.sys.now()) }
			case *keyedRateLimit:
				drop = func() { dropAll(&l.ring, p.sys.now()) }
			}
			done := make(chan struct{})
			var all, beside sync.WaitGroup
			beside.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						drop()
						goruntime.Gosched()
					}
				}
			})
			for g := range 64 {
				all.Go(func() {
					for i := range 50 {
						_, err := Do(context.Background(), p, to(strconv.Itoa((g+i)%5)), func(context.Context) (int, error) { goruntime.Gosched(); return 1, nil })
						require.NoError(t, err)
					}
				})
			}
			all.Wait()
			close(done)
			beside.Wait()
		})
	}
}

func dropAll[T any, P keyEntry[T]](r *keyring[T, P], now int64) (n int) {
	for shard := range r.shards {
		for e := range r.shards[shard].all() {
			if r.drop(shard, e, now) {
				n++
			}
		}
	}
	return n
}

func TestKeyedBulkheadSaysWhose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Bulkhead{Permits: 2, Queue: 1, MaxWait: time.Second}})
		release := make(chan struct{})
		hang := func(context.Context) (int, error) { <-release; return 1, nil }
		var held []Future[int]
		for range 3 {
			held = append(held, Go(t.Context(), p, to("a"), hang))
			synctest.Wait() // one after the other: the third waits
		}
		_, err := Do(t.Context(), p, to("a"), succeeds)
		rejected := new(messages.RejectedError)
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, messages.RejectedError{By: "keyed_bulkhead", Key: "a", Reason: "full", Cause: messages.ErrBulkheadFull}, *rejected)
		for _, other := range []*messages.Context{to("b"), nil} {
			_, err = Do(t.Context(), p, other, succeeds)
			require.NoError(t, err)
		}
		require.Equal(t, map[string]string{"a": "2 of 2 permits in use, 1 waiting", "b": "0 of 2 permits in use", "": "0 of 2 permits in use"}, keptBy(p, "keyed_bulkhead"))
		s, ok := p.KeyState("keyed_bulkhead", "a")
		require.True(t, ok)
		require.Equal(t, "2 of 2 permits in use, 1 waiting", s.State)
		_, ok = p.KeyState("keyed_bulkhead", "c")
		require.False(t, ok)
		require.Contains(t, p.Explain().String(), "now 3 keys")
		_, err = held[2].Await(t.Context())
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, "a: wait_too_long", rejected.Key+": "+rejected.Reason)
		close(release)
		for _, f := range held[:2] {
			_, err = f.Await(t.Context())
			require.NoError(t, err)
		}
		require.ErrorIs(t, p.Observe("keyed_bulkhead", true), messages.ErrInvalid, "it is there to keep the process alive")
		requireNothingInUse(t, layerOf[*keyedBulkhead](p))
	})
}

func TestKeyedRateLimitSaysWhose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.RateLimit{Limit: 10, Burst: 2, Queue: 1}})
		call := func(key string) error { _, err := Do(t.Context(), p, to(key), succeeds); return err }
		require.NoError(t, call("a"))
		require.Equal(t, "1 of 2 tokens left", keptBy(p, "keyed_rate_limit")["a"])
		require.NoError(t, call("a"))
		require.Equal(t, "limited for 100ms more", keptBy(p, "keyed_rate_limit")["a"])
		waits := Go(t.Context(), p, to("a"), succeeds)
		synctest.Wait()
		s, ok := p.KeyState("keyed_rate_limit", "a")
		require.True(t, ok)
		require.Equal(t, "limited for 200ms more, 1 waiting", s.State)
		require.Equal(t, time.Now().UnixNano(), s.LastUsed.UnixNano())
		rejected := new(messages.RejectedError)
		require.ErrorAs(t, call("a"), &rejected)
		require.Equal(t, messages.RejectedError{By: "keyed_rate_limit", Key: "a", Reason: "queue_full", RetryAfter: 200 * ms, Cause: messages.ErrRateLimited}, *rejected)
		require.NoError(t, call("b"))
		_, err := waits.Await(t.Context())
		require.NoError(t, err)
	})
}

// A key that is not called any more goes, unless it has something in use.
func TestKeysInUseAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Bulkhead{Permits: 2, Queue: 3}, Idle: time.Minute})
		l := layerOf[*keyedBulkhead](p)
		release := make(chan struct{})
		hang := func(context.Context) (int, error) { <-release; return 1, nil }
		var held []Future[int]
		for range 3 {
			held = append(held, Go(t.Context(), p, to("busy"), hang))
		}
		synctest.Wait() // they have begun
		for i := range 1000 {
			_, err := Do(t.Context(), p, to(strconv.Itoa(i)), succeeds)
			require.NoError(t, err)
		}
		require.EqualValues(t, 1001, l.ring.live.Load())
		time.Sleep(59 * time.Second)
		require.EqualValues(t, 1001, l.ring.live.Load())
		_, err := Do(t.Context(), p, to("17"), succeeds)
		require.NoError(t, err)
		time.Sleep(20 * time.Second)
		require.Equal(t, map[string]string{"busy": "2 of 2 permits in use, 1 waiting", "17": "0 of 2 permits in use"}, keptBy(p, "keyed_bulkhead"))
		time.Sleep(time.Hour)
		require.Equal(t, map[string]string{"busy": "2 of 2 permits in use, 1 waiting"}, keptBy(p, "keyed_bulkhead"))
		close(release)
		for _, f := range held {
			_, err = f.Await(t.Context())
			require.NoError(t, err)
		}
		time.Sleep(2 * time.Minute)
		require.Empty(t, keptBy(p, "keyed_bulkhead"))
		for i := range l.ring.shards {
			require.False(t, l.ring.shards[i].awake.Load(), "nobody ticks for nothing")
		}
	})
}

// What a key has spent is not forgotten when it is not called for longer than keys stay.
func TestIdleKeyForgotWhatItHadSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.RateLimit{Limit: 1, Per: time.Hour}, Idle: time.Second})
		call := func(key string) error { _, err := Do(t.Context(), p, to(key), succeeds); return err }
		require.NoError(t, call("a"))
		for range 5 {
			time.Sleep(10 * time.Minute)
			require.ErrorIs(t, call("a"), messages.ErrRateLimited)
		}
		time.Sleep(10*time.Minute - 1)
		require.Equal(t, map[string]string{"a": "limited for 1ns more"}, keptBy(p, "keyed_rate_limit"))
		time.Sleep(2 * time.Second)
		require.Empty(t, keptBy(p, "keyed_rate_limit"))
		require.NoError(t, call("a"))
		require.ErrorIs(t, call("a"), messages.ErrRateLimited)
	})
}

// A call that read the clock before its key's bucket was full again found a new one that was full.
func TestStaleReadingFoundAFullBucketThatCameAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.RateLimit{Limit: 1, Burst: 1}, Idle: time.Hour})
		l := layerOf[*keyedRateLimit](p)
		time.Sleep(time.Second)
		began := l.sys.now()
		admit := func(now int64) (int64, error) {
			r := poolOf[int](p).take(t.Context(), to("a"))
			r.now = now
			return r.now, l.admit(&r.call)
		}
		_, err := admit(began)
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, 1, dropAll(&l.ring, l.sys.now()))
		_, err = admit(began + int64(900*ms))
		require.NoError(t, err, "it reads the clock again")
		require.False(t, func() bool { _, err := admit(l.sys.now() + int64(999*ms)); return err == nil }(), "the token was spent now, not then")
		_, err = admit(l.sys.now() + int64(time.Second))
		require.NoError(t, err)
	})
}

// A key whose calls run in the overflow gets a place of its own: they count there.
func TestKeyGotAPlaceAndMorePermitsThanItMayHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Keyed{Each: policy.Bulkhead{Permits: 2, Queue: 1}, Max: 1}}})
		events := p.sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.KeyedOverflow })
		release := map[string]chan struct{}{"a": make(chan struct{}), "b": make(chan struct{})}
		hang := func(key string) Future[int] {
			f := Go(t.Context(), p, to(key), func(context.Context) (int, error) { <-release[key]; return 1, nil })
			synctest.Wait()
			return f
		}
		a := hang("a")
		b, b2 := hang("b"), hang("b") // in the overflow
		e := <-events.C()
		require.Equal(t, "keyed_bulkhead", e.Source)
		require.Equal(t, messages.KeysOverflow{Count: 1, Max: 1}, e.Data)
		c := Go(t.Context(), p, to("c"), succeeds) // waits there
		synctest.Wait()
		_, err := Do(t.Context(), p, to("d"), succeeds)
		require.ErrorIs(t, err, messages.ErrBulkheadFull, "they share it")
		require.Equal(t, map[string]string{"a": "1 of 2 permits in use"}, keptBy(p, "keyed_bulkhead"))
		close(release["a"])
		_, err = a.Await(t.Context())
		require.NoError(t, err)

		third := Go(t.Context(), p, to("b"), succeeds) // takes the place of a
		synctest.Wait()
		require.Equal(t, map[string]string{"b": "2 of 2 permits in use, 1 waiting"}, keptBy(p, "keyed_bulkhead"))
		_, err = Do(t.Context(), p, to("b"), succeeds)
		require.ErrorIs(t, err, messages.ErrBulkheadFull)
		close(release["b"])
		for _, f := range []Future[int]{b, b2, c, third} {
			_, err = f.Await(t.Context())
			require.NoError(t, err)
		}
		requireNothingInUse(t, layerOf[*keyedBulkhead](p))
	})
}

func TestKeyGotAPlaceAndForgotWhatItHadSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.RateLimit{Limit: 2, Per: time.Hour, Queue: 5}, Max: 1})
		l := layerOf[*keyedRateLimit](p)
		call := func(key string) error {
			ctx, cancel := context.WithTimeout(t.Context(), ms)
			defer cancel()
			_, err := Do(ctx, p, to(key), succeeds)
			return err
		}
		require.NoError(t, call("a"))
		require.NoError(t, call("b"))
		require.NoError(t, call("c"))
		require.ErrorIs(t, call("b"), messages.ErrRateLimited, "b and c share one bucket")
		waits := Go(t.Context(), p, to("b"), succeeds) // in the overflow
		time.Sleep(30*time.Minute - 1)
		require.Contains(t, keptBy(p, "keyed_rate_limit"), "a")
		time.Sleep(time.Nanosecond) // a's bucket is full, and b's wait over
		synctest.Wait()
		_, err := waits.Await(t.Context())
		require.NoError(t, err)
		require.ErrorIs(t, call("b"), messages.ErrRateLimited, "in a bucket of its own now, which is as empty")
		require.NotNil(t, l.ring.peek("b"))
		time.Sleep(30 * time.Minute)
		require.NoError(t, call("b"))
		require.ErrorIs(t, call("b"), messages.ErrRateLimited)
	})
}

// A waiter of the overflow whose key has got a place meanwhile needs a token of its key's own.
func TestWaiterOfTheOverflowPassedItsKeysOwnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.RateLimit{Limit: 1, Burst: 1, Queue: 5}, Max: 1})
		w := newWaiters()
		call := func(key string, i int) {
			w.all.Go(func() {
				_, err := Do(t.Context(), p, to(key), func(context.Context) (int, error) {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.began[i] = time.Since(w.start)
					return 1, nil
				})
				require.NoError(t, err)
			})
			synctest.Wait()
		}
		call("a", 0) // has the place
		call("b", 1) // takes the token of the overflow
		call("b", 2) // waits for the next until 1 s
		call("b", 3) // until 2 s
		time.Sleep(1500 * ms)
		call("b", 4) // gets a place, and waits there until 2 s
		require.NotNil(t, layerOf[*keyedRateLimit](p).ring.peek("b"))
		w.all.Wait()
		require.Equal(t, map[int]time.Duration{0: 0, 1: 0, 2: time.Second, 3: 3 * time.Second, 4: 2 * time.Second}, w.began)
	})
}

func TestKeyedLimitsAreConfiguredAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Bulkhead{Permits: 2, Queue: 2}}, policy.Keyed{Each: policy.RateLimit{Limit: 10, Per: time.Hour}})
		release := make(chan struct{})
		hang := func(context.Context) (int, error) { <-release; return 1, nil }
		var held []Future[int]
		for i := range 12 {
			held = append(held, Go(t.Context(), p, to(strconv.Itoa(i%3)), hang))
			synctest.Wait()
		}
		state := func() (string, string) { return keptBy(p, "keyed_bulkhead")["1"], keptBy(p, "keyed_rate_limit")["1"] }
		b, r := state()
		require.Equal(t, "2 of 2 permits in use, 2 waiting", b)
		require.Equal(t, "8 of 10 tokens left", r)
		require.NoError(t, p.Configure("keyed_bulkhead", policy.Keyed{Each: policy.Bulkhead{Permits: 3, Queue: 2}}))
		require.NoError(t, p.Configure("keyed_rate_limit", policy.Keyed{Each: policy.RateLimit{Limit: 4, Per: time.Hour}}))
		synctest.Wait()
		b, r = state()
		require.Equal(t, "3 of 3 permits in use, 1 waiting", b, "one more at once")
		require.Equal(t, "1 of 4 tokens left", r, "what was spent is spent")
		require.NoError(t, p.Configure("keyed_bulkhead", policy.Keyed{Each: policy.Bulkhead{Permits: 1}, Max: 3}))
		_, err := Do(t.Context(), p, to("new"), succeeds)
		require.NoError(t, err)
		b, _ = state()
		require.Equal(t, "3 of 1 permits in use, 1 waiting", b, "none is taken away")
		require.Equal(t, 3, len(keptBy(p, "keyed_bulkhead")))
		for _, wrong := range []policy.Config{policy.Bulkhead{}, policy.Keyed{Each: policy.RateLimit{Limit: 1}}, policy.Keyed{Each: policy.Breaker{}}} {
			require.ErrorIs(t, p.Configure("keyed_bulkhead", wrong), messages.ErrInvalid)
		}
		require.ErrorIs(t, p.Configure("keyed_rate_limit", policy.Keyed{Each: policy.Bulkhead{}}), messages.ErrInvalid)
		close(release)
		for _, f := range held {
			_, err = f.Await(t.Context())
			require.NoError(t, err)
		}
		b, _ = state()
		require.Equal(t, "0 of 1 permits in use", b)
	})
}

// brokenKeys makes a pipeline of one keyed layer whose actors panic on the entries they look at, as often as it is said.
func brokenKeys(t *testing.T, cfg policy.Config) (*Pipeline, *atomic.Int64) {
	t.Helper()
	sys, err := NewSystem(Options{Restarts: RestartPolicy{Initial: time.Second}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sys.Close(context.Background())) })
	p, crash := &Pipeline{sys: sys, name: "p", meter: &callMeter{}}, new(atomic.Int64)
	p.intake.size = 16
	require.NoError(t, p.build(Spec{Layers: []policy.Config{cfg}, Intake: 16}))
	breaks := func() {
		if crash.Add(-1) >= 0 {
			panic("it is broken")
		}
	}
	switch l := p.stack[0].(type) {
	case *keyedBulkhead:
		bring := l.bring
		l.bring = func(e *keyPermits) {
			if e != l.ring.overflow {
				breaks()
			}
			bring(e)
		}
	case *keyedRateLimit:
		bring := l.bring
		l.bring = func(e *keyTokens) {
			if e != l.ring.overflow {
				breaks()
			}
			bring(e)
		}
	}
	require.NoError(t, sys.within(p.stack[0].start))
	return p, crash
}

func TestKeyedLimitsSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, crash := brokenKeys(t, policy.Keyed{Each: policy.Bulkhead{Permits: 2}, Idle: time.Minute})
		l := layerOf[*keyedBulkhead](p)
		release := make(chan struct{})
		f := Go(t.Context(), p, to("a"), func(context.Context) (int, error) { <-release; return 1, nil })
		synctest.Wait()
		crash.Store(1)
		require.ErrorIs(t, p.stack[0].configure(policy.Keyed{Each: policy.Bulkhead{Permits: 5}, Idle: time.Minute, Key: l.settings.Load().Key, Max: 10}), messages.ErrUnavailable)
		require.Equal(t, "1 of 2 permits in use", keptBy(p, "keyed_bulkhead")["a"])
		_, err := Do(t.Context(), p, to("a"), succeeds)
		require.NoError(t, err, "gates go on")
		time.Sleep(10 * time.Second)
		require.Equal(t, "1 of 5 permits in use", keptBy(p, "keyed_bulkhead")["a"], "the settings are in force, and what runs is not forgotten")
		close(release)
		_, err = f.Await(t.Context())
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		require.Empty(t, keptBy(p, "keyed_bulkhead"), "it looks over its keys again")
	})
	synctest.Test(t, func(t *testing.T) {
		p, crash := brokenKeys(t, policy.Keyed{Each: policy.RateLimit{Limit: 2, Per: time.Hour}, Idle: time.Minute})
		l := layerOf[*keyedRateLimit](p)
		call := func() error { _, err := Do(t.Context(), p, to("a"), succeeds); return err }
		require.NoError(t, call())
		crash.Store(1)
		require.ErrorIs(t, l.configure(policy.Keyed{Each: policy.RateLimit{Limit: 2, Per: time.Hour, Burst: 2}, Idle: time.Minute, Key: l.settings.Load().Key, Max: 10}), messages.ErrUnavailable)
		time.Sleep(10 * time.Second)
		require.NoError(t, call())
		require.ErrorIs(t, call(), messages.ErrRateLimited, "what was spent is spent")
		time.Sleep(2 * time.Hour)
		require.Empty(t, keptBy(p, "keyed_rate_limit"))
	})
}

func TestKeyedRateLimitOnlyObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Keyed{Each: policy.RateLimit{Limit: 1}}}, Observe: true})
		require.Empty(t, Try(t.Context(), p, to("a"), succeeds).Observed())
		require.Equal(t, []string{"keyed_rate_limit"}, Try(t.Context(), p, to("a"), succeeds).Observed())
		require.Empty(t, Try(t.Context(), p, to("b"), succeeds).Observed())
	})
}

func TestKeyedLimitsWithPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.RateLimit{Limit: 3}}, policy.Keyed{Each: policy.Bulkhead{Permits: 1}, Max: 1})
		var held []Permit
		for _, key := range []string{"a", "b"} { // the second in the overflow
			permit, err := Acquire(t.Context(), p, to(key))
			require.NoError(t, err)
			_, err = Acquire(t.Context(), p, to(key))
			require.ErrorIs(t, err, messages.ErrBulkheadFull)
			held = append(held, permit)
		}
		for _, permit := range held {
			permit.Done(errBoom)
			permit.Done(nil)
		}
		requireNothingInUse(t, layerOf[*keyedBulkhead](p))
		last, err := Acquire(t.Context(), p, to("a"))
		require.NoError(t, err)
		_, err = Acquire(t.Context(), p, to("a"))
		require.ErrorIs(t, err, messages.ErrRateLimited)
		last.Done(nil)
	})
}

// A key function that panics, or leaves, is a failure like the function's own, and nothing is held.
func TestKeyFunctionThatPanics(t *testing.T) {
	for _, each := range []policy.Config{policy.Bulkhead{}, policy.RateLimit{Limit: 10}} {
		p := pipelineOf(t, policy.Bulkhead{Permits: 1}, policy.Keyed{Each: each, Key: func(messages.Context) string { panic("no key") }})
		_, err := Do(t.Context(), p, nil, succeeds)
		caught := new(messages.PanicError)
		require.ErrorAs(t, err, &caught)
		require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
	}
}

// What a million keys cost: the entry, its key's text, and its share of the index.
func TestBytesOfAKey(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's memory is not ours")
	}
	const keys = 100_000
	for _, row := range []struct {
		each policy.Config
		most uint64
	}{{policy.Bulkhead{}, 150}, {policy.RateLimit{Limit: 1000}, 200}} {
		p := pipelineOf(t, policy.Keyed{Each: row.each, Max: keys})
		names := make([]*messages.Context, keys)
		for i := range names {
			names[i] = to("host-" + strconv.Itoa(i))
		}
		_, _ = Do0(t.Context(), p, nil, noop)
		heap := func() uint64 {
			goruntime.GC()
			goruntime.GC()
			var m goruntime.MemStats
			goruntime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		for _, meta := range names {
			_, err := Do0(t.Context(), p, meta, noop)
			require.NoError(t, err)
		}
		used := (heap() - before) / keys
		t.Logf("%s: %d bytes a key", row.each.Kind(), used)
		require.Less(t, used, row.most)
		goruntime.KeepAlive(names)
	}
}
