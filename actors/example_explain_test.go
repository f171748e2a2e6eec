package actors_test

import (
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
)

func ExampleExplain() {
	fmt.Println(actors.Explain("charge", actors.Spec{
		Guards: []actors.Guard{actors.KillSwitch()},
		Layers: []policy.Config{
			policy.Timeout{Limit: 3 * time.Second},
			policy.AttemptTimeout{Limit: 800 * time.Millisecond},
			policy.Retry{Attempts: 4, Backoff: policy.Exponential(50*time.Millisecond, 2*time.Second)},
			policy.Bulkhead{Permits: 32, Queue: 64},
		},
		Hooks: []actors.Hook{{Name: "audit", OnEnd: func(actors.Moment) {}}},
	}))
	// Output:
	// charge
	//   ├ guard kill_switch
	//   └ timeout            limit 3s
	//     └ attempt_timeout  limit 800ms
	//       └ retry          attempts 4, backoff 50ms x2 up to 2s, full jitter
	//         └ bulkhead     permits 32, queue 64
	//           └ the function
	//   hooks     audit
	//   intake    256 asynchronous calls and tasks at once
	//   warning   attempt-timeout-outside-retry: the limit of attempt_timeout is for all attempts of
	//             retry together; put attempt_timeout inside retry, or make it a Timeout
}
