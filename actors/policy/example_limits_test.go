package policy_test

import (
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// A token bucket is one word and arithmetic: it reads no clock.
func ExampleTokenBucket() {
	bucket := policy.RateLimit{Limit: 10, Burst: 2}.WithDefaults().(policy.RateLimit).Bucket()
	var mark int64 // a full bucket
	now := policy.Instant(time.Second)
	for range 4 {
		next, wait := bucket.Take(mark, now)
		fmt.Println(wait == 0, wait)
		mark, now = next, now.Add(wait)
	}
	// Output:
	// true 0s
	// true 0s
	// false 100ms
	// true 0s
}

// The downstream accepted a quarter of what it was asked.
func ExampleThrottleCore() {
	core := policy.NewThrottle(policy.Throttle{}.WithDefaults().(policy.Throttle), nil)
	core.Apply(policy.ThrottleFact{Epoch: 1, Now: 1, Traffic: policy.Traffic{Admitted: 100, Accepted: 25, Failed: 75}})
	fmt.Printf("%.3f of the next calls are refused\n", core.Snapshot().Reject)
	// Output: 0.495 of the next calls are refused
}

func ExampleShed() {
	shed := policy.Shed{Limit: 100}.WithDefaults().(policy.Shed)
	for _, tier := range []messages.Tier{messages.NonEssential, messages.Standard, messages.Critical} {
		fmt.Println(tier, shed.Allowed(tier))
	}
	// Output:
	// non_essential 50
	// standard 80
	// critical 100
}
