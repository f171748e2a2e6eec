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

// Two pipelines that call one downstream share a budget for their retries: when it is spent, failures come back at once,
// as they are, and marked.
func ExampleSystem_Pipeline_retryBudget() {
	ctx := context.Background()
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(ctx) }()
	budget := policy.RetryBudget{Name: "bank", Ratio: 0.1, MinPerSecond: 0.3, Window: 10 * time.Second} // three in ten seconds
	for _, name := range []string{"charge", "refund"} {
		p, err := sys.Pipeline(name, actors.Spec{Layers: []policy.Config{
			policy.Retry{Attempts: 3, Backoff: policy.Constant(0), Budget: budget},
		}})
		if err != nil {
			panic(err)
		}
		r := actors.Try(ctx, p, nil, func(context.Context) (int, error) { return 0, errors.New("no paper") })
		fmt.Println(name, r.Attempts, r.Err, errors.Is(r.Err, messages.ErrRetryBudget))
	}
	// Output:
	// charge 3 no paper false
	// refund 2 no paper (not retried: retry budget is exhausted) true
}

// A value can be a reason to call again, too.
func ExampleSystem_Pipeline_retryOnResult() {
	ctx := context.Background()
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(ctx) }()
	p, err := sys.Pipeline("poll", actors.Spec{Layers: []policy.Config{policy.Retry{
		Attempts: 5, Backoff: policy.Constant(time.Millisecond),
		OnResult: func(v any) bool { return v == "pending" },
	}}})
	if err != nil {
		panic(err)
	}
	states := []string{"pending", "pending", "paid"}
	v, err := actors.Do(ctx, p, nil, func(context.Context) (string, error) {
		s := states[0]
		states = states[1:]
		return s, nil
	})
	fmt.Println(v, err)
	// Output: paid <nil>
}
