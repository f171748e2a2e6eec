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

// An operator keeps calls away from a downstream for an hour at most.
func ExamplePipeline_Order() {
	ctx := context.Background()
	sys, _ := actors.NewSystem(actors.Options{})
	defer func() { _ = sys.Close(ctx) }()
	p, _ := sys.Pipeline("charge", actors.Spec{Layers: []policy.Config{policy.Breaker{}}})
	charge := func(context.Context) (string, error) { return "paid", nil }

	_ = p.Order("breaker", policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "their database is restored", By: "ops", TTL: time.Hour})
	_, err := actors.Do(ctx, p, nil, charge)
	fmt.Println(errors.Is(err, messages.ErrBreakerOpen))

	_ = p.Order("breaker", policy.BreakerOrder{Kind: policy.Automatic, Reason: "it is back", By: "ops"})
	v, _ := actors.Do(ctx, p, nil, charge)
	fmt.Println(v)
	// Output:
	// true
	// paid
}
