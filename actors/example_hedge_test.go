package actors_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
)

// The first call is stuck; the same call is made once more, and answers.
func ExampleDo_hedged() {
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(context.Background()) }()
	p, err := sys.Pipeline("lookup", actors.Spec{Layers: []policy.Config{
		policy.Hedge{Idempotent: true, Delay: 20 * time.Millisecond},
	}})
	if err != nil {
		panic(err)
	}
	var runs atomic.Int32
	r := actors.Try(context.Background(), p, nil, func(ctx context.Context) (string, error) {
		if runs.Add(1) == 1 {
			<-ctx.Done() // stuck, until it has lost
			return "", ctx.Err()
		}
		return "found", nil
	})
	fmt.Println(r.Value, r.Outcome, r.Attempts)
	// Output: found success 2
}
