package actors_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// One host fails; calls to the others go on.
func ExamplePipeline_Keys() {
	ctx := context.Background()
	sys, _ := actors.NewSystem(actors.Options{})
	defer func() { _ = sys.Close(ctx) }()
	p, _ := sys.Pipeline("fetch", actors.Spec{Layers: []policy.Config{
		policy.Keyed{Each: policy.Breaker{Consecutive: 2}}, // by the target of the call
	}})
	fetch := func(host string) error {
		_, err := actors.Do(ctx, p, &messages.Context{Target: host}, func(context.Context) (string, error) {
			if host == "a.example.com" {
				return "", errors.New("connection refused")
			}
			return "page", nil
		})
		return err
	}
	for range 3 {
		err := fetch("a.example.com")
		fmt.Println(errors.Is(err, messages.ErrBreakerOpen), fetch("b.example.com"))
	}
	for k := range p.Keys("keyed_breaker") {
		if k.State != "closed" {
			fmt.Println(k.Key, "is open")
		}
	}
	_ = p.Order("keyed_breaker/a.example.com", policy.BreakerOrder{Kind: policy.Reset, Reason: "it is back", By: "ops"})
	s, _ := p.KeyState("keyed_breaker", "a.example.com")
	fmt.Println(s.Key, "is", s.State)
	// Output:
	// false <nil>
	// false <nil>
	// true <nil>
	// a.example.com is open
	// a.example.com is closed
}
