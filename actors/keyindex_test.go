package actors

import (
	"hash/maphash"
	"math/rand/v2"
	goruntime "runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// slotEntry is an entry that goes when it is told to.
type slotEntry struct {
	key  string
	sum  uint32
	free atomic.Bool // it may go
	gone atomic.Bool
}

func (e *slotEntry) is(sum uint32, key string) bool { return e.sum == sum && e.key == key }
func (e *slotEntry) hashed() uint32                 { return e.sum }
func (e *slotEntry) retire(int64, bool) bool {
	if e.free.Load() {
		e.gone.Store(true)
		return true
	}
	return false
}

// The index must agree with a map, however keys collide.
func TestKeyIndexAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, model := &keyIndex[slotEntry, *slotEntry]{}, map[string]*slotEntry{}
		spread := rapid.SampledFrom([]uint32{1, 3, 16, 1 << 20}).Draw(t, "hashes")
		key := rapid.Custom(func(t *rapid.T) string { return strconv.Itoa(rapid.IntRange(0, 60).Draw(t, "key")) })
		sum := func(key string) uint32 { n, _ := strconv.Atoi(key); return uint32(n) * 0x9e3779b9 % spread }
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			k := key.Draw(t, "of")
			found := x.find(sum(k), k)
			require.True(t, found == model[k], "the very entry, or none")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				if found == nil {
					model[k] = &slotEntry{key: k, sum: sum(k)}
					x.insert(model[k])
				}
			case 2, 3:
				if found != nil {
					require.True(t, x.remove(found))
					require.False(t, x.remove(found), "once")
					delete(model, k)
				}
			case 4:
				x.tidy()
			}
			require.EqualValues(t, len(model), x.live.Load())
			if table := x.table.Load(); table != nil {
				taken := 0
				for i := range table.slots {
					if table.slots[i].Load() != nil {
						taken++
					}
				}
				require.Equal(t, len(model)+x.graves, taken)
				require.LessOrEqual(t, 4*taken, 3*len(table.slots), "there is always an empty slot to end a search")
			}
		}
		all := map[string]*slotEntry{}
		for e := range x.all() {
			all[e.key] = e
		}
		require.Equal(t, model, all)
	})
}

// Readers find what is there at all times, while others come and go, and the table grows and shrinks around them.
func TestKeyIndexReaderMissedAnEntryThatWasThere(t *testing.T) {
	x := &keyIndex[slotEntry, *slotEntry]{}
	var there []*slotEntry
	for i := range 50 {
		e := &slotEntry{key: "there " + strconv.Itoa(i), sum: uint32(i)} // side by side, so that runs are long
		there = append(there, e)
		x.insert(e)
	}
	var stop atomic.Bool
	var missed, reads atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for !stop.Load() {
				for _, e := range there {
					if x.find(e.sum, e.key) != e {
						missed.Add(1)
					}
				}
				reads.Add(1)
			}
		})
	}
	rounds := 1_000_000
	if testing.Short() || raceEnabled {
		rounds /= 20
	}
	random := rand.New(rand.NewPCG(1, 2))
	var coming []*slotEntry
	for i := range rounds {
		most := 40 // and now and then many, so that the table grows and shrinks
		if i%20_000 < 2_000 {
			most = 1000
		}
		x.mu.Lock()
		if len(coming) > 0 && (len(coming) > most || random.IntN(2) == 0) {
			n := random.IntN(len(coming))
			e := coming[n]
			coming[n] = coming[len(coming)-1]
			coming = coming[:len(coming)-1]
			x.remove(e)
		} else {
			e := &slotEntry{key: strconv.Itoa(i), sum: random.Uint32N(64)}
			coming = append(coming, e)
			x.insert(e)
		}
		if i%1000 == 0 {
			x.tidy()
		}
		x.mu.Unlock()
	}
	stop.Store(true)
	all.Wait()
	require.Positive(t, reads.Load())
	require.Zero(t, missed.Load())
	require.EqualValues(t, len(there)+len(coming), x.live.Load())
}

