package policy_test

import (
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
)

// Classify makes a failure of an answer that is no error to Go. The rest of these settings judge the last hundred calls,
// slow ones too, open for longer each time, and come back step by step.
func ExampleBreaker() {
	type answer struct{ status int }
	b := policy.Breaker{
		FailureRate: 0.5, Calls: 100, SlowCall: time.Second, SlowRate: 0.8,
		OpenFor: 5 * time.Second, OpenMax: 5 * time.Minute, OpenJitter: 0.2,
		Probes: 5, ProbeFailureRate: 0.4, Ramp: []float64{0.1, 0.5},
		Classify: func(value any, err error) policy.Class {
			if a, ok := value.(answer); err != nil || ok && a.status >= 500 {
				return policy.Failure
			}
			return policy.Success
		},
	}
	fmt.Println(b.WithDefaults().Validate())
	fmt.Println(b.Classify(answer{503}, nil) == policy.Failure)
	// Output:
	// <nil>
	// true
}
