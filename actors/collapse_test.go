package actors

import (
	"context"
	"fmt"
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

func TestCollapseRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true})
		var runs atomic.Int64
		slow := func(context.Context) (int, error) { runs.Add(1); time.Sleep(time.Minute); return 7, nil }
		var futures []Future[int]
		for range 50 {
			futures = append(futures, Go(t.Context(), p, orderOf("1"), slow))
		}
		other, _ := Do(t.Context(), p, orderOf("2"), returns(2))
		require.Equal(t, 2, other, "other keys do not wait")
		attempts := 0
		for _, f := range futures {
			r := f.Result(t.Context())
			require.Equal(t, messages.Success, r.Outcome)
			require.Equal(t, 7, r.Value)
			require.Equal(t, time.Minute, r.Duration)
			attempts += r.Attempts
		}
		require.EqualValues(t, 1, runs.Load())
		require.Equal(t, 1, attempts)
		noFlights(t, p)
	})
}

// Whatever becomes of the one that runs, those who wait are not given its error, and do not wait for ever.
func TestFollowersWereGivenTheLeadersEnd(t *testing.T) {
	for name, end := range map[string]func(cancel func()) (int, error){
		"error":    func(func()) (int, error) { return 0, errBoom },
		"canceled": func(cancel func()) (int, error) { cancel(); return 0, context.Canceled },
		"panic":    func(func()) (int, error) { panic("x") },
		"goexit":   func(func()) (int, error) { goruntime.Goexit(); return 0, nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				leader := Go(ctx, p, orderOf("1"), func(context.Context) (int, error) { time.Sleep(time.Second); return end(cancel) })
				synctest.Wait()
				var runs atomic.Int64
				var futures []Future[int]
				for range 10 {
					futures = append(futures, Go(t.Context(), p, orderOf("1"), func(context.Context) (int, error) {
						time.Sleep(time.Second)
						if runs.Add(1) == 1 {
							return 0, errBoom
						}
						return 7, nil
					}))
				}
				_, err := leader.Await(t.Context())
				require.Error(t, err)
				failed := 0
				for _, f := range futures {
					if v, err := f.Await(t.Context()); err != nil {
						require.ErrorIs(t, err, errBoom)
						failed++
					} else {
						require.Equal(t, 7, v)
					}
				}
				require.Equal(t, 1, failed, "the one that ran and failed itself")
				require.EqualValues(t, 2, runs.Load())
				noFlights(t, p)
			})
		})
	}
}

func TestFollowersWaitNoLongerThanTheyCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1}, policy.Timeout{Limit: 10 * time.Second}, policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true})
		ctx := t.Context()
		leader := Go(ctx, p, orderOf("1"), func(context.Context) (int, error) { time.Sleep(9 * time.Second); return 7, nil })
		synctest.Wait()
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		r := Try(short, p, orderOf("1"), never(t))
		require.Equal(t, messages.Canceled, r.Outcome)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		require.Equal(t, time.Second, r.Duration)
		v, err := leader.Await(ctx)
		require.NoError(t, err)
		require.Equal(t, 7, v)
		require.Equal(t, policy.Closed, state(p))
		noFlights(t, p)
	})
	for name, bare := range map[string]bool{"with a context": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Timeout{Limit: 10 * time.Second}, policy.Retry{Attempts: 2}, policy.Cache{Key: byOrder, TTL: time.Hour, Collapse: true})
				release := make(chan struct{})
				leader := Go(t.Context(), p, orderOf("1"), func(context.Context) (int, error) { <-release; return 7, nil })
				synctest.Wait()
				begin := time.Now()
				var err error
				if bare {
					_, err = Do0(t.Context(), p, orderOf("1"), func() (int, error) { t.Error("ran"); return 0, nil })
				} else {
					_, err = Do(t.Context(), p, orderOf("1"), never(t))
				}
				require.ErrorIs(t, err, messages.ErrTimeout)
				require.Equal(t, 10*time.Second, time.Since(begin))
				close(release)
				_, _ = leader.Await(t.Context())
				synctest.Wait()
				noFlights(t, p)
			})
		})
	}
}

func TestCollapseUnderAnyMixOfEndings(t *testing.T) {
	p := pipelineOf(t, policy.Timeout{Limit: 20 * time.Millisecond}, policy.Cache{Key: byOrder, TTL: time.Microsecond, StaleFor: time.Microsecond, Max: 4, Collapse: true})
	var inside [6]atomic.Int64
	var over atomic.Int64
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 7))
			for range 150 {
				k, kind := random.IntN(len(inside)), random.IntN(8)
				ctx, cancel := context.WithCancel(context.Background())
				fn := func(ctx context.Context) (int, error) {
					if inside[k].Add(1) > 1 {
						over.Add(1)
					}
					defer inside[k].Add(-1)
					goruntime.Gosched()
					switch kind {
					case 0:
						panic("x")
					case 1:
						goruntime.Goexit()
					case 2:
						return 0, errBoom
					case 3:
						cancel()
						return 0, ctx.Err()
					case 4:
						<-ctx.Done()
						return 0, ctx.Err()
					}
					return k, nil
				}
				var one sync.WaitGroup
				one.Go(func() {
					var v int
					var err error
					if kind%2 == 0 {
						v, err = Do(ctx, p, orderOf(fmt.Sprint(k)), fn)
					} else {
						v, err = Go(ctx, p, orderOf(fmt.Sprint(k)), fn).Await(context.Background())
					}
					if err == nil && v != k {
						t.Errorf("value %d under key %d", v, k)
					}
				})
				one.Wait()
				cancel()
			}
		})
	}
	all.Wait()
	require.Eventually(t, func() bool { return p.inFlight() == 0 }, 10*time.Second, time.Millisecond)
	require.Zero(t, over.Load(), "two ran for one key at the same time")
	noFlights(t, p)
	require.LessOrEqual(t, layerOf[*cache](p).store.size.Load(), int64(4))
}
