package actors

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Faults of cache, idempotency and what is around them: each test is named after one that was once there.

func TestFallbackAnsweredAgainWhenTheWorkEnded(t *testing.T) {
	for _, detached := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var n atomic.Int64
			p := pipelineOf(t, policy.Fallback{Func: func(context.Context, error) (any, error) { return int(n.Add(1)), nil }}, policy.Timeout{Limit: time.Second, Detached: detached})
			slow := func(context.Context) (int, error) { time.Sleep(time.Minute); return 7, nil }
			if detached {
				_, _ = Do(t.Context(), p, nil, slow)
			} else {
				_, _ = Go(t.Context(), p, nil, slow).Await(t.Context())
			}
			require.EqualValues(t, 1, n.Load())
			time.Sleep(2 * time.Minute)
			require.EqualValues(t, 1, n.Load())
		})
	}
}

func TestStaleValueHidTheFailureFromWhatIsOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stale := policy.Cache{Key: byOrder, TTL: time.Second, StaleFor: time.Hour}
		sys := newSystem(t)
		p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Breaker{Consecutive: 2, OpenFor: time.Hour}, stale}})
		again, err := sys.Pipeline("again", Spec{Layers: []policy.Config{policy.Retry{Attempts: 3}, stale}})
		require.NoError(t, err)
		for _, p := range []*Pipeline{p, again} {
			_, err = Do(t.Context(), p, orderOf("1"), succeeds)
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		for range 2 {
			_, _ = Do(t.Context(), p, orderOf("1"), fails)
		}
		require.Equal(t, policy.Open, state(p))
		r := Try(t.Context(), again, orderOf("1"), fails)
		require.Equal(t, messages.Fallback, r.Outcome)
		require.Equal(t, 3, r.Attempts)
	})
}

// The claim is kept until the copies have really returned.
func TestHedgeLetTheClaimGo(t *testing.T) {
	type fn = func(context.Context) (int, error)
	for name, begin := range map[string]func(context.Context, *Pipeline, fn){
		"asynchronous": func(ctx context.Context, p *Pipeline, f fn) { _, _ = Go(ctx, p, keyed("1"), f).Await(ctx) },
		"synchronous":  func(ctx context.Context, p *Pipeline, f fn) { _, _ = Do(ctx, p, keyed("1"), f) },
		"bare": func(ctx context.Context, p *Pipeline, f fn) {
			_, _ = Do0(ctx, p, keyed("1"), func() (int, error) { return f(ctx) })
		},
		"canceled": func(ctx context.Context, p *Pipeline, f fn) {
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			_, _ = Do(ctx, p, keyed("1"), f)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Timeout{Limit: time.Second}, policy.Idempotency{}, policy.Hedge{Idempotent: true, Delay: time.Hour})
				var running, most atomic.Int64
				slow := func(context.Context) (int, error) {
					n := running.Add(1)
					defer running.Add(-1)
					most.Store(max(most.Load(), n))
					time.Sleep(time.Minute)
					return 7, nil
				}
				begin(t.Context(), p, slow)
				synctest.Wait()
				_, _ = Do(t.Context(), p, keyed("1"), slow)
				require.EqualValues(t, 1, most.Load())
				time.Sleep(2 * time.Minute)
			})
		})
	}
}

// What goes on after its call was answered is counted and capped, with a hedge as without one.
func TestHedgeHidAbandonedFunctionsFromTheIntake(t *testing.T) {
	for name, hedge := range map[string][]policy.Config{"plain": nil, "hedge": {policy.Hedge{Idempotent: true, Delay: time.Hour}}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipeline(t, newSystem(t), Spec{Intake: 4, Layers: append([]policy.Config{policy.Timeout{Limit: time.Second, MaxAbandoned: 2}}, hedge...)})
				var running atomic.Int64
				for range 20 {
					_, _ = Go(t.Context(), p, nil, func(context.Context) (int, error) {
						running.Add(1)
						defer running.Add(-1)
						time.Sleep(time.Hour)
						return 0, nil
					}).Await(t.Context())
					synctest.Wait()
				}
				_, abandoned := p.InFlight()
				require.EqualValues(t, 2, running.Load())
				require.EqualValues(t, 2, abandoned)
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

// A hedge closes what its losers return, but not what a memory inside it gave both copies.
func TestHedgeClosedWhatAMemoryShares(t *testing.T) {
	type do = func(context.Context, *Pipeline, func() (*body, error)) (*body, error)
	ways := map[string]do{
		"": func(ctx context.Context, p *Pipeline, f func() (*body, error)) (*body, error) {
			return Do(ctx, p, orderOf("1"), func(context.Context) (*body, error) { return f() })
		},
		"bare ": func(ctx context.Context, p *Pipeline, f func() (*body, error)) (*body, error) {
			return Do0(ctx, p, orderOf("1"), f)
		},
	}
	for name, memory := range map[string]policy.Config{
		"cache":       policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true},
		"idempotency": policy.Idempotency{Key: byOrder, Wait: time.Hour},
	} {
		for way, do := range ways {
			t.Run(way+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: time.Second}, memory)
					v, err := do(t.Context(), p, func() (*body, error) { time.Sleep(3 * time.Second); return &body{}, nil })
					require.NoError(t, err)
					time.Sleep(time.Second)
					again, err := do(t.Context(), p, func() (*body, error) { t.Error("it ran"); return nil, errBoom })
					require.NoError(t, err)
					require.Same(t, v, again)
					require.Zero(t, v.closed.Load())
				})
			})
		}
	}
}

