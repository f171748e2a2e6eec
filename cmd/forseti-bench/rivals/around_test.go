//go:build linux

package rivals

import (
	"context"
	"testing"
	"time"

	avast "github.com/avast/retry-go/v5"
	"github.com/cenkalti/backoff/v5"
	"github.com/eapache/go-resiliency/deadline"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/cachepolicy"
	"github.com/failsafe-go/failsafe-go/fallback"
	"github.com/failsafe-go/failsafe-go/hedgepolicy"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	sethvargo "github.com/sethvargo/go-retry"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// The retries: three attempts, no wait between them.

func forsetiRetry(fn func() (int, error)) entrant {
	return entrant{"forseti Do0", func(tb testing.TB) op {
		p := pipeline(tb, policy.Retry{Attempts: 3, Backoff: policy.Constant(0)})
		return func() bool { return one(runtime.Do0(background, p, fn)) }
	}}
}

func failsafeRetry(fn func() (int, error)) entrant {
	return entrant{"failsafe-go Get", func(testing.TB) op {
		ex := failsafe.With[int](retrypolicy.NewBuilder[int]().WithMaxAttempts(3).Build()) // its default is no wait
		return func() bool { return one(ex.Get(fn)) }
	}}
}

func avastRetry(fn func() (int, error)) entrant {
	return entrant{"avast Do", func(testing.TB) op { // a retrier may be shared, and is made once
		r := avast.NewWithData[int](avast.Attempts(3), avast.Delay(0), avast.DelayType(avast.FixedDelay), avast.LastErrorOnly(true))
		return func() bool { return one(r.Do(fn)) }
	}}
}

func cenkaltiRetry(fn func() (int, error)) entrant {
	return entrant{"cenkalti Retry", func(testing.TB) op { // this back-off has no state, so it can be shared
		opts := []backoff.RetryOption{backoff.WithBackOff(&backoff.ZeroBackOff{}), backoff.WithMaxTries(3)}
		return func() bool { return one(backoff.Retry(background, fn, opts...)) }
	}}
}

// sethvargoRetry makes its back-off anew for each call: the count of retries is in it.
func sethvargoRetry(fn func() (int, error)) entrant {
	return entrant{"sethvargo DoValue", func(testing.TB) op {
		now := sethvargo.BackoffFunc(func() (time.Duration, bool) { return 0, false })
		retryable := func(context.Context) (int, error) {
			v, err := fn()
			if err != nil {
				err = sethvargo.RetryableError(err)
			}
			return v, err
		}
		return func() bool { return one(sethvargo.DoValue(background, sethvargo.WithMaxRetries(2, now), retryable)) }
	}}
}

// BenchmarkRetry is a call that succeeds at once.
func BenchmarkRetry(b *testing.B) {
	contest(b, forsetiRetry(noop), failsafeRetry(noop), avastRetry(noop), cenkaltiRetry(noop), sethvargoRetry(noop))
}

// BenchmarkRetryOnce is a call that fails, and succeeds when it is made again, without a wait.
func BenchmarkRetryOnce(b *testing.B) {
	var n int
	second := func() (int, error) {
		if n++; n%2 == 1 {
			return 0, errBoom
		}
		return 1, nil
	}
	alone(b, forsetiRetry(second), failsafeRetry(second), avastRetry(second), cenkaltiRetry(second), sethvargoRetry(second))
}

// BenchmarkTimeout is a function that takes no context, and ends long before its limit. eapache, and a context around a
// function that does not look at it, have no cheaper form for one.
func BenchmarkTimeout(b *testing.B) {
	contest(
		b,
		do0("forseti Do0", policy.Timeout{Limit: time.Hour}),
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafe.With[int](timeout.New[int](time.Hour))
			return func() bool { return one(ex.Get(noop)) }
		}},
		entrant{"context.WithTimeout", func(testing.TB) op {
			return func() bool {
				_, cancel := context.WithTimeout(background, time.Hour)
				defer cancel()
				return one(noop())
			}
		}},
		entrant{"eapache deadline", func(testing.TB) op {
			d := deadline.New(time.Hour)
			fn := func(<-chan struct{}) error { return nil }
			return func() bool { return d.Run(fn) == nil }
		}},
	)
}

