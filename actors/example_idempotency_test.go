package actors_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// A charge that succeeded is not made again; one that failed is.
func Example_idempotency() {
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(context.Background()) }()
	p, err := sys.Pipeline("charge", actors.Spec{Layers: []policy.Config{policy.Idempotency{}}})
	if err != nil {
		panic(err)
	}
	ctx, key := context.Background(), &messages.Context{IdempotencyKey: "order-17"}
	for n, downstream := range []error{errors.New("no paper"), nil, nil} {
		r := actors.Try(ctx, p, key, func(context.Context) (string, error) { return fmt.Sprint("receipt ", n+1), downstream })
		fmt.Printf("%s after %d attempts: %q\n", r.Outcome, r.Attempts, r.Value)
	}
	// Output:
	// failure after 1 attempts: ""
	// success after 1 attempts: "receipt 2"
	// success after 0 attempts: "receipt 2"
}
