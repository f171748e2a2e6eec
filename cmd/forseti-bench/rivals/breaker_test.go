//go:build linux

package rivals

import (
	"context"
	"testing"
	"time"

	"github.com/cep21/circuit/v3"
	"github.com/cep21/circuit/v3/closers/hystrix"
	eapache "github.com/eapache/go-resiliency/breaker"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
)

// The breakers: 10 s in ten buckets, half of at least minCalls calls.

func failsafeBuilder(minCalls uint) circuitbreaker.Builder[int] {
	return circuitbreaker.NewBuilder[int]().WithFailureRateThreshold(0.5, minCalls, 10*time.Second).WithDelay(time.Hour)
}

func failsafeBreaker(minCalls uint) circuitbreaker.CircuitBreaker[int] {
	return failsafeBuilder(minCalls).Build()
}

// gobreakerSettings has a BucketPeriod: without one, gobreaker forgets all it counted at the end of each interval.
func gobreakerSettings(minCalls uint32) gobreaker.Settings {
	return gobreaker.Settings{
		Interval: 10 * time.Second, BucketPeriod: time.Second, Timeout: time.Hour,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.Requests >= minCalls && float64(c.TotalFailures) >= 0.5*float64(c.Requests)
		},
	}
}

// cep21Circuit has neither its timeout nor its limit of concurrent calls: the breaker alone is measured.
func cep21Circuit(minCalls int64) *circuit.Circuit {
	return circuit.NewCircuitFromConfig("c", circuit.Config{
		General: circuit.GeneralConfig{
			ClosedToOpenFactory: hystrix.OpenerFactory(hystrix.ConfigureOpener{
				ErrorThresholdPercentage: 50, RequestVolumeThreshold: minCalls, NumBuckets: 10, RollingDuration: 10 * time.Second,
			}),
			OpenToClosedFactory: hystrix.CloserFactory(hystrix.ConfigureCloser{SleepWindow: time.Hour}),
		},
		Execution: circuit.ExecutionConfig{Timeout: -1, MaxConcurrentRequests: -1},
	})
}

// eapacheBreaker counts failures only, each until there was none for a while: it has no window and no rate, and its
// success path looks at one word.
func eapacheBreaker() *eapache.Breaker { return eapache.New(10, 1, time.Hour) }

// BenchmarkBreakerClosed is a call that succeeds.
func BenchmarkBreakerClosed(b *testing.B) {
	contest(
		b,
		do0("forseti Do0", policy.Breaker{}),
		entrant{"forseti Acquire", func(tb testing.TB) op {
			p := pipeline(tb, policy.Breaker{})
			return func() bool {
				permit, err := p.Acquire(background)
				permit.Done(nil)
				return err == nil
			}
		}},
		entrant{"failsafe-go alone", func(testing.TB) op {
			cb := failsafeBreaker(20)
			return func() bool {
				if !cb.TryAcquirePermit() {
					return false
				}
				cb.RecordSuccess()
				return true
			}
		}},
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafe.With[int](failsafeBreaker(20))
			return func() bool { return one(ex.Get(noop)) }
		}},
		entrant{"gobreaker Allow", func(testing.TB) op {
			cb := gobreaker.NewTwoStepCircuitBreaker[int](gobreakerSettings(20))
			return func() bool {
				done, err := cb.Allow()
				if err != nil {
					return false
				}
				done(nil)
				return true
			}
		}},
		entrant{"gobreaker Execute", func(testing.TB) op {
			cb := gobreaker.NewCircuitBreaker[int](gobreakerSettings(20))
			return func() bool { return one(cb.Execute(noop)) }
		}},
		entrant{"cep21 Run", func(testing.TB) op {
			c := cep21Circuit(20)
			fn := func(context.Context) error { return nil }
			return func() bool { return c.Run(background, fn) == nil }
		}},
		entrant{"eapache Run", func(testing.TB) op {
			cb := eapacheBreaker()
			return func() bool { return cb.Run(noopError) == nil }
		}},
	)
}

// BenchmarkBreakerOpen is a call that an open breaker refuses.
func BenchmarkBreakerOpen(b *testing.B) {
	failing := func(context.Context) error { return errBoom }
	contest(
		b,
		entrant{"forseti Do0", func(tb testing.TB) op {
			p := pipeline(tb, policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
			_, _ = runtime.Do0(background, p, fails)
			return func() bool {
				_, err := runtime.Do0(background, p, noop)
				return err != nil
			}
		}},
		entrant{"failsafe-go alone", func(testing.TB) op {
			cb := failsafeBreaker(20)
			cb.Open()
			return func() bool { return !cb.TryAcquirePermit() }
		}},
		entrant{"failsafe-go Get", func(testing.TB) op {
			cb := failsafeBreaker(20)
			cb.Open()
			ex := failsafe.With[int](cb)
			return func() bool {
				_, err := ex.Get(noop)
				return err != nil
			}
		}},
		entrant{"gobreaker Allow", func(tb testing.TB) op {
			cb := gobreaker.NewTwoStepCircuitBreaker[int](gobreakerSettings(1))
			done, err := cb.Allow()
			require.NoError(tb, err)
			done(errBoom)
			return func() bool {
				_, err := cb.Allow()
				return err != nil
			}
		}},
		entrant{"gobreaker Execute", func(testing.TB) op {
			cb := gobreaker.NewCircuitBreaker[int](gobreakerSettings(1))
			_, _ = cb.Execute(fails)
			return func() bool {
				_, err := cb.Execute(noop)
				return err != nil
			}
		}},
		entrant{"cep21 Run", func(testing.TB) op {
			c := cep21Circuit(1)
			_ = c.Run(background, failing)
			fn := func(context.Context) error { return nil }
			return func() bool { return c.Run(background, fn) != nil }
		}},
		entrant{"eapache Run", func(testing.TB) op {
			cb := eapache.New(1, 1, time.Hour)
			_ = cb.Run(func() error { return errBoom })
			return func() bool { return cb.Run(noopError) != nil }
		}},
	)
}

// BenchmarkBreakerFailure is a call that fails, at a breaker that does not open yet.
func BenchmarkBreakerFailure(b *testing.B) {
	contest(
		b,
		entrant{"forseti Do0", func(tb testing.TB) op {
			p := pipeline(tb, policy.Breaker{MinCalls: 1 << 40})
			return func() bool {
				_, err := runtime.Do0(background, p, fails)
				return err == errBoom
			}
		}},
		entrant{"failsafe-go alone", func(testing.TB) op {
			cb := failsafeBreaker(1 << 40)
			return func() bool {
				if !cb.TryAcquirePermit() {
					return false
				}
				cb.RecordFailure()
				return true
			}
		}},
		entrant{"failsafe-go Get", func(testing.TB) op {
			ex := failsafe.With[int](failsafeBreaker(1 << 40))
			return func() bool {
				_, err := ex.Get(fails)
				return err == errBoom
			}
		}},
		entrant{"gobreaker Allow", func(testing.TB) op {
			cb := gobreaker.NewTwoStepCircuitBreaker[int](gobreakerSettings(1 << 31))
			return func() bool {
				done, err := cb.Allow()
				if err != nil {
					return false
				}
				done(errBoom)
				return true
			}
		}},
		entrant{"cep21 Run", func(testing.TB) op {
			c := cep21Circuit(1 << 40)
			fn := func(context.Context) error { return errBoom }
			return func() bool { return c.Run(background, fn) == errBoom }
		}},
	)
}
