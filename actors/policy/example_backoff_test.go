package policy_test

import (
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
)

// Each schedule, with the random number that makes the most of it.
func ExampleBackoff() {
	const ms, most = time.Millisecond, 0.999999999
	for _, b := range []policy.Backoff{
		policy.Constant(100 * ms),
		policy.Constant(100 * ms).WithSpread(0.5),
		policy.Linear(100*ms, 50*ms, 180*ms),
		policy.Exponential(100*ms, 500*ms),
		policy.Exponential(100*ms, 500*ms).WithJitter(policy.EqualJitter),
		policy.Decorrelated(100*ms, time.Second),
	} {
		prev := time.Duration(0)
		fmt.Print(b.Jitter, ":")
		for attempt := 1; attempt <= 4; attempt++ {
			prev = b.Delay(attempt, prev, most)
			fmt.Print(" ", prev.Round(ms))
		}
		fmt.Println()
	}
	// Output:
	// none: 100ms 100ms 100ms 100ms
	// symmetric: 150ms 150ms 150ms 150ms
	// none: 100ms 150ms 180ms 180ms
	// full: 100ms 200ms 400ms 500ms
	// equal: 100ms 200ms 400ms 500ms
	// decorrelated: 100ms 300ms 900ms 1s
}
