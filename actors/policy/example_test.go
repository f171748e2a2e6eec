package policy_test

import (
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
)

// A core is told facts and asked for its decision; it reads no clock.
func ExampleBreakerCore() {
	cfg := policy.Breaker{Consecutive: 2, OpenFor: time.Second}.WithDefaults().(policy.Breaker)
	core := policy.NewBreaker(cfg, nil)
	for at := policy.Instant(1); at <= 2; at++ {
		core.Apply(policy.BreakerFact{Kind: policy.CallFailed, Epoch: core.Snapshot().Epoch, Now: at})
	}
	fmt.Println(core.Snapshot().State)
	later := policy.Instant(2).Add(time.Second)
	core.Apply(policy.BreakerFact{Kind: policy.Ticked, Epoch: core.Snapshot().Epoch, Now: later})
	fmt.Println(core.Snapshot().State)
	// Output:
	// open
	// half_open
}

func ExampleBackoff_Delay() {
	b := policy.Backoff{Base: 100 * time.Millisecond, Max: time.Second, Factor: 2}
	fmt.Println(b.Delay(1, 0, 0), b.Delay(2, 0, 0), b.Delay(3, 0, 0), b.Delay(9, 0, 0))
	// Output: 100ms 200ms 400ms 1s
}
