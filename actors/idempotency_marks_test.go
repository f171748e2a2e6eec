package actors

import (
	"context"
	"errors"
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

// Whatever happens, per key at most one holder's mark counts while its result is kept: all who are told of a result are
// told the same one, and it is one that a function really returned.
func TestAtMostOneHolderWhoseMarksCount(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { marks(t, seed) })
		})
	}
}

// audited is a store that writes down whose marks counted, and when.
type audited struct {
	*claims
	mu    sync.Mutex
	marks map[string][]mark
	fence map[string]uint64
}

type mark struct {
	from, until time.Time
	value       any
}

func (s *audited) Claim(ctx context.Context, key, owner string, hold time.Duration) (messages.Claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.claims.Claim(ctx, key, owner, hold)
	if err == nil && c.State == messages.ClaimMine {
		if c.Fence <= s.fence[key] {
			return c, errors.New("a fence that does not rise")
		}
		s.fence[key] = c.Fence
	}
	return c, err
}

func (s *audited) Complete(ctx context.Context, c messages.Claim, v any, keep time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.claims.Complete(ctx, c, v, keep)
	if err == nil {
		now := time.Now()
		s.marks[c.Key] = append(s.marks[c.Key], mark{now, now.Add(keep), v})
	}
	return err
}

func marks(t *testing.T, seed uint64) {
	const keep, hold = 20 * time.Second, 2 * time.Second
	base := time.Now()
	store := &audited{claims: newClaims(1000, func() int64 { return int64(time.Since(base)) + 1 }), marks: map[string][]mark{}, fence: map[string]uint64{}}
	p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{
		policy.Timeout{Limit: 3 * time.Second},
		policy.Idempotency{Store: store, Keep: keep, Hold: hold, Wait: time.Second},
		policy.Retry{Attempts: 2, Backoff: policy.Constant(0)},
		policy.Bulkhead{Permits: 1000},
		policy.AttemptTimeout{Limit: 2500 * time.Millisecond},
	}})
	type told struct {
		key   string
		at    time.Time
		value int64
		ran   int
	}
	var mu sync.Mutex
	var answers []told
	var next, refused, ends atomic.Int64
	made := map[int64]bool{}
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 25 {
				time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
				key, kind := fmt.Sprint(random.IntN(12)), random.IntN(8)
				took := time.Duration(random.IntN(4000)) * time.Millisecond // longer than the hold, and than the limit
				ctx, cancel := context.WithCancel(context.Background())
				fn := func(ctx context.Context) (int64, error) {
					time.Sleep(took)
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
					}
					v := next.Add(1)
					mu.Lock()
					made[v] = true
					mu.Unlock()
					return v, nil
				}
				r := Go(ctx, p, keyed(key), fn).Result(context.Background())
				switch {
				case r.Outcome == messages.Success:
					mu.Lock()
					answers = append(answers, told{key, time.Now(), r.Value, r.Attempts})
					mu.Unlock()
				case errors.Is(r.Err, messages.ErrInProgress):
					refused.Add(1)
				default:
					ends.Add(1)
				}
				cancel()
			}
		})
	}
	all.Wait()
	time.Sleep(10 * time.Second) // those who were abandoned
	require.Zero(t, p.inFlight())
	require.EqualValues(t, 1000, layerOf[*bulkhead](p).count())
	require.Positive(t, refused.Load())
	require.Positive(t, ends.Load())
	results := 0
	for key, ms := range store.marks {
		for i, m := range ms {
			require.True(t, made[m.value.(int64)], "a result nobody made")
			require.True(t, i == 0 || !m.from.Before(ms[i-1].until), "key %s has two results at once", key)
		}
		results += len(ms)
	}
	require.Greater(t, results, 12)
	duplicates := 0
	for _, a := range answers {
		if a.ran != 0 {
			continue
		}
		duplicates++
		found := false
		for _, m := range store.marks["p/idempotency/"+a.key] {
			found = found || m.value == a.value && !a.at.Before(m.from) && a.at.Before(m.until.Add(time.Second))
		}
		require.True(t, found, "a duplicate was told %d of key %s, which is not its result", a.value, a.key)
	}
	require.Positive(t, duplicates)
	now := store.now()
	for i := range store.parts {
		for _, c := range store.parts[i].byKey {
			require.True(t, c.done || c.until <= now, "a claim that nobody holds")
		}
	}
}
