//go:build linux

package rivals

import (
	goruntime "runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// keyed is one that keeps a breaker for each key.
type keyed struct {
	name string
	make func(tb testing.TB) (call func(key string) bool)
}

// registry is what a program keeps breakers in when its library has no place for them: a map and a lock.
type registry[B any] struct {
	mu   sync.RWMutex
	of   map[string]B
	make func() B
}

func newRegistry[B any](newBreaker func() B) *registry[B] {
	return &registry[B]{of: map[string]B{}, make: newBreaker}
}

func (r *registry[B]) get(key string) B {
	r.mu.RLock()
	b, ok := r.of[key]
	r.mu.RUnlock()
	if ok {
		return b
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok = r.of[key]; !ok {
		b = r.make()
		r.of[key] = b
	}
	return b
}

// BenchmarkKeyedMemory is what a keyed breaker weighs after one call that succeeded: b.N is the number of keys, so it is
// run with -benchtime 100000x, in a process of its own. The keys themselves are made before the first weighing. B/key is the heap after two
// collections, and goroutines/key what runs for them.
//
// Ours, gobreaker and failsafe-go have a window of 10 s in ten buckets; eapache counts failures only, without a window.
func BenchmarkKeyedMemory(b *testing.B) {
	for _, k := range []keyed{
		{"forseti Keyed", func(tb testing.TB) func(string) bool {
			p := pipeline(tb, policy.Keyed{Each: policy.Breaker{OpenFor: time.Hour}, Max: 1 << 20})
			return func(key string) bool {
				return one(runtime.Do0(background, p.With(messages.Context{Target: key}), noop))
			}
		}},
		{"gobreaker", func(testing.TB) func(string) bool {
			settings := gobreakerSettings(20) // shared: each breaker copies what it needs
			all := newRegistry(func() *gobreaker.CircuitBreaker[int] { return gobreaker.NewCircuitBreaker[int](settings) })
			return func(key string) bool { return one(all.get(key).Execute(noop)) }
		}},
		{"failsafe-go", func(testing.TB) func(string) bool {
			settings := failsafeBuilder(20)
			all := newRegistry(settings.Build)
			return func(key string) bool {
				cb := all.get(key)
				ok := cb.TryAcquirePermit()
				cb.RecordSuccess()
				return ok
			}
		}},
		{"eapache", func(testing.TB) func(string) bool {
			all := newRegistry(eapacheBreaker)
			return func(key string) bool { return all.get(key).Run(noopError) == nil }
		}},
	} {
		weigh := func(b *testing.B) {
			keys := make([]string, b.N)
			for i := range keys {
				keys[i] = "customer-" + strconv.Itoa(i)
			}
			heap, _ := weight() // what there is before the first key is weighed, too
			call := k.make(b)
			goroutines := goruntime.NumGoroutine() // a runtime has some, which are not the keys'
			for _, key := range keys {
				require.True(b, call(key))
			}
			heapAfter, goroutinesAfter := weight()
			b.ReportMetric(float64(heapAfter-heap)/float64(b.N), "B/key")
			b.ReportMetric(float64(goroutinesAfter-goroutines)/float64(b.N), "goroutines/key")
			goruntime.KeepAlive(keys)
			require.True(b, call(keys[0])) // and all are still there
		}
		b.Run(k.name, func(b *testing.B) {
			b.Run("100k keys", weigh)
			b.Run("1M keys", weigh)
		})
	}
}

// weight is the live heap and the number of goroutines. The second collection empties what pools had kept through the first.
func weight() (heap int64, goroutines int) {
	goruntime.GC()
	goruntime.GC()
	var m goruntime.MemStats
	goruntime.ReadMemStats(&m)
	return int64(m.HeapAlloc), goruntime.NumGoroutine()
}