// The store's answer is lost to an error, not to the time: the claim was made, and nobody runs.
func TestClaimOfAFailedStoreWasKept(t *testing.T) {
	for _, open := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := newFaulty()
			p := pipelineOf(t, policy.Idempotency{Store: store, FailOpen: open})
			store.claim = func(context.Context) error { return errors.New("connection reset by peer") } // after it was made
			require.Equal(t, open, Try(t.Context(), p, keyed("1"), succeeds).Success())
			synctest.Wait()
			store.claim = nil
			_, err := Do(t.Context(), p, keyed("1"), succeeds)
			require.NoError(t, err)
		})
	}
}

// What ended in time has ended in time, however long its store takes to hear of it; and the store is told all the same.
func TestSlowStoreMadeASuccessATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty()
		store.complete = func(context.Context) error { time.Sleep(4 * time.Second); return nil }
		p := pipelineOf(t, policy.Timeout{Limit: 3 * time.Second}, policy.Idempotency{Store: store})
		calls := map[string]func(string) (int, error){
			"synchronous":  func(key string) (int, error) { return Do(t.Context(), p, keyed(key), succeeds) },
			"asynchronous": func(key string) (int, error) { return Go(t.Context(), p, keyed(key), succeeds).Await(t.Context()) },
			"bare": func(key string) (int, error) {
				return Do0(t.Context(), p, keyed(key), func() (int, error) { return 7, nil })
			},
		}
		for name, call := range calls {
			begin := time.Now()
			v, err := call(name)
			require.NoError(t, err, name)
			require.Equal(t, 7, v)
			require.Less(t, time.Since(begin), 3*time.Second)
			time.Sleep(4 * time.Second)
			v, err = Do(t.Context(), p, keyed(name), never(t))
			require.NoError(t, err, name)
			require.Equal(t, 7, v)
		}
		require.Zero(t, layerOf[*idempotency](p).unattended.Load())
	})
}

// A store that hangs keeps no more workers busy than it may: then calls wait for it, whatever becomes of them.
func TestSlowStoreKeptWorkersWithoutLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty()
		var busy atomic.Int64
		store.complete = func(ctx context.Context) error {
			busy.Add(1)
			defer busy.Add(-1)
			<-ctx.Done()
			return ctx.Err()
		}
		p := pipelineOf(t, policy.Timeout{Limit: time.Second}, policy.Idempotency{Store: store})
		var timeouts atomic.Int64
		for i := range maxUnattended + 8 {
			go func() {
				if Try(t.Context(), p, keyed(strconv.Itoa(i)), succeeds).Outcome == messages.Timeout {
					timeouts.Add(1)
				}
			}()
		}
		time.Sleep(2 * time.Second)
		require.EqualValues(t, maxUnattended, layerOf[*idempotency](p).unattended.Load())
		time.Sleep(storeWait)
		require.EqualValues(t, 8, timeouts.Load())
		require.Zero(t, layerOf[*idempotency](p).unattended.Load())
		require.Zero(t, busy.Load())
	})
}

// A task that comes again while its first run goes on waits: what answers for it would be kept as its end.
func TestRedeliveredTaskWasSettledByAnAnswerToItsOwnFirstRun(t *testing.T) {
	for name, answers := range map[string]policy.Config{
		"fallback": policy.FallbackValue(any("fallback")),
		"cache":    policy.Cache{Key: byOrder, TTL: time.Second, StaleFor: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, answers, policy.Timeout{Limit: time.Hour}, policy.Idempotency{})
				_, err := Do(t.Context(), p, orderOf("1"), returns[any]("stale"))
				require.NoError(t, err)
				time.Sleep(time.Second)
				task := &messages.Task{ID: "t", Type: "x", IdempotencyKey: "1", Context: *orderOf("1")}
				run := func(ended chan Result[any]) {
					RunTask(t.Context(), p, task, func(context.Context) (any, error) { time.Sleep(time.Minute); return "real", nil }, func(r Result[any]) { ended <- r }, func() {})
				}
				first, again := make(chan Result[any], 1), make(chan Result[any], 1)
				go run(first)
				synctest.Wait()
				run(again)
				r := <-again
				require.Equal(t, messages.Rejected, r.Outcome)
				require.ErrorIs(t, r.Err, messages.ErrInProgress)
				require.Equal(t, "real", (<-first).Value)
			})
		})
	}
}

// A cache whose Max was lowered is no larger, and no slower, than one that never held more.
func TestLoweredMaxLeftTheRingAtItsOldSize(t *testing.T) {
	s := newCacheStore(10_000)
	for i := range 10_000 {
		s.put(cacheKey{nil, strconv.Itoa(i)}, i, 1, 1)
	}
	s.trim(64)
	for i := range 1000 {
		s.put(cacheKey{nil, strconv.Itoa(i)}, i, 1, 1)
	}
	require.EqualValues(t, 64, s.size.Load())
	values, places := 0, 0
	for i := range s.parts {
		p := &s.parts[i]
		values += len(p.values)
		places += len(p.ring)
		for k, x := range p.values {
			require.Equal(t, k, x.cacheKey)
			require.Same(t, x, p.ring[x.place])
		}
		for _, free := range p.free {
			require.Nil(t, p.ring[free])
		}
	}
	require.Equal(t, 64, values)
	require.Less(t, places, 1000)
}