// ringOf is a ring whose entries go when they are told to.
func ringOf(limit int64) (r *keyring[slotEntry, *slotEntry], stirred *atomic.Int64) {
	stirred = new(atomic.Int64)
	r = &keyring[slotEntry, *slotEntry]{seed: maphash.MakeSeed(), overflow: &slotEntry{key: "overflow"}}
	r.limit.Store(limit)
	r.fresh = func(_ int, sum uint32, key string, _ int64) *slotEntry { return &slotEntry{key: key, sum: sum} }
	r.stir = func(int) { stirred.Add(1) }
	return r, stirred
}

func TestKeyCapWasExceeded(t *testing.T) {
	const limit = 100
	r, _ := ringOf(limit)
	var over atomic.Int64
	var stop atomic.Bool
	var all, watch sync.WaitGroup
	watch.Go(func() {
		for !stop.Load() {
			if r.live.Load() > limit {
				over.Add(1)
			}
			goruntime.Gosched()
		}
	})
	for g := range 64 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 3))
			for range 300 {
				e := r.get(strconv.Itoa(random.IntN(400)), 0)
				e.free.Store(e != r.overflow && random.IntN(3) == 0)
			}
		})
	}
	all.Wait()
	stop.Store(true)
	watch.Wait()
	require.Zero(t, over.Load())
	n := 0
	for i := range r.shards {
		for e := range r.shards[i].all() {
			require.False(t, e.gone.Load())
			require.Same(t, e, r.peek(e.key))
			n++
		}
	}
	require.EqualValues(t, n, r.live.Load(), "places are conserved")
	require.LessOrEqual(t, n, limit)
	require.Positive(t, r.crowd.Load())
}

// A small ring whose keys lie in few shards finds a place in any of them, and one without a place shares one entry.
func TestKeyWithoutAPlaceThoughAnotherCouldGo(t *testing.T) {
	r, _ := ringOf(2)
	a, b := r.get("a", 0), r.get("b", 0)
	require.Same(t, a, r.get("a", 0))
	for i := range 20 {
		require.Same(t, r.overflow, r.get(strconv.Itoa(i), 0))
	}
	require.EqualValues(t, 20, r.crowd.Load())
	b.free.Store(true)
	c := r.get("c", 0)
	require.NotSame(t, r.overflow, c)
	require.True(t, b.gone.Load())
	require.Nil(t, r.peek("b"))
	require.Same(t, a, r.peek("a"))
	require.EqualValues(t, 2, r.live.Load())
}

func TestSweepSeesTheWholeShardAndSleepsWhenItIsEmpty(t *testing.T) {
	r, stirred := ringOf(1 << 20)
	for i := range 50_000 {
		r.get(strconv.Itoa(i), 0)
	}
	require.EqualValues(t, keyShards, stirred.Load(), "once a shard")
	const idle = 400 * time.Second
	for shard := range keyShards {
		seen := map[string]bool{}
		next := int64(0)
		for i := 0; next <= int64(idle)/4-r.pause(shard, idle); i++ { // what is asked for in a quarter of the time
			next = r.sweep(shard, next, idle, func(e *slotEntry) bool { seen[e.key] = true; return i%2 == 0 })
		}
		require.Len(t, seen, int(r.shards[shard].live.Load()))
	}
	for shard := range keyShards {
		for e := range r.shards[shard].all() {
			e.free.Store(true)
		}
		for now := int64(1); now != 0; {
			now = r.sweep(shard, now, idle, func(*slotEntry) bool { return true })
		}
		require.Zero(t, r.shards[shard].live.Load())
		require.LessOrEqual(t, r.shards[shard].slots(), fewestSlots, "memory is given back")
	}
	require.Zero(t, r.live.Load())
	r.get("again", 0)
	require.EqualValues(t, keyShards+1, stirred.Load(), "who comes first wakes it")
}

func BenchmarkKeyIndex(b *testing.B) {
	for _, n := range []int{1, 1000, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r, _ := ringOf(1 << 24)
			var keys []string
			for i := range n {
				keys = append(keys, "host-"+strconv.Itoa(i)+".example.com")
				r.get(keys[i], 0)
			}
			random := rand.New(rand.NewPCG(1, 1))
			for b.Loop() {
				if r.get(keys[random.IntN(n)], 0) == r.overflow {
					b.Error("no place")
				}
			}
		})
	}
}
