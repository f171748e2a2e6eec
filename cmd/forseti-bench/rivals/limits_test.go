//go:build linux

package rivals

import (
	"testing"
	"time"

	eapache "github.com/eapache/go-resiliency/semaphore"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/failsafe-go/failsafe-go/adaptivethrottler"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/juju/ratelimit"
	uber "go.uber.org/ratelimit"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/forseti-go/forseti/actors/policy"
)

// permits is more than all goroutines of a contest want at once: none is refused.
const permits = 1 << 16

// BenchmarkBulkhead takes a permit and gives it back.
func BenchmarkBulkhead(b *testing.B) {
	contest(
		b,
		do0("forseti Do0", policy.Bulkhead{Permits: permits}),
		entrant{"forseti Acquire", func(tb testing.TB) op {
			p := pipeline(tb, policy.Bulkhead{Permits: permits})
			return func() bool {
				permit, err := p.Acquire(background)
				permit.Done(nil)
				return err == nil
			}
		}},
		entrant{"failsafe-go alone", func(testing.TB) op {
			bh := bulkhead.New[int](permits)
			return func() bool {
				if !bh.TryAcquirePermit() {
					return false
				}
				bh.ReleasePermit()
				return true
			}
		}},
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafe.With[int](bulkhead.New[int](permits))
			return func() bool { return one(ex.Get(noop)) }
		}},
		entrant{"x/sync semaphore", func(testing.TB) op {
			s := semaphore.NewWeighted(permits)
			return func() bool {
				if !s.TryAcquire(1) {
					return false
				}
				s.Release(1)
				return true
			}
		}},
		entrant{"eapache semaphore", func(testing.TB) op { // it has no form that does not wait, and so no timer
			s := eapache.New(permits, time.Second)
			return func() bool {
				if s.Acquire() != nil {
					return false
				}
				s.Release()
				return true
			}
		}},
		entrant{"buffered channel", func(testing.TB) op {
			s := make(chan struct{}, permits)
			return func() bool {
				select {
				case s <- struct{}{}:
				default:
					return false
				}
				<-s
				return true
			}
		}},
	)
}

// tokens is the rate, and the burst: the bucket is never empty.
const tokens = 1_000_000_000

// BenchmarkRateLimit takes a token of a bucket that has one.
func BenchmarkRateLimit(b *testing.B) {
	contest(
		b,
		do0("forseti Do0", policy.RateLimit{Limit: tokens, Burst: tokens}),
		entrant{"x/time AllowN", func(testing.TB) op { // with the clock passed in, as at our bare gate
			l := rate.NewLimiter(tokens, tokens)
			now := time.Now()
			return func() bool { return l.AllowN(now, 1) }
		}},
		entrant{"x/time Allow", func(testing.TB) op {
			l := rate.NewLimiter(tokens, tokens)
			return l.Allow
		}},
		entrant{"failsafe-go alone", func(testing.TB) op {
			l := ratelimiter.NewBursty[int](tokens, time.Second)
			return l.TryAcquirePermit
		}},
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafe.With[int](ratelimiter.NewBursty[int](tokens, time.Second))
			return func() bool { return one(ex.Get(noop)) }
		}},
		entrant{"juju TakeAvailable", func(testing.TB) op {
			l := ratelimit.NewBucketWithQuantum(time.Millisecond, tokens, tokens/1000)
			return func() bool { return l.TakeAvailable(1) == 1 }
		}},
		entrant{"uber Take", func(testing.TB) op { // it spaces calls by 1 ns, and waits instead of refusing
			l := uber.New(tokens)
			return func() bool { return !l.Take().IsZero() }
		}},
	)
}

// BenchmarkAdaptive is a call under an adaptive limit that it does not meet, and the sample that it makes.
func BenchmarkAdaptive(b *testing.B) {
	limiter := func() adaptivelimiter.AdaptiveLimiter[int] {
		return adaptivelimiter.NewBuilder[int]().WithLimits(permits, permits, permits).Build()
	}
	contest(
		b,
		do0("forseti Do0", policy.Adaptive{Min: permits, Max: permits}),
		entrant{"failsafe-go alone", func(testing.TB) op {
			l := limiter()
			return func() bool {
				permit, ok := l.TryAcquirePermit()
				if ok {
					permit.Record()
				}
				return ok
			}
		}},
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafe.With[int](limiter())
			return func() bool { return one(ex.Get(noop)) }
		}},
	)
}

// BenchmarkThrottle is a call at a throttle whose downstream accepts all.
func BenchmarkThrottle(b *testing.B) {
	contest(
		b,
		do0("forseti Do0", policy.Throttle{}),
		entrant{"failsafe-go alone", func(testing.TB) op {
			t := adaptivethrottler.NewWithDefaults[int]()
			return func() bool {
				if !t.TryAcquirePermit() {
					return false
				}
				t.RecordSuccess()
				return true
			}
		}},
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafe.With[int](adaptivethrottler.NewWithDefaults[int]())
			return func() bool { return one(ex.Get(noop)) }
		}},
	)
}
