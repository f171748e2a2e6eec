package actors_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func ok(context.Context) (string, error) { return "paid", nil }

// Two at once, then one each hour. Who cannot be served in time is told at once when to come back.
func ExampleDo_rateLimit() {
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(context.Background()) }()
	p, err := sys.Pipeline("charge", actors.Spec{Layers: []policy.Config{
		policy.RateLimit{Limit: 1, Per: time.Hour, Burst: 2, Queue: 10, MaxWait: time.Second},
	}})
	if err != nil {
		panic(err)
	}
	for range 3 {
		v, err := actors.Do(context.Background(), p, nil, ok)
		var refused *messages.RejectedError
		if errors.As(err, &refused) {
			fmt.Println(errors.Is(err, messages.ErrRateLimited), refused.Reason, refused.RetryAfter.Round(time.Minute))
		} else {
			fmt.Println(v)
		}
	}
	// Output:
	// paid
	// paid
	// true wait_too_long 1h0m0s
}

// With half of the places taken, what is not essential is refused, and what is critical is not.
func ExampleDo_shed() {
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(context.Background()) }()
	p, err := sys.Pipeline("charge", actors.Spec{Layers: []policy.Config{policy.Shed{Limit: 2}}})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	inFlight, err := actors.Acquire(ctx, p, nil)
	if err != nil {
		panic(err)
	}
	_, err = actors.Do(ctx, p, &messages.Context{Tier: messages.NonEssential}, ok)
	fmt.Println(err)
	fmt.Println(actors.Do(ctx, p, &messages.Context{Tier: messages.Critical}, ok))
	inFlight.Done(nil)
	// Output:
	// rejected by shed: non_essential
	// paid <nil>
}