// BenchmarkTimeoutContext is a function that takes a context that ends at the limit, and asks for its Done.
func BenchmarkTimeoutContext(b *testing.B) {
	contest(
		b,
		entrant{"forseti Do", func(tb testing.TB) op {
			p := pipeline(tb, policy.Timeout{Limit: time.Hour})
			return func() bool { return one(runtime.Do(background, p, usesDone)) }
		}},
		entrant{"failsafe-go GetWithExecution", func(testing.TB) op {
			ex := failsafe.With[int](timeout.New[int](time.Hour))
			fn := func(e failsafe.Execution[int]) (int, error) { return usesDone(e.Context()) }
			return func() bool { return one(ex.WithContext(background).GetWithExecution(fn)) }
		}},
		entrant{"context.WithTimeout", func(testing.TB) op {
			return func() bool {
				ctx, cancel := context.WithTimeout(background, time.Hour)
				defer cancel()
				return one(usesDone(ctx))
			}
		}},
	)
}

// BenchmarkFallback is a call that needs none.
func BenchmarkFallback(b *testing.B) {
	contest(
		b,
		do0("forseti Do0", policy.FallbackValue(7)),
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafe.With[int](fallback.NewWithResult(7))
			return func() bool { return one(ex.Get(noop)) }
		}},
	)
}

// BenchmarkFallbackAnswers is a call that fails, and is answered.
func BenchmarkFallbackAnswers(b *testing.B) {
	contest(
		b,
		entrant{"forseti Do0", func(tb testing.TB) op {
			p := pipeline(tb, policy.FallbackValue(7))
			return func() bool {
				v, err := runtime.Do0(background, p, fails)
				return v == 7 && err == nil
			}
		}},
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafe.With[int](fallback.NewWithResult(7))
			return func() bool {
				v, err := ex.Get(fails)
				return v == 7 && err == nil
			}
		}},
	)
}

// BenchmarkHedge is a call that ends long before it would be hedged.
func BenchmarkHedge(b *testing.B) {
	roaming(
		b,
		entrant{"forseti Do", func(tb testing.TB) op {
			p := pipeline(tb, policy.Hedge{Idempotent: true, Delay: time.Hour})
			return func() bool { return one(runtime.Do(background, p, noopContext)) }
		}},
		entrant{"failsafe-go GetWithExecution", func(testing.TB) op {
			ex := failsafe.With[int](hedgepolicy.NewWithDelay[int](time.Hour))
			fn := func(e failsafe.Execution[int]) (int, error) { return noopContext(e.Context()) }
			return func() bool { return one(ex.WithContext(background).GetWithExecution(fn)) }
		}},
	)
}

// shelf makes an LRU cache of what failsafe-go wants of one.
type shelf struct{ *lru.Cache[string, int] }

func (s shelf) Set(key string, v int) { s.Add(key, v) }

// BenchmarkCache is a call whose value is kept.
func BenchmarkCache(b *testing.B) {
	const room = 1024
	notRun := func() (int, error) { return 0, errBoom }
	contest(
		b,
		entrant{"forseti Do0", func(tb testing.TB) op {
			p := pipeline(tb, policy.Cache{Key: func(c messages.Context) string { return c.OrderID }, TTL: time.Hour, Max: room})
			p = p.With(messages.Context{OrderID: "17"})
			_, _ = runtime.Do0(background, p, noop)
			return func() bool { return one(runtime.Do0(background, p, notRun)) }
		}},
		entrant{"failsafe-go Get", func(tb testing.TB) op { // its key is in the policy: the form that needs no context
			kept, err := lru.New[string, int](room)
			if err != nil {
				tb.Fatal(err)
			}
			ex := failsafe.With[int](cachepolicy.NewBuilder[int](shelf{kept}).WithKey("17").Build())
			_, _ = ex.Get(noop)
			return func() bool { return one(ex.Get(notRun)) }
		}},
		entrant{"hashicorp expirable", func(testing.TB) op {
			kept := expirable.NewLRU[string, int](room, nil, time.Hour)
			kept.Add("17", 1)
			return func() bool {
				v, ok := kept.Get("17")
				return ok && v == 1
			}
		}},
		entrant{"hashicorp lru", func(tb testing.TB) op {
			kept, err := lru.New[string, int](room)
			if err != nil {
				tb.Fatal(err)
			}
			kept.Add("17", 1)
			return func() bool {
				v, ok := kept.Get("17")
				return ok && v == 1
			}
		}},
	)
}
