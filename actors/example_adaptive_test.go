package actors_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// An adaptive limit stands where a bulkhead would. It begins at Initial, and goes where latency leads it.
func ExamplePipeline_Limit() {
	ctx := context.Background()
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(ctx) }()
	p, err := sys.Pipeline("search", actors.Spec{Layers: []policy.Config{policy.Adaptive{Initial: 1, Max: 50}}})
	if err != nil {
		panic(err)
	}
	_, err = actors.Do(ctx, p, nil, func(ctx context.Context) (int, error) {
		_, err := actors.Do(ctx, p, nil, func(context.Context) (int, error) { return 2, nil }) // one at a time, so far
		fmt.Println(err, errors.Is(err, messages.ErrOverloaded))
		return 1, nil
	})
	limit, _ := p.Limit("adaptive")
	fmt.Println(err, limit)
	// Output:
	// rejected by adaptive: full true
	// <nil> 1
}
