package actors

import (
	"context"
	"fmt"
	"math/rand/v2"
	goruntime "runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
)

// Whatever layers stand around each other, in whatever order, and however calls end: the work of a key runs once at a time
// where that is promised, and in the end nothing is held, counted or waited for.
func TestAnyCompositionGivesEverythingBack(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) { composed(t, rand.New(rand.NewPCG(seed, 1)), seed) })
	}
}

func composed(t *testing.T, r *rand.Rand, seed uint64) {
	layers := []policy.Config{
		policy.Cache{Key: byOrder, TTL: time.Second, StaleFor: time.Duration(r.IntN(2)) * time.Second, Collapse: true},
		policy.Idempotency{Wait: time.Duration(r.IntN(3)) * time.Second, Hold: time.Hour, Keep: time.Second, KeepFallback: r.IntN(2) == 0},
		policy.Hedge{Idempotent: true, Delay: 300 * time.Millisecond},
		policy.Retry{Attempts: 3, Backoff: policy.Constant(100 * time.Millisecond), Rejections: r.IntN(2) == 0},
		policy.Timeout{Limit: 2 * time.Second},
		policy.AttemptTimeout{Limit: 700 * time.Millisecond},
		policy.Bulkhead{Permits: 2, Queue: 2, MaxWait: time.Second},
		policy.FallbackValue(1),
		own(straight),
	}
	r.Shuffle(len(layers), func(i, j int) { layers[i], layers[j] = layers[j], layers[i] })
	layers = layers[:3+r.IntN(len(layers)-2)]
	names := fmt.Sprintf("seed %d:", seed)
	kinds := map[string]bool{}
	for _, cfg := range layers {
		names += " " + cfg.Kind()
		kinds[cfg.Kind()] = true
	}
	p := newPipeline(t, newSystem(t), Spec{Layers: layers, Intake: 8})
	alone := (kinds["cache"] || kinds["idempotency"]) && !kinds["hedge"]
	var mu sync.Mutex
	running := map[string]int{}
	enter := func(key string, n int) {
		mu.Lock()
		defer mu.Unlock()
		if running[key] += n; alone && running[key] > 1 {
			t.Errorf("%s: the work of a key ran twice at once", names)
		}
	}
	var all sync.WaitGroup
	for i := range 24 {
		way, key := r.IntN(4), strconv.Itoa(r.IntN(3))
		fn := endsSomehow(i, r.IntN(7), time.Duration(r.IntN(1500))*time.Millisecond, func(n int) { enter(key, n) })
		begin, patience := time.Duration(r.IntN(3000))*time.Millisecond, time.Duration(1+r.IntN(4000))*time.Millisecond
		meta := orderOf(key)
		meta.IdempotencyKey = key
		all.Go(func() {
			time.Sleep(begin)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			switch way {
			case 0:
				_, _ = Do(ctx, p, meta, fn)
			case 1:
				_, _ = Do0(ctx, p, meta, func() (int, error) { return fn(context.Background()) })
			case 2:
				_, _ = Go(ctx, p, meta, fn).Await(context.Background())
			case 3:
				f := Go(ctx, p, meta, fn)
				time.Sleep(patience / 4)
				f.Cancel()
				_, _ = f.Await(context.Background())
			}
		})
	}
	all.Wait()
	time.Sleep(time.Minute)
	synctest.Wait()
	nothingHeld(t, p, names)
}

// endsSomehow is a function that takes a while, honours its context or not, and ends in one of seven ways.
func endsSomehow(v, end int, takes time.Duration, enter func(int)) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		enter(1)
		defer enter(-1)
		var canceled <-chan struct{}
		if end%2 == 0 {
			canceled = ctx.Done()
		}
		select {
		case <-canceled:
			return 0, ctx.Err()
		case <-time.After(takes):
		}
		switch end {
		case 3, 4:
			return 0, errBoom
		case 5:
			panic("boom")
		case 6:
			goruntime.Goexit()
		}
		return v, nil
	}
}

func nothingHeld(t *testing.T, p *Pipeline, names string) {
	t.Helper()
	slots, abandoned := p.InFlight()
	require.Zero(t, slots, names)
	require.Zero(t, abandoned, names)
	require.Zero(t, p.inFlight(), names)
	for _, l := range p.stack {
		switch l := l.(type) {
		case *cache:
			noFlights(t, p)
		case *idempotency:
			busy, _ := memoryOf(p)
			require.Zero(t, busy, names)
		case *bulkhead:
			require.EqualValues(t, 2, l.count(), names)
		case *hedge:
			require.Zero(t, l.losers.Load(), names)
		}
	}
}
