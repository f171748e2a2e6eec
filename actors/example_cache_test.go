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

// A value answers for its TTL, and past that for errors.
func Example_cache() {
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(context.Background()) }()
	p, err := sys.Pipeline("prices", actors.Spec{Layers: []policy.Config{policy.Cache{
		Key:      func(c messages.Context) string { return c.OrderID },
		TTL:      time.Nanosecond, // so that the example need not wait
		StaleFor: time.Hour,
		Collapse: true,
	}}})
	if err != nil {
		panic(err)
	}
	ctx, order := context.Background(), &messages.Context{OrderID: "17"}
	for _, downstream := range []error{nil, errors.New("no answer")} {
		r := actors.Try(ctx, p, order, func(context.Context) (string, error) { return "9.99", downstream })
		fmt.Println(r.Outcome, r.Value, r.Err)
	}
	// Output:
	// success 9.99 <nil>
	// fallback 9.99 no answer
}
